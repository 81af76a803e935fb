"""Owns a bootstrap's directory of subclouds in memory, for simulations: the calls that peers make,
with one real `PolicyBook` behind them, over a link that obeys the hub's partitions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from p2p.clock import Clock
from p2p.codec import decode_message, encode_message, encode_messages
from p2p.errors import P2PError, PeerUnavailableError, RefusedError
from p2p.memory_network import MemoryHub
from p2p.signing import Signed
from p2p.subclouds import directory_messages as calls
from p2p.subclouds.directory_messages import (
    SubcloudJoinRequest,
    SubcloudPage,
    SubcloudQuestion,
    SubcloudSummary,
)
from p2p.subclouds.identity import SubcloudId, label_of
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import KnownPolicy, PolicyRecord
from p2p.types import PeerId
from tests.fakes import trust

LINK_DELAY_S = 0.02


class SimBootstrap:
    """What a bootstrap keeps of subclouds."""

    def __init__(self, hub: MemoryHub, peer_id: PeerId, clock_ms: Clock) -> None:
        self.hub = hub
        self.peer_id = peer_id
        self.book = PolicyBook(trust.NETWORK, clock_ms=clock_ms)
        self.book.on_change(self._changed)
        self.answers: dict[PeerId, list[Signed]] = {}
        self.requests: list[SubcloudJoinRequest] = []
        self.statements: dict[PeerId, Signed] = {}
        self._order: dict[SubcloudId, int] = {}
        self._count = 0
        self._handlers: dict[str, Callable[[PeerId, bytes], bytes]] = {
            calls.LIST: self._list,
            calls.GET: self._get,
            calls.RESOLVE: self._resolve,
            calls.PUBLISH: self._publish,
            calls.PUT_REVOCATIONS: self._revocations,
            calls.PUT_REQUEST: self._request,
            calls.GET_CERTIFICATES: self._certificates,
            calls.TELL_MEMBERSHIPS: self._tell,
        }

    def call(self, caller: PeerId, method: str, body: bytes) -> bytes:
        """Answer a call. Raises: P2PError."""
        return self._handlers[method](caller, body)

    def _changed(self, identity: SubcloudId) -> None:
        self._count += 1
        self._order.pop(identity, None)
        self._order[identity] = self._count

    def _summary(self, known: KnownPolicy) -> SubcloudSummary:
        revocations = self.book.revocations(known.identity)
        return SubcloudSummary(
            known.identity,
            known.policy.version,
            known.digest,
            known.owner.length,
            revocations.number if revocations is not None else 0,
            label_of(known.identity),
        )

    def _find(self, name: str) -> KnownPolicy:
        for known in self.book.all():
            if name in (known.identity, label_of(known.identity)):
                return known
        raise RefusedError("unknown_subcloud", f"there is no subcloud {name}")

    def _list(self, caller: PeerId, body: bytes) -> bytes:
        after = decode_message(body, SubcloudQuestion).after
        seen = int(after.partition(":")[2] or 0)
        newer = [identity for identity, number in self._order.items() if number > seen]
        summaries = tuple(self._summary(self._find(identity)) for identity in newer)
        return encode_message(SubcloudPage(summaries, f"one:{self._count}", False))

    def _get(self, caller: PeerId, body: bytes) -> bytes:
        known = self._find(decode_message(body, SubcloudQuestion).name)
        signed = self.book.signed_revocations(known.identity)
        return encode_messages([known.record, *([signed] if signed is not None else [])])

    def _resolve(self, caller: PeerId, body: bytes) -> bytes:
        return encode_message(
            self._summary(self._find(decode_message(body, SubcloudQuestion).name))
        )

    def _publish(self, caller: PeerId, body: bytes) -> bytes:
        record = decode_message(body, PolicyRecord)
        self.book.offer(record, caller)
        return b""

    def _revocations(self, caller: PeerId, body: bytes) -> bytes:
        self.book.offer_revocations(decode_message(body, Signed), caller)
        return b""

    def _request(self, caller: PeerId, body: bytes) -> bytes:
        signed = decode_message(body, Signed)
        self.requests.append(decode_message(signed.body, SubcloudJoinRequest))
        return b""

    def _certificates(self, caller: PeerId, body: bytes) -> bytes:
        found = self.answers.get(caller, [])
        return encode_messages(found) if found else b""

    def _tell(self, caller: PeerId, body: bytes) -> bytes:
        self.statements[caller] = decode_message(body, Signed)
        return b""


class SimLink:
    """A peer's link to the bootstrap: there whenever the hub lets the two reach each other."""

    def __init__(self, bootstrap: SimBootstrap, peer_id: PeerId) -> None:
        self._bootstrap = bootstrap
        self._peer_id = peer_id

    @property
    def bootstrap(self) -> PeerId | None:
        """The bootstrap, while it can be reached."""
        there = self._bootstrap.hub.reachable(self._peer_id, self._bootstrap.peer_id)
        return self._bootstrap.peer_id if there else None

    async def wait_up(self) -> None:
        """Wait until it can be reached."""
        while self.bootstrap is None:
            await trio.sleep(0.5)

    async def wait_changed(self) -> None:
        """Wait until it may be different."""
        await trio.sleep(5)

    async def call(self, method: str, body: bytes, **options: object) -> bytes:
        """Ask. Raises: P2PError."""
        await trio.sleep(LINK_DELAY_S)
        if self.bootstrap is None:
            raise PeerUnavailableError("the bootstrap is behind a partition")
        return self._bootstrap.call(self._peer_id, method, body)


async def quietly(wait: Awaitable[object]) -> bool:
    """Wait for something that may fail. Returns: whether it went well."""
    try:
        await wait
    except P2PError:
        return False
    return True
