"""Owns what a bootstrap finds out about a job's subcloud and its gateway before the ledger decides.

What can be said without the API key is refused here: a subcloud that is closed or unknown, a
gateway that its policy does not admit, a token that no delegate signed or that was taken back.
Whether the key's owner may call is judged inside the transaction (`ledger.subcloud_rules`).
"""

from __future__ import annotations

from ledger.hold_context import NO_CONTEXT, HoldContext
from ledger.subcloud_errors import ForeignNamespaceError
from p2p.allowed_terms import AllowedJob, AllowedTerms
from p2p.certificates import Certificate
from p2p.errors import MalformedError, RefusedError, StaleError, UntrustedError
from p2p.signing import Signed
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.tokens import CallerToken, open_token, token_is_revoked
from p2p.types import AccountId


def context_of(
    gateway: Certificate,
    job: AllowedJob,
    terms: AllowedTerms,
    now_ms: int,
    shown: Signed | None = None,
) -> HoldContext:
    """Give what a hold or lease of this gateway is judged by.

    Args: shown: the token that its request carries, if any.
    Raises: RefusedError `gateway_not_admitted`, `caller_token`.
    """
    private = gateway.own_namespaces_only
    if job.known is None:
        if shown is not None:
            raise RefusedError("caller_token", "a token is for a subcloud, this job names none")
        return HoldContext(own_namespaces_only=True) if private else NO_CONTEXT
    policy = job.known.policy
    if not policy.admits_gateway(gateway.peer_id, gateway.account_id):
        raise RefusedError(
            "gateway_not_admitted",
            f"the subcloud {policy.subcloud_id} takes no jobs from this gateway",
        )
    token = None if shown is None else _opened(shown, policy, terms, now_ms)
    return HoldContext(AccountId(policy.owner), policy, token, private)


def require_own_account(gateway: Certificate, account_id: AccountId) -> None:
    """Refuse to show a gateway that serves its own account's namespaces somebody else's.

    Raises: ForeignNamespaceError.
    """
    if gateway.own_namespaces_only and gateway.account_id != account_id:
        raise ForeignNamespaceError("this gateway serves its own account's namespaces only")


def _opened(shown: Signed, policy: SubcloudPolicy, terms: AllowedTerms, now_ms: int) -> CallerToken:
    try:
        token = open_token(shown, policy, now_ms)
    except (UntrustedError, StaleError, MalformedError) as error:
        raise RefusedError("caller_token", f"this token does not do: {error}") from error
    policies = terms.policies
    if policies is None or token_is_revoked(token, policies.revocations(policy.identity)):
        raise RefusedError("caller_token", "this token was taken back")
    return token
