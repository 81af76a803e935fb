"""Owns what a hold or lease is judged by beside its key: the subcloud, and what its gateway may.
Pure.

Theory of operation. A bootstrap makes this from what it knew at that moment: the policy that the
terms name, the token that the client showed (opened, from a delegate, not revoked), and whose
gateway asks. The rules judge it inside the transaction, where the key says who pays
(`ledger.subcloud_rules`). An audit knows neither policies nor delegates of that time: it takes the
owner's account from the hold (the log's leaf covers it) and counts tokens again, as it takes fees
and bounds of the moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.accounts import NO_OWNER
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.tokens import CallerToken
from p2p.types import AccountId


@dataclass(frozen=True, slots=True)
class HoldContext:
    """What a bootstrap knew when a gateway asked for credit.

    `owner_account`: of the job's subcloud; empty in the global pool. `policy` None: there is none
    to judge by (the global pool, an audit). `own_namespaces_only`: the gateway serves its account's
    namespaces and no others.
    """

    owner_account: AccountId = NO_OWNER
    policy: SubcloudPolicy | None = None
    token: CallerToken | None = None
    own_namespaces_only: bool = False


NO_CONTEXT = HoldContext()


def token_name(token: CallerToken) -> str:
    """Name a token in the ledger: its ID is unique within its subcloud."""
    return f"{token.subcloud_id}/{token.token_id.hex()}"
