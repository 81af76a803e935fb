"""Owns the connections: who has said a valid hello on which of them, and what they may use.

Theory of operation. A connection becomes a `Link`. The side that dialled opens the hello stream,
both sides hand it to the gate, and the link is settled: with an access, or with an error, after
which it is closed. Streams that arrive before that wait for it. A peer may have several links
(both sides dialled at once); it is known as long as one greeted link is alive, and forgotten with
the last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import INotifee

from p2p.errors import (
    DeadlineError,
    MalformedError,
    P2PError,
    PeerUnavailableError,
    RefusedError,
    SessionLostError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.libp2p_adapter.carried import is_carried
from p2p.libp2p_adapter.limits import (
    CONNECTIONS_GREETING_MAX,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_PEER_MAX,
    REFUSAL_LINGER_S,
)
from p2p.libp2p_adapter.muxer import Muxer
from p2p.libp2p_adapter.streams import LibP2PStream, finish, negotiate_outbound
from p2p.limits import HELLO_TIMEOUT_S
from p2p.network import Access, Gate, Way, WayWatcher
from p2p.types import PeerId

_logger = logging.getLogger(__name__)


class Link:
    """One connection to a peer, and how its hello went."""

    __slots__ = (
        "access", "conn", "dialled", "error", "hello_begun", "libp2p_id", "lost", "muxer",
        "peer_id", "settled", "waiting", "way",
    )  # fmt: skip

    def __init__(self, conn: Any, dialled: bool) -> None:
        self.conn = conn
        self.muxer: Muxer = conn.muxed_conn
        self.libp2p_id = conn.muxed_conn.peer_id
        self.peer_id = PeerId(str(self.libp2p_id))
        self.way = Way.RELAYED if is_carried(self.muxer) else Way.DIRECT
        self.dialled = dialled
        self.settled = trio.Event()
        self.lost = trio.Event()
        self.access: Access | None = None
        self.error: P2PError | None = None
        self.hello_begun = False
        self.waiting = 0

    @property
    def alive(self) -> bool:
        """Whether the connection is still there."""
        return not self.lost.is_set()

    async def open(self, protocol: str) -> LibP2PStream:
        """Open a stream of a protocol. Raises: RefusedError, SessionLostError, MalformedError."""
        net_stream = await self.open_raw(protocol)
        return LibP2PStream(net_stream, self.peer_id)

    async def open_raw(self, protocol: str) -> Any:
        """Open a stream as py-libp2p has it. Raises: as `open`."""
        try:
            net_stream = await self.conn.new_stream()
        except trio.Cancelled:
            raise
        except Exception as error:
            raise SessionLostError(f"the connection to {self.peer_id} is gone") from error
        done = False
        try:
            await negotiate_outbound(net_stream.muxed_stream, protocol)
            net_stream.set_protocol(protocol)
            done = True
            return net_stream
        finally:
            if not done:
                with trio.CancelScope(shield=True):
                    await net_stream.reset()


class Connections(INotifee):
    """All links of this peer. `run` greets what is new.

    `on_member` is called when a direct link is a member's, `on_lost` when a greeted link is gone
    (and whether no direct one is left).
    """

    def __init__(
        self,
        gate: Gate,
        hello_protocol: str,
        on_member: Callable[[Link], None],
        on_lost: Callable[[Link, bool], None],
    ) -> None:
        self._gate = gate
        self.hello_protocol = hello_protocol
        self._on_member = on_member
        self._on_lost = on_lost
        self._greeted: dict[PeerId, list[Link]] = {}
        self._greeting: set[Link] = set()
        self._way_watchers: list[WayWatcher] = []
        self._fresh_send, self._fresh_receive = trio.open_memory_channel[Link](CONNECTIONS_MAX)

    # --- what is asked of it ----------------------------------------------------------------

    def greeted(self, peer_id: PeerId, way: Way | None = None) -> Link | None:
        """Give the best greeted link: a member's before a newcomer's, a direct one before a
        relayed one, the newest first; with `way`, among the links of that way only."""
        best: Link | None = None
        best_rank = -1
        for link in reversed(self._greeted.get(peer_id, ())):
            rank = 2 * (link.access is Access.MEMBER) + (link.way is Way.DIRECT)
            if rank > best_rank and way in (None, link.way):
                best, best_rank = link, rank
        return best

    def watch_ways(self, watcher: WayWatcher) -> None:
        """Call `watcher` when the best way to a peer has become another one."""
        self._way_watchers.append(watcher)

    def _tell_way(self, peer_id: PeerId, before: Link | None) -> None:
        best = self.greeted(peer_id)
        if (best and best.way) is (before and before.way):
            return
        for watcher in self._way_watchers:
            try:
                watcher(peer_id, best.way if best is not None else None)
            except Exception:
                _logger.exception("who watches the ways to %s failed", peer_id)

    def links(self) -> list[Link]:
        """All greeted links."""
        return [link for links in self._greeted.values() for link in links]

    def peers(self) -> tuple[PeerId, ...]:
        """All peers with a greeted link."""
        return tuple(self._greeted)

    def link_of(self, conn: Any) -> Link:
        """Give the link of a connection, new if it is not known yet."""
        muxer: Muxer = conn.muxed_conn
        link: Link | None = muxer.link
        if link is None:
            link = muxer.link = Link(conn, dialled=bool(muxer.is_initiator))
            self._greeting.add(link)
            muxer.on_lost = lambda: self._lose(link)
            if muxer.event_shutting_down.is_set():
                self._lose(link)
        return link

    # --- events of py-libp2p ----------------------------------------------------------------

    async def connected(self, network: Any, conn: Any) -> None:
        """A connection was made: greet it."""
        link = self.link_of(conn)
        if len(self._greeting) > CONNECTIONS_GREETING_MAX and not link.dialled:
            _logger.info("too many connections are being greeted: one is closed")
            await conn.close()
            return
        try:
            self._fresh_send.send_nowait(link)
        except trio.WouldBlock:
            await conn.close()

    async def disconnected(self, network: Any, conn: Any) -> None:
        """Known already (see `Muxer.on_lost`)."""

    async def opened_stream(self, network: Any, stream: Any) -> None:
        """Not used."""

    async def closed_stream(self, network: Any, stream: Any) -> None:
        """Not used."""

    async def listen(self, network: Any, multiaddr: Any) -> None:
        """Not used."""

    async def listen_close(self, network: Any, multiaddr: Any) -> None:
        """Not used."""

    # --- greeting ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Greet every fresh connection, for ever."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for link in self._fresh_receive:
                nursery.start_soon(self._greet, link)

    async def _greet(self, link: Link) -> None:
        with trio.move_on_after(HELLO_TIMEOUT_S) as deadline:
            if link.dialled:
                await self._say_hello(link)
            else:
                await link.settled.wait()
        if deadline.cancelled_caught and not link.settled.is_set():
            self._settle_error(link, DeadlineError(f"no hello from {link.peer_id} in time"))
        if link.access is None:
            if not link.dialled and link.alive:
                with trio.move_on_after(REFUSAL_LINGER_S):
                    await link.lost.wait()
            await self.close(link)

    async def _say_hello(self, link: Link) -> None:
        try:
            stream = await link.open(self.hello_protocol)
        except RefusedError:
            message = f"{link.peer_id} belongs to another network: it does not know our hello"
            self._settle_error(link, WrongNetworkError(message))
            return
        except P2PError as error:
            self._settle_error(link, error)
            return
        await self._ask_gate(link, stream)

    async def serve_hello(self, link: Link, net_stream: Any) -> None:
        """Take the hello that the dialling side offers."""
        await self._ask_gate(link, LibP2PStream(net_stream, link.peer_id))

    async def _ask_gate(self, link: Link, stream: LibP2PStream) -> None:
        error: P2PError
        try:
            access = await self._gate.greet(stream, dialled=link.dialled)
        except SessionLostError as lost:
            if link.dialled and link.alive:
                error = UntrustedError(f"{link.peer_id} refused our hello")
            else:
                error = lost
        except P2PError as refusal:
            error = refusal
        except Exception as fault:
            _logger.exception("the gate failed on the hello of %s", link.peer_id)
            error = MalformedError(f"the hello of {link.peer_id} could not be read: {fault!r}")
        else:
            self._settle(link, access)
            await finish(stream, broken=False)
            return
        _logger.info("no access for %s: %s", link.peer_id, error)
        self._settle_error(link, error)
        await finish(stream, broken=False)

    def _settle(self, link: Link, access: Access) -> None:
        if link.settled.is_set():
            return
        links = self._greeted.get(link.peer_id, [])
        if len(links) >= CONNECTIONS_PER_PEER_MAX:
            self._settle_error(link, RefusedError("too_many", "too many connections to one peer"))
            return
        self._greeting.discard(link)
        before = self.greeted(link.peer_id)
        link.access = access
        self._greeted.setdefault(link.peer_id, links).append(link)
        link.settled.set()
        if access is Access.MEMBER and link.way is Way.DIRECT:
            self._on_member(link)
        self._tell_way(link.peer_id, before)

    def _settle_error(self, link: Link, error: P2PError) -> None:
        if not link.settled.is_set():
            self._greeting.discard(link)
            link.error = error
            link.settled.set()

    # --- ending -----------------------------------------------------------------------------

    def _lose(self, link: Link) -> None:
        if link.lost.is_set():
            return
        link.lost.set()
        self._settle_error(
            link, PeerUnavailableError(f"{link.peer_id} closed the connection before its hello")
        )
        links = self._greeted.get(link.peer_id)
        if links is None or link not in links:
            return
        before = self.greeted(link.peer_id)
        links.remove(link)
        if not links:
            del self._greeted[link.peer_id]
        self._on_lost(link, self.greeted(link.peer_id, Way.DIRECT) is None)
        self._tell_way(link.peer_id, before)
        if links:
            return
        try:
            self._gate.forget(link.peer_id)
        except Exception:
            _logger.exception("the gate failed to forget %s", link.peer_id)

    async def close(self, link: Link) -> None:
        """Close a connection."""
        await link.conn.close()

    async def close_peer(self, peer_id: PeerId, only: Way | None = None) -> None:
        """Close all connections to a peer, or only those of one way."""
        links = list(self._greeted.get(peer_id, ()))
        links += [link for link in self._greeting if link.peer_id == peer_id]
        if only is not None:
            links = [link for link in links if link.way is only]
        async with trio.open_nursery() as nursery:
            for link in links:
                nursery.start_soon(self.close, link)
