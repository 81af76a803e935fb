"""Owns how a bootstrap takes a policy or a revocation list: what it checks, and in which order.

Theory of operation. A record verifies by itself; a bootstrap knows more than that: which keys the
owner's account has now, whether the authority lets the subcloud be created, what it has seen
before. It judges, writes to the database (where another bootstrap may have been first), and only
then takes the record into its book; what is answered is durable. One at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from bootstrap.limits import SUBCLOUDS_FOUNDED_PER_OWNER_AND_DAY_MAX
from bootstrap.subclouds.registry import SubcloudRegistry
from ledger.ledger import Ledger
from ledger.store.directory_store import (
    NewPolicy,
    add_evidence,
    founded_since,
    put_policy,
    put_revocations,
)
from ledger.store.queries import account_view
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError
from p2p.signing import Signed
from p2p.subclouds.creation import creation_refusal, may_take_name, subcloud_refusal
from p2p.subclouds.identity import SubcloudId, label_of
from p2p.subclouds.policy import Handover
from p2p.subclouds.policy_evidence import FOREIGN, PolicyEvidence
from p2p.subclouds.records import KnownPolicy, PolicyRecord
from p2p.types import AccountId

log = logging.getLogger(__name__)
DAY_MS = 86_400_000
Charge = Callable[[SubcloudId], None]
"""Counts a change of a subcloud. Raises: RefusedError (it is changed too often)."""
HasStake = Callable[[SubcloudId, int], Awaitable[bool]]
"""Whether that many microcredits are set aside for a subcloud."""


def free(identity: SubcloudId) -> None:
    """Count nothing."""


async def no_stakes(identity: SubcloudId, microcredits: int) -> bool:
    """No stake was ever set aside."""
    return False


class Publisher:
    """Takes records into one bootstrap's directory."""

    def __init__(
        self,
        registry: SubcloudRegistry,
        ledger: Ledger,
        clock_ms: Clock,
        has_stake: HasStake = no_stakes,
    ) -> None:
        """Write to the ledger's database; whose keys are whose is asked of the ledger."""
        self._registry = registry
        self._ledger = ledger
        self._clock_ms = clock_ms
        self._has_stake = has_stake
        self._one_at_a_time = trio.Lock()
        self._evidence_kept: set[str] = set()

    async def take(
        self, record: PolicyRecord, source: str, charge: Charge = free
    ) -> KnownPolicy | None:
        """Take a policy. Returns: what is new in the book; None if all of it was known.

        `charge` counts what verified and is news of a known subcloud, nothing else: junk and old
        versions, which anybody can send, must not use up what the owner may change.
        Raises: RefusedError (`subcloud_banned`, `subcloud_creation`, `owner_unknown`, `owner_key`,
            `owner_proof`, `too_many_subclouds`), UntrustedError (ForkError, StaleError),
            MalformedError, StorageError.
        """
        async with self._one_at_a_time:
            try:
                known = self._registry.book.examine(record, source)
                if known is None:
                    return None
                await self._check(known, source)
                if self._registry.book.get(known.identity) is not None:
                    charge(known.identity)
                in_its_way = await self._store(known)
                if in_its_way:
                    # Another bootstrap on this database was first: then it is judged against that.
                    self._registry.book.offer(decode_message(in_its_way, PolicyRecord))
                    known = self._registry.book.examine(record, source)
                    return None
            finally:
                await self._keep_evidence()
            self._registry.book.offer(record, source)
            await self._registry.learn_name(known.identity)
            # Also where only the proof of the owner's keys is longer: peers shall have that.
            self._registry.changed(known.identity)
            return known

    async def take_revocations(
        self, signed: Signed, source: str, charge: Charge = free
    ) -> SubcloudId | None:
        """Take a revocation list. Returns: whose, if it is new. `charge`: as in `take`.

        Raises: as `PolicyBook.offer_revocations`, StorageError.
        """
        async with self._one_at_a_time:
            try:
                new = self._registry.book.examine_revocations(signed, source)
                if new is None:
                    return None
                charge(new.subcloud_id)
                self._registry.book.offer_revocations(signed, source)
            finally:
                await self._keep_evidence()
            identity = new.subcloud_id
            content = encode_message(signed)
            await self._ledger.change_beside(lambda c: put_revocations(c, identity, content))
            return identity

    # --- checks -----------------------------------------------------------------------------------
    async def _check(self, known: KnownPolicy, source: str) -> None:
        rules, identity = self._registry.rules, known.identity
        if refusal := subcloud_refusal(rules, identity):
            raise RefusedError("subcloud_banned", refusal)
        owner = known.owner
        await self._check_key(owner.account_id, known.record.policy.signer, owner.length, known)
        present = self._registry.book.get(identity)
        handed_before = len(present.record.handovers) if present is not None else 0
        for signed in known.record.handovers[handed_before:]:
            giver = decode_message(signed.body, Handover).giver
            await self._check_key(giver, signed.signer, None, known)
        if present is not None:
            return
        staked = rules.creation == "stake" and await self._has_stake(
            identity, rules.stake_microcredits
        )
        if refusal := creation_refusal(rules, identity, staked=staked):
            raise RefusedError("subcloud_creation", refusal)
        since_ms = self._clock_ms() - DAY_MS
        founded = await self._ledger.read(lambda c: founded_since(c, owner.account_id, since_ms))
        if founded >= SUBCLOUDS_FOUNDED_PER_OWNER_AND_DAY_MAX:
            raise RefusedError(
                "too_many_subclouds",
                f"an account founds at most {founded} subclouds in a day",
                3600,
            )

    async def _check_key(
        self, account_id: AccountId, key: bytes, length: int | None, known: KnownPolicy
    ) -> None:
        """See that the ledger has an account, that a key is its own now, and the proof complete."""
        account = await self._ledger.read(lambda c: account_view(c, account_id))
        if account is None:
            raise RefusedError("owner_unknown", f"the ledger has no account {account_id}")
        if key not in account.signing_keys:
            self._registry.book.keep(
                PolicyEvidence(
                    FOREIGN,
                    known.identity,
                    self._clock_ms(),
                    known.record.policy,
                    handovers=known.record.handovers,
                    accounts=known.record.accounts,
                )
            )
            raise RefusedError(
                "owner_key", f"this is signed by a key that {account_id} does not have now"
            )
        if length is not None and length < account.key_changes:
            raise RefusedError(
                "owner_proof",
                "the record lacks the last change of the owner's keys: make it again, it is then "
                "the same version",
            )

    async def _store(self, known: KnownPolicy) -> bytes:
        identity = known.identity
        asks_for_name = may_take_name(self._registry.rules, identity)
        new = NewPolicy(
            identity,
            known.policy.owner,
            known.policy.version,
            known.digest,
            encode_message(known.record),
            label_of(identity) if asks_for_name else "",
        )
        now_ms = self._clock_ms()
        return await self._ledger.change_beside(lambda c: put_policy(c, new, now_ms))

    async def _keep_evidence(self) -> None:
        """Write what the book has kept since. Raises: StorageError."""
        new = [i for i in self._registry.book.evidence if i.name not in self._evidence_kept]
        if not new:
            return
        rows = [(i.name, i.subcloud_id, i.kind, i.seen_ms, encode_message(i)) for i in new]
        self._evidence_kept = {item.name for item in self._registry.book.evidence}
        await self._ledger.change_beside(lambda c: add_evidence(c, rows))
