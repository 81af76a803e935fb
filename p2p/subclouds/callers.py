"""Owns who may send jobs to a subcloud: the rules of its policy against one caller. Pure.

Theory of operation. A caller is who pays: an API key of a namespace of an account, perhaps with a
token, from some network. The source networks of a policy bound everybody; then one of its lists
must name the caller, or `anyone` is said, or a token lets it in. The ledger judges inside the
transaction of each hold, where it knows whose key it is; a gateway may ask earlier, to refuse
sooner. Nobody else learns who calls: a voucher for a subcloud's terms says that somebody may.
"""

from __future__ import annotations

from collections.abc import Collection

from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.tokens import CallerToken, token_allows
from p2p.types import AccountId


def check_caller(
    policy: SubcloudPolicy,
    account_id: AccountId,
    namespace: str,
    key_id: str,
    token: CallerToken | None = None,
    network: str = "",
) -> str | None:
    """Tell whether a caller may send jobs to a subcloud.

    Args:
        namespace: its name within the account.
        token: one that a delegate signed, that has not expired and was not revoked
            (`p2p.subclouds.tokens.open_token`); how often it was used is for the ledger to count.
        network: in which of the policy's source networks the client is; empty: in none.
    Returns: None if it may, else the reason for people.
    """
    rules, name = policy.callers, policy.subcloud_id
    if rules.source_networks and network not in rules.source_networks:
        return f"the subcloud {name} is open to callers from its own source networks only"
    if _is_named(policy, account_id, namespace, key_id):
        return None
    if token is None:
        how = ": it needs a token" if rules.tokens else ""
        return f"the subcloud {name} does not let this caller in{how}"
    if not rules.tokens or token.subcloud_id != policy.subcloud_id:
        return f"this token does not open the subcloud {name}"
    if not token_allows(token, account_id, namespace):
        return "this token is for jobs that another account or namespace pays"
    return None


def _is_named(policy: SubcloudPolicy, account_id: AccountId, namespace: str, key_id: str) -> bool:
    rules = policy.callers
    named: tuple[tuple[str, Collection[str]], ...] = (
        (account_id, rules.accounts),
        (f"{account_id}/{namespace}", rules.namespaces),
        (key_id, rules.keys),
    )
    return rules.anyone or any(name in names for name, names in named)
