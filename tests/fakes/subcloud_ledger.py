"""Owns a subcloud for ledger tests: its owner, its delegate, its policies, its callers' tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledger.hold_context import HoldContext
from p2p.network_configuration import NetworkConfiguration
from p2p.prices import BASIS_POINTS, PriceTerms
from p2p.signing import Signed
from p2p.subclouds.identity import SubcloudId, subcloud_id
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.policy import SubcloudPolicy, policy_digest, sign_policy
from p2p.subclouds.records import AccountProof, KnownPolicy, PolicyRecord, verify_record
from p2p.subclouds.terms import model_in_subcloud, subcloud_terms
from p2p.subclouds.tokens import CallerToken
from tests.fakes.ledger_world import NETWORK, START_MS, TERMS, World, key_pair

OWNER = World().tenant(80, "own")
DELEGATE = key_pair(81)
SUBCLOUD = subcloud_id(NETWORK, OWNER.account_id, "team")
OWNER_FEE = 1_500
YEAR_MS = 365 * 86_400_000

SHARED_TERMS = replace(
    TERMS, subcloud_id=SUBCLOUD, policy_digest=bytes(32), owner_fee_basis_points=OWNER_FEE
)
"""The prices of `TERMS`, in a subcloud whose owner gets 15 %."""
SHARED = HoldContext(OWNER.account_id)
"""A context without a policy: anybody may call."""


def owners_part(charged: int) -> int:
    """What the owner gets of one charge."""
    return charged * OWNER_FEE // BASIS_POINTS


def a_policy(version: int = 1, predecessor: str | None = None, **fields: Any) -> SubcloudPolicy:
    """A policy of the subcloud that lets anybody call and gives its owner 15 %."""
    content: dict[str, Any] = {
        "network_id": NETWORK,
        "subcloud_id": SUBCLOUD,
        "version": version,
        "predecessor_digest": predecessor,
        "issued_ms": START_MS,
        "expires_ms": START_MS + YEAR_MS,
        "owner": OWNER.account_id,
        "callers": {"anyone": True},
        "price": {"owner_fee_basis_points": OWNER_FEE},
        "delegate_keys": (DELEGATE.public_key.hex(),),
    }
    return SubcloudPolicy.model_validate(content | fields)


def a_record(policy: SubcloudPolicy) -> PolicyRecord:
    """A policy as its owner publishes it."""
    proof = AccountProof(OWNER.founding.signed)
    return PolicyRecord(sign_policy(OWNER.keys, policy), (), (proof,))


def a_known(policy: SubcloudPolicy) -> KnownPolicy:
    """A policy that was verified."""
    return verify_record(a_record(policy), NETWORK)


def digest_of(policy: SubcloudPolicy) -> str:
    """A policy's digest."""
    return policy_digest(sign_policy(OWNER.keys, policy))


def terms_in(
    configuration: NetworkConfiguration, policy: SubcloudPolicy, model: str = "tiny-chat"
) -> PriceTerms:
    """The terms of a model under a policy."""
    found = model_in_subcloud(configuration, policy, model)
    assert found is not None
    return subcloud_terms(configuration, policy, digest_of(policy), found)


def a_token(number: int = 1, signer: Any = DELEGATE, **fields: Any) -> Signed:
    """A caller's token."""
    return signer.sign(NETWORK, open_one(number, **fields))


def open_one(number: int = 1, **fields: Any) -> CallerToken:
    """A caller's token as it is read."""
    content: dict[str, Any] = {
        "token_id": number.to_bytes(16, "big"),
        "subcloud_id": SUBCLOUD,
        "issued_ms": START_MS,
        "expires_ms": START_MS + 10**9,
    }
    return CallerToken(**content | fields)


class Policies:
    """Known policies by hand (`p2p.allowed_terms.Policies`)."""

    def __init__(self, policy: SubcloudPolicy | None = None) -> None:
        self.known = a_known(policy) if policy is not None else None
        self.before: KnownPolicy | None = None
        self.list: RevocationList | None = None

    def change(self, policy: SubcloudPolicy) -> None:
        """Put another version in force; the one before is in its grace."""
        self.before, self.known = self.known, a_known(policy)

    def get(self, identity: SubcloudId) -> KnownPolicy | None:
        return self.known if identity == SUBCLOUD else None

    def previous(self, identity: SubcloudId, now_ms: int) -> KnownPolicy | None:
        return self.before if identity == SUBCLOUD else None

    def revocations(self, identity: SubcloudId) -> RevocationList | None:
        return self.list if identity == SUBCLOUD else None
