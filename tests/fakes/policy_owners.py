"""Owns accounts that publish policies, for tests: their records with proofs, key changes, lists."""

from __future__ import annotations

from typing import Any

from ledger.operations import ChangeAccountKeys, FoundAccount
from p2p.account_proof import AccountProof
from p2p.signing import KeyPair, Signed
from p2p.subclouds.identity import SubcloudId, subcloud_id
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.policy import Handover, SubcloudPolicy, policy_digest, sign_policy
from p2p.subclouds.records import PolicyRecord
from p2p.types import AccountId, PeerId
from tests.fakes.account_world import key_change
from tests.fakes.ledger_world import NETWORK, START_MS, World, key_pair

DELEGATE = key_pair(7001)
YEAR_MS = 365 * 86_400_000


class PolicyOwner:
    """An account that owns subclouds. `key` signs; `changes` are its key changes."""

    def __init__(self, number: int = 0) -> None:
        self.world = World()
        self.tenant = self.world.tenant(number)
        self.key: KeyPair = self.tenant.keys
        self.changes: list[ChangeAccountKeys] = []

    @property
    def founding(self) -> FoundAccount:
        return self.tenant.founding

    @property
    def account_id(self) -> AccountId:
        return self.tenant.account_id

    def proof(self, length: int | None = None) -> AccountProof:
        """The proof of the account's keys, or of its first changes only."""
        changes = tuple(change.signed for change in self.changes[:length])
        return AccountProof(self.tenant.founding.signed, changes)

    def replace_key(self, number: int = 1) -> ChangeAccountKeys:
        """Remove the signing key; another one signs from now on."""
        fresh = key_pair(8000 + 10 * number + int(self.tenant.keys.public_key[0]))
        change = key_change(
            self.world,
            self.tenant,
            len(self.changes) + 1,
            added=(fresh,),
            removed=(self.key,),
            signer=self.key,
        )
        self.changes.append(change)
        self.key = fresh
        return change

    def identity(self, label: str = "team") -> SubcloudId:
        return subcloud_id(NETWORK, self.account_id, label)

    def record(
        self,
        label: str = "team",
        after: PolicyRecord | None = None,
        *,
        signer: KeyPair | None = None,
        proof: AccountProof | None = None,
        **fields: Any,
    ) -> PolicyRecord:
        """Sign a policy: version 1, or the one after a record."""
        content: dict[str, Any] = {
            "network_id": NETWORK,
            "subcloud_id": self.identity(label),
            "version": 1,
            "issued_ms": START_MS,
            "expires_ms": START_MS + YEAR_MS,
            "owner": self.account_id,
        }
        handovers: tuple[Signed, ...] = ()
        givers: tuple[AccountProof, ...] = ()
        if after is not None:
            before = SubcloudPolicy.model_validate_json(after.policy.body)
            content["version"] = before.version + 1
            content["predecessor_digest"] = policy_digest(after.policy)
            content["subcloud_id"] = before.subcloud_id
            handovers, givers = after.handovers, after.accounts[1:]
        if fields.get("join", "open") != "open":
            content["delegate_keys"] = (DELEGATE.public_key.hex(),)
        policy = SubcloudPolicy.model_validate(content | fields)
        signed = sign_policy(signer or self.key, policy)
        return PolicyRecord(signed, handovers, (proof or self.proof(), *givers))

    def handed_over(
        self, before: PolicyRecord, taker: PolicyOwner, *, signer: KeyPair | None = None
    ) -> PolicyRecord:
        """Give a subcloud away: the taker's first version after a record."""
        identity = SubcloudPolicy.model_validate_json(before.policy.body).identity
        handover = Handover(
            identity, len(before.handovers) + 1, self.account_id, taker.account_id, START_MS
        )
        signed = (signer or self.key).sign(NETWORK, handover)
        bare = taker.record(after=before)
        return PolicyRecord(
            bare.policy,
            (*before.handovers, signed),
            (taker.proof(), self.proof(), *before.accounts[1:]),
        )


def revocation_list(
    identity: SubcloudId,
    number: int,
    *banned: PeerId,
    signer: KeyPair = DELEGATE,
    issued_ms: int = START_MS,
) -> Signed:
    """Sign a revocation list."""
    return signer.sign(NETWORK, RevocationList(identity, number, issued_ms, banned))
