"""Owns what a bootstrap knows of memberships: the nodes' live statements, and who joined when.

Statements come by gossip and by call; each is verified and kept until it ends, for gateways that
come late. What a statement changes is written to the database: since when a node is a member (the
time at which it was first seen here, which nobody can move), when it left, and a log of both. A
membership is noted where its policy is known, and, where the join rule wants one, under a valid
certificate; whether the node qualifies is for gateways.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from bootstrap.limits import (
    ADVERTS_PRUNE_INTERVAL_S,
    MEMBER_FORGET_AFTER_MS,
    MEMBER_FORGET_INTERVAL_S,
    MEMBER_NOTE_DELAY_S,
    SUBCLOUD_MEMBERS_MAX,
)
from bootstrap.subclouds.answers import WriteLimits, as_many_as_fit, told
from bootstrap.subclouds.registry import SubcloudRegistry
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.store.directory_members import forget_members, members, note_memberships
from p2p.calls import Caller, CallHandler
from p2p.clock import Clock
from p2p.codec import decode_message
from p2p.errors import P2PError
from p2p.limits import MEMBERSHIPS_KNOWN_MAX, MESSAGES_PER_FRAME_MAX
from p2p.network import Network
from p2p.signing import Signed
from p2p.subclouds import directory_messages as calls
from p2p.subclouds.directory_messages import MemberEntry, SubcloudQuestion
from p2p.subclouds.memberships import (
    MEMBERSHIPS_TOPIC,
    KnownMemberships,
    Membership,
    MembershipBook,
    is_revoked,
    open_membership_certificate,
    verify_memberships,
)
from p2p.subclouds.statement_intake import StatementIntake
from p2p.types import NetworkId, PeerId

log = logging.getLogger(__name__)


class MemberService:
    """Hears nodes, and tells gateways and owners."""

    def __init__(
        self,
        registry: SubcloudRegistry,
        ledger: Ledger,
        network_id: NetworkId,
        clock_ms: Clock,
        limits: WriteLimits,
    ) -> None:
        """Start empty: nodes repeat themselves, and what they changed is in the database."""
        self._limits = limits
        self._registry = registry
        self._ledger = ledger
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._book = MembershipBook()
        self._noted: dict[PeerId, frozenset[str]] = {}
        self._to_note: dict[PeerId, tuple[int, frozenset[str]]] = {}
        self._wanted = trio.Event()

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return told(
            {
                calls.TELL_MEMBERSHIPS: self.tell,
                calls.LIST_MEMBERSHIPS: self.list,
                calls.LIST_MEMBERS: self.members,
            }
        )

    async def tell(self, caller: Caller, body: bytes) -> bytes:
        """Take a node's statement from whoever carries it.

        Raises: UntrustedError, StaleError, RefusedError `subcloud_rate`.
        """
        self._limits.take(caller.peer_id, "statements")
        self.hear(decode_message(body, Signed))
        return b""

    async def list(self, caller: Caller, body: bytes) -> bytes:
        """Give live statements in order of their nodes, of one subcloud's members or all."""
        question = decode_message(body, SubcloudQuestion)
        identity = self._registry.resolve(question.name) if question.name else None
        found = [
            known
            for known in self._book.live(self._clock_ms())
            if known.statement.peer_id > question.after
            and (identity is None or any(m.subcloud_id == identity for m in _of(known)))
        ]
        found.sort(key=lambda known: known.statement.peer_id)
        return as_many_as_fit(known.signed for known in found)

    async def members(self, caller: Caller, body: bytes) -> bytes:
        """Give since when nodes are members of a subcloud, and when they left it."""
        question = decode_message(body, SubcloudQuestion)
        identity = self._registry.resolve(question.name)
        found = await self._ledger.read(
            lambda c: members(c, identity, question.after, MESSAGES_PER_FRAME_MAX)
        )
        return as_many_as_fit(
            MemberEntry(identity, PeerId(one.peer_id), one.joined_ms, one.left_ms) for one in found
        )

    # --- hearing ----------------------------------------------------------------------------------
    def hear(self, signed: Signed) -> bool:
        """Take a statement. Returns: whether it is new. Raises: UntrustedError, MalformedError."""
        now_ms = self._clock_ms()
        present = self._book.get(signed.peer_id, now_ms)
        if present is not None and present.signed == signed:
            return False
        known = verify_memberships(signed, self._network_id, now_ms)
        if not self._book.add(known, now_ms):
            return False
        statement = known.statement
        subclouds = frozenset(
            str(membership.subcloud_id)
            for membership in statement.memberships
            if self._counts(membership, statement.peer_id, now_ms)
        )
        if subclouds != self._noted.get(statement.peer_id):
            if len(self._noted) >= 2 * MEMBERSHIPS_KNOWN_MAX:
                self._noted.clear()  # they are compared with the database once more
            self._noted[statement.peer_id] = subclouds
            self._to_note[statement.peer_id] = (statement.sequence, subclouds)
            self._wanted.set()
        return True

    def _counts(self, membership: Membership, peer_id: PeerId, now_ms: int) -> bool:
        known = self._registry.book.get(membership.subcloud_id)
        if known is None:
            return False
        if known.policy.join == "open":
            return True
        if membership.certificate is None:
            return False
        try:
            certificate = open_membership_certificate(
                membership.certificate, known.policy, peer_id, now_ms
            )
        except P2PError:
            return False
        revocations = self._registry.book.revocations(membership.subcloud_id)
        return revocations is None or not is_revoked(certificate, revocations)

    async def run(self, network: Network) -> None:
        """Listen and write until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, network)
            nursery.start_soon(self._note_forever)
            nursery.start_soon(self._forget_forever)
            while True:
                await trio.sleep(ADVERTS_PRUNE_INTERVAL_S)
                self._book.prune(self._clock_ms())

    async def _listen(self, network: Network) -> None:
        intake = StatementIntake()
        async for item in network.subscribe(MEMBERSHIPS_TOPIC):
            try:
                signed = decode_message(item.data, Signed)
                if intake.admits(signed, item.author, trio.current_time()):
                    self.hear(signed)
            except P2PError as error:
                log.debug("memberships by %s dropped: %s", item.author, error)

    async def _note_forever(self) -> None:
        while True:
            await self._wanted.wait()
            await trio.sleep(MEMBER_NOTE_DELAY_S)
            self._wanted = trio.Event()
            noted, self._to_note = self._to_note, {}
            try:
                lines = await self._note([(p, *said) for p, said in sorted(noted.items())])
            except LedgerError as error:
                log.warning("who joined which subcloud was not noted: %s", error)
                for peer_id in noted:
                    self._noted.pop(peer_id, None)  # the next statement brings it again
                continue
            if lines:
                log.info("%d joins and leaves of subclouds", lines)

    async def _note(self, told_now: Sequence[tuple[PeerId, int, frozenset[str]]]) -> int:
        now_ms = self._clock_ms()
        return await self._ledger.change_beside(
            lambda c: note_memberships(c, told_now, now_ms, members_max=SUBCLOUD_MEMBERS_MAX)
        )

    async def _forget_forever(self) -> None:
        while True:
            await trio.sleep(MEMBER_FORGET_INTERVAL_S)
            try:
                await self._forget(self._clock_ms() - MEMBER_FORGET_AFTER_MS)
            except LedgerError as error:
                log.warning("members of long ago were not forgotten: %s", error)

    async def _forget(self, before_ms: int) -> None:
        await self._ledger.change_beside(lambda c: forget_members(c, before_ms))


def _of(known: KnownMemberships) -> tuple[Membership, ...]:
    return known.statement.memberships
