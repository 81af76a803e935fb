"""Owns the record of a policy: everything that a stranger needs to believe it. Pure.

Theory of operation. A record holds the signed policy, the handovers from the founder to its owner,
and the proof of every account that signed one of them. It verifies by itself, whoever hands it on:
the subcloud's ID commits to the founder, each handover is signed by who gave, the policy by a key
that the owner has after the last key change in the record. Who knows a longer proof of the owner's
keys refuses the record (`proof_length`): a removed key must not sign for late comers. After a key
was removed the owner therefore publishes the same policy again, signed by a key that is left; its
digest is that of its content, so it is the same version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

from p2p.account_proof import AccountProof as AccountProof
from p2p.account_proof import ProvenAccount, prove_account
from p2p.codec import Limit, Message, message
from p2p.errors import UntrustedError
from p2p.limits import TOPIC_SHARDS
from p2p.signing import Signed, open_signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.policy import (
    HANDOVERS_MAX,
    Handover,
    SubcloudPolicy,
    check_owner,
    open_policy,
    policy_digest,
)
from p2p.types import AccountId, NetworkId


@message(190)
@dataclass(frozen=True, slots=True)
class PolicyRecord(Message):
    """A policy as it is handed on. `accounts`: the owner first, then whoever gave in a handover."""

    policy: Signed
    handovers: Annotated[tuple[Signed, ...], Limit(HANDOVERS_MAX)]
    accounts: Annotated[tuple[AccountProof, ...], Limit(HANDOVERS_MAX + 1, 1)]


@dataclass(frozen=True, slots=True)
class KnownPolicy:
    """A record that was verified."""

    policy: SubcloudPolicy
    digest: str
    """SHA-256 of the canonical JSON, in hex."""
    owner: ProvenAccount
    record: PolicyRecord

    @property
    def identity(self) -> SubcloudId:
        """Which subcloud."""
        return self.policy.identity


def verify_record(record: PolicyRecord, network: NetworkId) -> KnownPolicy:
    """Check a record by itself: signatures, accounts, handovers, owner.

    Raises: UntrustedError, WrongNetworkError, MalformedError.
    """
    policy = open_policy(record.policy, network)
    proven = [prove_account(proof.founding, proof.changes, network) for proof in record.accounts]
    accounts = {account.account_id: account for account in proven}
    owner = proven[0]
    if owner.account_id != policy.owner or record.policy.signer not in owner.signing_keys:
        raise UntrustedError("a policy that is not signed by a key of its owner's account")
    handovers = [_open_handover(signed, accounts, network) for signed in record.handovers]
    check_owner(policy, handovers)
    return KnownPolicy(policy, policy_digest(record.policy), owner, record)


def _open_handover(
    signed: Signed, accounts: dict[AccountId, ProvenAccount], network: NetworkId
) -> Handover:
    handover = open_signed(signed, Handover, network)
    giver = accounts.get(handover.giver)
    if giver is None or signed.signer not in giver.signing_keys:
        raise UntrustedError("a handover that is not signed by a key of the account that gives")
    return handover


def subcloud_topic(identity: SubcloudId) -> str:
    """Give the topic shard that carries a subcloud's policies and revocation lists."""
    digest = hashlib.sha256(identity.encode()).digest()
    return f"subclouds/{int.from_bytes(digest[:4], 'big') % TOPIC_SHARDS}"


def all_subcloud_topics() -> tuple[str, ...]:
    """All topic shards."""
    return tuple(f"subclouds/{shard}" for shard in range(TOPIC_SHARDS))


def policy_key(identity: SubcloudId) -> bytes:
    """The DHT key of a subcloud's policy record (42 bytes)."""
    return b"subcloud/" + hashlib.sha256(identity.encode()).digest()
