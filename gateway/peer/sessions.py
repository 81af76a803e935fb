"""Owns job sessions: one signed, multiplexed link to each node of the working set, opened ahead
of need.

Theory of operation. A keeper task for each node reaches it, opens a session and runs it until it
breaks, then again with growing pauses for as long as the registry wants the node. Attempts are
numbered within a session; each frame goes to the attempt that it names, late ones to nobody. When
a session ends, however it does, every attempt on it is told at once. A frozen node is noticed by
its link's heartbeat (p2p.limits.SESSION_SILENCE_S_MAX).

A node is reached by the connection that it made to us, at its addresses, or, if it is hidden and
has not dialled us within RELAY_PATIENCE_S, through its relay. When there is a direct way to a node
whose session goes through a relay, a new session is opened on it for new jobs; the old one ends
with its last job, and the relayed connection with it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import trio

from gateway.limits import (
    DIRECT_RETRY_S,
    LEASES_SHOWN_PER_SESSION_MAX,
    RELAY_PATIENCE_S,
    RETIRED_SESSION_LINGER_S,
    SESSION_PAUSE_S_MAX,
    SESSION_PAUSE_S_MIN,
    STATEMENTS_PER_SESSION_BURST,
    STATEMENTS_PER_SESSION_PER_S,
)
from gateway.peer.registry import Registry
from p2p.certificates import Chain
from p2p.codec import Message
from p2p.errors import MalformedError, P2PError, PeerUnavailableError
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
from p2p.network import Network, Way, first_of, remote_address_of
from p2p.reaching.relay_client import connect_through, is_relayed
from p2p.signing import Signed
from p2p.subclouds.memberships import MembershipFrame
from p2p.token_bucket import TokenBucket
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

    def __init__(
        self,
        link: Link,
        on_load: Callable[[LoadReport], None],
        on_statement: Callable[[Signed, PeerId], None] = lambda signed, sender: None,
    ) -> None:
        """Speak over this link; `on_load` gets the node's load reports, `on_statement` what it says
        of its memberships."""
        self.link = link
        self.peer_id: PeerId = link.remote
        self._on_load = on_load
        self._on_statement = on_statement
        self._statements = TokenBucket(
            STATEMENTS_PER_SESSION_PER_S, STATEMENTS_PER_SESSION_BURST, trio.current_time()
        )
        self._number = 0
        self._listeners: dict[int, AttemptListener] = {}
        self.way = Way.DIRECT
        self.address = ""
        """The node's IP address, if the way is direct."""
        self.ended = trio.Event()
        self.retired = trio.Event()
        """Set when there is a better session: this one takes no new attempts."""
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

    async def end_when_retired(self) -> None:
        """Wait for `retired`, and end the session after its last attempt."""
        await self.retired.wait()
        idle_since_s = trio.current_time()
        while trio.current_time() - idle_since_s < RETIRED_SESSION_LINGER_S:
            await trio.sleep(RETIRED_SESSION_LINGER_S / 4)
            if self._listeners:
                idle_since_s = trio.current_time()
        self.link.close("moved")

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
            elif isinstance(item, MembershipFrame):
                if self._statements.take(trio.current_time()):
                    self._on_statement(item.statement, self.peer_id)
            else:
                raise MalformedError(f"a {type(item).__name__} from a node")

    def lost(self, detail: str) -> None:
        """Tell every attempt that the session is gone."""
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener.on_lost(detail)


class Sessions:
    """Keeps the sessions of the working set."""

    def __init__(
        self,
        network: Network,
        registry: Registry,
        may_relay: Callable[[PeerId], bool] = lambda peer_id: False,
    ) -> None:
        """Dial by `network` what `registry` wants; `may_relay` knows who is a bootstrap."""
        self.on_statement: Callable[[Signed, PeerId], None] = lambda signed, sender: None
        """Called with what a node says of its memberships, and who brought it."""
        self.on_session: Callable[[PeerId], None] = lambda peer_id: None
        """Called with a node to which there is a new session."""
        self._network = network
        self._registry = registry
        self._may_relay = may_relay
        self._open: dict[PeerId, NodeSession] = {}
        self._kept: dict[PeerId, trio.Event] = {}
        """The nodes that have a keeper task, with what wakes it from its pause."""
        self._news = trio.Event()
        registry.on_news = self._on_news
        network.watch_ways(self._on_way)

    def get(self, peer_id: PeerId) -> NodeSession | None:
        """The open session with a node, if there is one."""
        session = self._open.get(peer_id)
        return session if session is not None and session.link.is_open else None

    def direct_address(self, peer_id: PeerId) -> str:
        """The IP address of a node that there is a direct session with; empty if there is none."""
        session = self.get(peer_id)
        return session.address if session is not None else ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep sessions until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                for peer_id in self._registry.working_set():
                    if peer_id not in self._kept:
                        self._kept[peer_id] = trio.Event()
                        nursery.start_soon(self._keep, peer_id, nursery)
                with trio.move_on_after(1):
                    await self._news.wait()
                self._news = trio.Event()
                self._registry.prune()

    def _on_news(self, peer_id: PeerId | None) -> None:
        self._news.set()
        if peer_id is not None and peer_id in self._kept:
            self._kept[peer_id].set()  # it speaks: dial at once

    def _on_way(self, peer_id: PeerId, way: Way | None) -> None:
        if way is not None:
            self._on_news(peer_id)  # it has dialled us, or there is a direct way now

    async def _keep(self, peer_id: PeerId, nursery: trio.Nursery) -> None:
        pause_s = SESSION_PAUSE_S_MIN
        missing_since_s = trio.current_time()
        said = ""
        try:
            while self._registry.wanted(peer_id):
                began = trio.current_time()
                try:
                    relays = began - missing_since_s >= RELAY_PATIENCE_S
                    session = await self._open_session(peer_id, nursery, relays=relays)
                    said = ""
                    await self._while_best(session)
                    missing_since_s = trio.current_time()
                    if not session.ended.is_set():
                        continue  # there is a better way
                except P2PError as error:
                    if str(error) != said:
                        said = str(error)
                        log.info("session with node %s: %s", peer_id, said)
                if trio.current_time() - began > SESSION_PAUSE_S_MAX:
                    pause_s = SESSION_PAUSE_S_MIN
                patience_s = missing_since_s + RELAY_PATIENCE_S - trio.current_time()
                with trio.move_on_after(min(pause_s, patience_s) if patience_s > 0 else pause_s):
                    await self._kept[peer_id].wait()
                self._kept[peer_id] = trio.Event()
                pause_s = min(SESSION_PAUSE_S_MAX, pause_s * 2)
        finally:
            del self._kept[peer_id]

    async def _open_session(
        self, peer_id: PeerId, nursery: trio.Nursery, *, relays: bool
    ) -> NodeSession:
        """Open a session on the best way there is, and start it; one on a worse way retires."""
        await self._reach(peer_id, relays=relays)
        way = self._network.way_to(peer_id) or Way.DIRECT
        stream = await self._network.open_stream(peer_id, JOBS_PROTOCOL)
        session = NodeSession(
            Link(stream), lambda report: self._registry.load(peer_id, report), self._take_statement
        )
        session.way = way
        session.address = remote_address_of(stream) if way is Way.DIRECT else ""
        before = self._open.get(peer_id)
        await nursery.start(self._run_session, session)
        if before is not None:
            before.retired.set()
        log.info("session with node %s opened (%s)", peer_id, way.value)
        self.on_session(peer_id)
        return session

    def _take_statement(self, signed: Signed, sender: PeerId) -> None:
        self.on_statement(signed, sender)

    async def _while_best(self, session: NodeSession) -> None:
        """Wait until a session has ended, or there is a better way than the one that it goes."""
        peer_id = session.peer_id
        while not session.ended.is_set():
            if self._is_bettered(peer_id):
                return
            woken = self._kept[peer_id]
            with trio.move_on_after(DIRECT_RETRY_S if session.way is Way.RELAYED else 3600):
                await first_of(session.ended.wait, woken.wait)
            if woken.is_set():
                self._kept[peer_id] = trio.Event()
            if session.way is Way.RELAYED and not session.ended.is_set():
                await self._try_directly(peer_id)

    def _is_bettered(self, peer_id: PeerId) -> bool:
        session = self._open.get(peer_id)
        relayed = session is not None and session.way is Way.RELAYED
        return relayed and self._network.way_to(peer_id) is Way.DIRECT

    async def _run_session(
        self, session: NodeSession, *, task_status: trio.TaskStatus[None]
    ) -> None:
        peer_id = session.peer_id
        detail = "closed"
        broken = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._leave_when_unwanted, session, nursery.cancel_scope)
                nursery.start_soon(session.end_when_retired)
                self._open[peer_id] = session
                self._registry.connected(peer_id, True)
                task_status.started()
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
            session.ended.set()
        log.info("session with node %s ended: %s", peer_id, detail)
        if broken or session.way is Way.RELAYED:
            # A silent peer may sit behind a connection that still looks alive: dial afresh. And
            # nobody pays a relay for a connection without a session.
            await self._network.disconnect(peer_id, only=session.way)

    # --- reaching -------------------------------------------------------------------------------
    async def _reach(self, peer_id: PeerId, *, relays: bool) -> None:
        """Have a connection to a node. Raises: P2PError."""
        if self._network.way_to(peer_id) is not None:
            return
        direct, relayed = self._addresses(peer_id)
        failure: P2PError = PeerUnavailableError("it is hidden, and has not dialled us yet")
        for address in direct:
            try:
                return await self._dial(address)
            except P2PError as error:
                failure = error
        for address in relayed if relays else ():
            try:
                await connect_through(self._network, address, self._may_relay)
                return
            except P2PError as error:
                failure = error
        raise failure

    async def _try_directly(self, peer_id: PeerId) -> None:
        for address in self._addresses(peer_id)[0]:
            try:
                return await self._dial(address)
            except P2PError as error:
                log.debug("%s is still reached through a relay: %s", peer_id, error)

    def _addresses(self, peer_id: PeerId) -> tuple[list[str], list[str]]:
        """Where a node says that it is: directly, and through relays."""
        entry = self._registry.entry(peer_id)
        addresses = entry.known.advert.addresses if entry is not None else ()
        own = [a for a in addresses if a.endswith(f"/p2p/{peer_id}")]
        return [a for a in own if not is_relayed(a)], [a for a in own if is_relayed(a)]

    async def _dial(self, address: str) -> None:
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                await self._network.connect(address)
        except trio.TooSlowError as error:
            raise PeerUnavailableError(f"{address} does not answer") from error

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
