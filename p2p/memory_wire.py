"""Owns the connections of the in-memory network: ordered bytes with a delay, until they break.

Theory of operation. A pipe is one direction of a stream: a queue of chunks, each with the time at
which it arrives. The reader waits for the first one's time, so there are no tasks and no timers,
and a whole network is as deterministic as its clock and its seed. A wire is a connection of two
peers and has the streams on it; when it breaks, what arrived can still be read and everything
else is lost. While a wire is held (a frozen peer, a silent partition) nothing arrives on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio

from p2p.errors import SessionLostError
from p2p.network import Access, Way
from p2p.types import PeerId

if TYPE_CHECKING:
    from p2p.memory_network import MemoryNetwork

CHUNK_BYTES_MAX = 64 * 1024
WINDOW_BYTES = 256 * 1024
"""Bytes that a sender may be ahead of its reader (a yamux stream's first window)."""
STALL_S_MAX = 5.0
"""A reader that takes nothing for this long loses the stream (as the libp2p adapter has it)."""


class Pipe:
    """One direction of a stream."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._size_bytes = 0
        self._last_arrival_s = 0.0
        self._changed = trio.Event()
        self.ended = False
        self.broken = False
        self.unread = False

    def notify(self) -> None:
        """Let reader and writer look again."""
        self._changed.set()
        self._changed = trio.Event()

    def end(self) -> None:
        """The sender sends no more."""
        if not self.broken and not self.ended:
            if self._wire.way_of(self) is not None:
                self._wire.carry_end(self)
                return
            self.mark_ended()

    def mark_ended(self) -> None:
        """The end has arrived."""
        self.ended = True
        self.notify()

    def arrive(self, data: bytes) -> None:
        """Bytes have come through the carrying stream (they were counted when they were sent)."""
        if not self.broken:
            self._chunks.append((trio.current_time(), data))
            self.notify()

    def break_off(self) -> None:
        """Both sides lose the stream; what has arrived can be read."""
        self.broken = True
        now_s = trio.current_time()
        while self._chunks and self._chunks[-1][0] > now_s:
            self._size_bytes -= len(self._chunks.pop()[1])
            self.ended = False
        self.notify()

    def discard(self) -> None:
        """The reader reads no more: a sender that goes on learns that the stream is gone."""
        self.unread = True
        self.notify()

    async def send(self, data: bytes) -> None:
        """Queue bytes; waits while the reader is a window behind. Raises: SessionLostError."""
        await trio.lowlevel.checkpoint()
        for start in range(0, len(data), CHUNK_BYTES_MAX):
            chunk = data[start : start + CHUNK_BYTES_MAX]
            with trio.move_on_after(STALL_S_MAX) as stalled:
                while self._size_bytes >= WINDOW_BYTES and self._is_open():
                    await self._changed.wait()
            if stalled.cancelled_caught:
                raise SessionLostError(f"the reader took nothing for {STALL_S_MAX:g} s")
            if not self._is_open():
                raise SessionLostError("the stream is gone")
            if self._wire.way_of(self) is not None:
                self._size_bytes += len(chunk)
                await self._wire.carry(self, bytes(chunk))
                continue
            arrival_s = trio.current_time() + self._wire.draw_delay_s()
            self._last_arrival_s = max(self._last_arrival_s, arrival_s)
            self._chunks.append((self._last_arrival_s, bytes(chunk)))
            self._size_bytes += len(chunk)
            self.notify()

    def _is_open(self) -> bool:
        return not (self.broken or self.ended or self.unread)

    async def receive(self) -> bytes:
        """Give what has arrived, `b""` at the end. Raises: SessionLostError."""
        await trio.lowlevel.checkpoint()
        while True:
            changed = self._changed
            if self._wire.held and not self.broken:
                await changed.wait()
                continue
            if self._chunks:
                wait_s = self._chunks[0][0] - trio.current_time()
                if wait_s <= 0 or self.broken:
                    return self._take()
                with trio.move_on_after(wait_s):
                    await changed.wait()
                continue
            if self.ended:
                return b""
            if self.broken:
                raise SessionLostError("the stream is gone")
            await changed.wait()

    def _take(self) -> bytes:
        now_s = trio.current_time()
        parts: list[bytes] = []
        size = 0
        while self._chunks and (self._chunks[0][0] <= now_s or self.broken):
            if parts and size + len(self._chunks[0][1]) > CHUNK_BYTES_MAX:
                break
            _, chunk = self._chunks.popleft()
            size += len(chunk)
            parts.append(chunk)
        self._size_bytes -= size
        self.notify()
        return b"".join(parts)


class Carrier:
    """One direction of a connection inside of streams: what one end sends, the other takes out.

    The bytes themselves travel (so that a relay counts and delays them); which pipe they belong to
    is known here.
    """

    def __init__(self, sending: MemoryStream, receiving: MemoryStream) -> None:
        self._sending = sending
        self._receiving = receiving
        self._queue: deque[tuple[Pipe, bytes | None]] = deque()
        self._received_bytes = 0

    async def send(self, pipe: Pipe, data: bytes) -> None:
        """Send a pipe's bytes. Raises: SessionLostError."""
        self._queue.append((pipe, data))
        await self._sending.send_all(data)

    def end(self, pipe: Pipe) -> None:
        """End a pipe after what was sent on it."""
        self._queue.append((pipe, None))
        self._deliver()

    def _deliver(self) -> None:
        while self._queue:
            pipe, data = self._queue[0]
            if data is None:
                pipe.mark_ended()
            elif len(data) <= self._received_bytes:
                self._received_bytes -= len(data)
                pipe.arrive(data)
            else:
                return
            self._queue.popleft()

    async def run(self) -> None:
        """Take out what arrives, until the carrying stream is gone."""
        try:
            while data := await self._receiving.receive_some():
                self._received_bytes += len(data)
                self._deliver()
        except SessionLostError:
            pass

    def stop(self) -> None:
        """The connection is gone: so is its stream."""
        self._sending.abort()


class MemoryStream:
    """A stream of the port between two peers of a hub."""

    def __init__(self, remote: PeerId, incoming: Pipe, outgoing: Pipe, way: Way) -> None:
        self.remote = remote
        self.way = way
        self._incoming = incoming
        self._outgoing = outgoing

    async def send_all(self, data: bytes) -> None:
        """Send all bytes. Raises: SessionLostError if the stream or connection is gone."""
        await self._outgoing.send(data)

    async def receive_some(self) -> bytes:
        """Wait for bytes; `b""` is the end. Raises: SessionLostError."""
        return await self._incoming.receive()

    async def close(self) -> None:
        """Close in both directions."""
        self._outgoing.end()
        self._incoming.discard()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Abort in both directions."""
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Abort in both directions, at once."""
        self._outgoing.break_off()
        self._incoming.break_off()


class Wire:
    """A connection: the dialling network first."""

    carriers: tuple[Carrier, Carrier] | None = None
    """Where a connection inside of streams puts what its ends send; None for a direct one."""

    def __init__(
        self,
        ends: tuple[MemoryNetwork, MemoryNetwork],
        draw_delay_s: Callable[[], float],
        on_lost: Callable[[Wire], None],
    ) -> None:
        self.ends = ends
        self.draw_delay_s = draw_delay_s
        self.access: dict[PeerId, Access] = {}
        self.settled = {end.local: trio.Event() for end in ends}
        self.lost = trio.Event()
        self._on_lost = on_lost
        self._held = False
        self._changed = trio.Event()
        self._pipes: list[Pipe] = []
        self._ways: WeakKeyDictionary[Pipe, Carrier] = WeakKeyDictionary()

    @property
    def alive(self) -> bool:
        """Whether the connection is still there."""
        return not self.lost.is_set()

    @property
    def held(self) -> bool:
        """Whether nothing arrives at present."""
        return self._held

    def hold(self, held: bool) -> None:
        """Let nothing arrive, or let everything arrive again."""
        if held != self._held:
            self._held = held
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        for pipe in self._pipes:
            pipe.notify()

    async def wait_released(self) -> None:
        """Wait until the wire is not held, or is gone."""
        while self._held and self.alive:
            await self._changed.wait()

    def other(self, end: MemoryNetwork) -> MemoryNetwork:
        """The network at the other end."""
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def open_pair(self, opener: MemoryNetwork) -> tuple[MemoryStream, MemoryStream]:
        """Make a stream: the opener's side first."""
        there, back = Pipe(self), Pipe(self)
        if self.carriers is not None:
            forward = opener is self.ends[0]
            self._ways[there], self._ways[back] = self.carriers[:: 1 if forward else -1]
        self._pipes = [pipe for pipe in self._pipes if not (pipe.broken or pipe.unread)]
        self._pipes += [there, back]
        acceptor = self.other(opener)
        return (
            MemoryStream(acceptor.local, back, there, self.way),
            MemoryStream(opener.local, there, back, self.way),
        )

    @property
    def way(self) -> Way:
        """Whether the ends reach each other directly."""
        return Way.DIRECT if self.carriers is None else Way.RELAYED

    def way_of(self, pipe: Pipe) -> Carrier | None:
        """The stream that carries a pipe's bytes, if one does."""
        return self._ways.get(pipe)

    async def carry(self, pipe: Pipe, data: bytes) -> None:
        """Send a pipe's bytes through the carrying stream. Raises: SessionLostError."""
        try:
            await self._ways[pipe].send(pipe, data)
        except SessionLostError:
            self.break_off()
            raise

    def carry_end(self, pipe: Pipe) -> None:
        """Let a pipe end after what was sent on it."""
        self._ways[pipe].end(pipe)

    def break_off(self) -> None:
        """The connection is gone, for both sides at once."""
        if self.lost.is_set():
            return
        self.lost.set()
        for carrier in self.carriers or ():
            carrier.stop()
        for pipe in self._pipes:
            pipe.break_off()
        self._notify()
        self._pipes.clear()
        for event in self.settled.values():
            event.set()
        self._on_lost(self)
