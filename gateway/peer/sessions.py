"""Owns job sessions: one signed, multiplexed link to each node of the working set, opened ahead
of need.

Theory of operation. A keeper task for each node dials it, opens a session and runs it until it
breaks, then dials again with growing pauses for as long as the registry wants the node. Attempts
are numbered within a session; each frame goes to the attempt that it names, late ones to nobody.
When a session ends, however it does, every attempt on it is told at once. A frozen node is
noticed by its link's heartbeat (p2p.limits.SESSION_SILENCE_S_MAX)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import trio

from gateway.limits import (
    LEASES_SHOWN_PER_SESSION_MAX,
    SESSION_PAUSE_S_MAX,
    SESSION_PAUSE_S_MIN,
)
from gateway.peer.registry import Registry
from p2p.certificates import Chain
from p2p.codec import Message
from p2p.errors import MalformedError, P2PError
from p2p.job_messages import (
    JOBS_PROTOCOL,
    AcceptFrame,
    EndFrame,
    LoadReport,
    OutputFrame,
    RefuseFrame,
    VoucherFrame,
)
from p2p.lease_messages import LeaseVoucherFrame
from p2p.limits import DIAL_TIMEOUT_S
from p2p.link import Link
from p2p.network import Network
from p2p.signing import Signed
from p2p.types import PeerId

log = logging.getLogger(__name__)
AttemptFrame = AcceptFrame | RefuseFrame | OutputFrame | EndFrame


class AttemptListener(Protocol):
    """Whoever runs an attempt. Both methods return at once and raise nothing."""

    def on_frame(self, frame: AttemptFrame) -> None:
        """The node said something about this attempt."""
        ...

    def on_lost(self, detail: str) -> None:
        """The session is gone."""
        ...


class NodeSession:
    """One open session with a node."""

    def __init__(self, link: Link, on_load: Callable[[LoadReport], None]) -> None:
        """Speak over this link; `on_load` gets the node's load reports."""
        self.link = link
        self.peer_id: PeerId = link.remote
        self._on_load = on_load
        self._number = 0
        self._listeners: dict[int, AttemptListener] = {}
        self._issuers_shown: set[PeerId] = set()
        self._leases_shown: OrderedDict[bytes, None] = OrderedDict()

    def open_attempt(self, listener: AttemptListener) -> int:
        """Take a number for an attempt; its frames go to `listener`."""
        self._number += 1
        self._listeners[self._number] = listener
        return self._number

    def close_attempt(self, number: int) -> None:
        """Nobody listens to this attempt any more (idempotent)."""
        self._listeners.pop(number, None)

    def send(self, item: Message, *, urgent: bool = True) -> None:
        """Queue a message (as `Link.send`). Raises: SessionLostError, MalformedError (too
        large)."""
        self.link.send(item, urgent=urgent)

    def send_voucher(self, number: int, voucher: Signed, chain: Chain) -> None:
        """Send a voucher, with its issuer's certificates the first time. Raises:
        SessionLostError."""
        issuer = voucher.peer_id
        known = issuer in self._issuers_shown
        self.link.send(VoucherFrame(number, voucher, () if known else chain))
        if chain:
            self._issuers_shown.add(issuer)

    def send_leased_voucher(
        self, number: int, lease_id: bytes, lease: Signed, hold: Signed, chain: Chain
    ) -> None:
        """Send a job's part of a lease, with the lease itself the first time. Raises:
        SessionLostError."""
        if lease_id in self._leases_shown:
            self._leases_shown.move_to_end(lease_id)
            self.link.send(LeaseVoucherFrame(number, hold))
            return
        self.link.send(LeaseVoucherFrame(number, hold, lease, chain))
        self._leases_shown[lease_id] = None
        if len(self._leases_shown) > LEASES_SHOWN_PER_SESSION_MAX:
            self._leases_shown.popitem(last=False)

    def on_messages(self, messages: list[Message]) -> None:
        """Hand a frame's messages to their attempts. Raises: MalformedError."""
        for item in messages:
            if isinstance(item, AttemptFrame):
                listener = self._listeners.get(item.number)
                if listener is not None:
                    listener.on_frame(item)
            elif isinstance(item, LoadReport):
                self._on_load(item)
            else:
                raise MalformedError(f"a {type(item).__name__} from a node")

    def lost(self, detail: str) -> None:
        """Tell every attempt that the session is gone."""
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener.on_lost(detail)


class Sessions:
    """Keeps the sessions of the working set."""

    def __init__(self, network: Network, registry: Registry) -> None:
        """Dial by `network` what `registry` wants."""
        self._network = network
        self._registry = registry
        self._open: dict[PeerId, NodeSession] = {}
        self._kept: dict[PeerId, trio.Event] = {}
        """The nodes that have a keeper task, with what wakes it from its pause."""
        self._news = trio.Event()
        registry.on_news = self._on_news

    def get(self, peer_id: PeerId) -> NodeSession | None:
        """The open session with a node, if there is one."""
        session = self._open.get(peer_id)
        return session if session is not None and session.link.is_open else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep sessions until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                for peer_id in self._registry.working_set():
                    if peer_id not in self._kept:
                        self._kept[peer_id] = trio.Event()
                        nursery.start_soon(self._keep, peer_id)
                with trio.move_on_after(1):
                    await self._news.wait()
                self._news = trio.Event()
                self._registry.prune()

    def _on_news(self, peer_id: PeerId | None) -> None:
        self._news.set()
        if peer_id is not None and peer_id in self._kept:
            self._kept[peer_id].set()  # it speaks: dial at once

    async def _keep(self, peer_id: PeerId) -> None:
        pause_s = SESSION_PAUSE_S_MIN
        try:
            while self._registry.wanted(peer_id):
                began = trio.current_time()
                try:
                    await self._serve(peer_id)
                    log.info("session with node %s ended", peer_id)
                except P2PError as error:
                    log.info("session with node %s: %s", peer_id, error)
                if trio.current_time() - began > SESSION_PAUSE_S_MAX:
                    pause_s = SESSION_PAUSE_S_MIN
                with trio.move_on_after(pause_s):
                    await self._kept[peer_id].wait()
                self._kept[peer_id] = trio.Event()
                pause_s = min(SESSION_PAUSE_S_MAX, pause_s * 2)
        finally:
            del self._kept[peer_id]

    async def _serve(self, peer_id: PeerId) -> None:
        await self._dial(peer_id)
        stream = await self._network.open_stream(peer_id, JOBS_PROTOCOL)
        session = NodeSession(Link(stream), lambda report: self._registry.load(peer_id, report))
        detail = "closed"
        broken = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._leave_when_unwanted, session, nursery.cancel_scope)
                self._open[peer_id] = session
                self._registry.connected(peer_id, True)
                log.info("session with node %s opened", peer_id)
                try:
                    await session.link.run(session.on_messages)
                except P2PError as error:
                    detail, broken = str(error), True
                nursery.cancel_scope.cancel()
        finally:
            if self._open.get(peer_id) is session:
                del self._open[peer_id]
            self._registry.connected(peer_id, False)
            session.lost(detail)
        if broken:
            # A silent peer may sit behind a connection that still looks alive: dial afresh.
            await self._network.disconnect(peer_id)
            log.info("session with node %s broke: %s", peer_id, detail)

    async def _dial(self, peer_id: PeerId) -> None:
        if peer_id in self._network.peers():
            return
        entry = self._registry.entry(peer_id)
        addresses = entry.known.advert.addresses if entry is not None else ()
        failure: P2PError = MalformedError("the node advertises no address")
        for address in addresses:
            if not address.endswith(f"/p2p/{peer_id}"):
                continue
            try:
                with trio.fail_after(DIAL_TIMEOUT_S):
                    await self._network.connect(address)
                return
            except trio.TooSlowError:
                failure = MalformedError(f"{address} does not answer")
            except P2PError as error:
                failure = error
        raise failure

    async def _leave_when_unwanted(self, session: NodeSession, scope: trio.CancelScope) -> None:
        """End a session whose node is banned or no longer serves what is approved."""
        missed = 0
        while missed < 2:
            await trio.sleep(5)
            # An expired advert alone does not end a session that is alive: gossip may be down.
            entry = self._registry.entry(session.peer_id)
            banned = entry is None or any(c.banned for c in entry.candidates.values())
            missed = missed + 1 if banned else 0
        scope.cancel()
