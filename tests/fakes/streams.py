"""Owns a pair of streams in memory: bounded, and it can be frozen or broken at any moment."""

from __future__ import annotations

import trio

from p2p.errors import SessionLostError
from p2p.types import PeerId

WINDOW_BYTES = 256 * 1024
CHUNK_BYTES = 64 * 1024


class _Pipe:
    """One direction: what was sent and not yet read."""

    def __init__(self, window_bytes: int, chunk_bytes: int) -> None:
        self.buffer = bytearray()
        self.window_bytes = window_bytes
        self.chunk_bytes = chunk_bytes
        self.closed = False
        self.broken = False
        self.frozen = False
        self._changed = trio.Event()

    def change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        left = memoryview(bytes(data))
        while left:
            if self.broken or self.closed:
                raise SessionLostError("the stream is gone")
            room = self.window_bytes - len(self.buffer)
            if room <= 0:
                await self._changed.wait()
                continue
            self.buffer += left[:room]
            left = left[room:]
            self.change()

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self.broken:
                raise SessionLostError("the stream is gone")
            if self.buffer and not self.frozen:
                data = bytes(self.buffer[: self.chunk_bytes])
                del self.buffer[: self.chunk_bytes]
                self.change()
                return data
            if self.closed and not self.frozen:
                return b""
            await self._changed.wait()


class MemoryStream:
    """One end of a pair (a `p2p.network.Stream`)."""

    def __init__(self, remote: PeerId, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.remote = remote
        self.was_reset = False
        self._incoming = incoming
        self._outgoing = outgoing

    async def send_all(self, data: bytes) -> None:
        await self._outgoing.send_all(data)

    async def receive_some(self) -> bytes:
        return await self._incoming.receive_some()

    async def close(self) -> None:
        self._outgoing.closed = True
        self._outgoing.change()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self.was_reset = True
        self.break_now()
        await trio.lowlevel.checkpoint()

    # --- faults ---------------------------------------------------------------------------------
    def break_now(self) -> None:
        """The connection is gone, for both ends."""
        for pipe in (self._incoming, self._outgoing):
            pipe.broken = True
            pipe.change()

    def freeze(self) -> None:
        """The remote end neither reads nor is heard any more, as if it were stopped."""
        for pipe in (self._incoming, self._outgoing):
            pipe.frozen = True
            pipe.change()

    def thaw(self) -> None:
        """The remote end goes on."""
        for pipe in (self._incoming, self._outgoing):
            pipe.frozen = False
            pipe.change()

    @property
    def bytes_unread(self) -> int:
        """What was sent to this end and not received yet."""
        return len(self._incoming.buffer)


def stream_pair(
    one: PeerId,
    other: PeerId,
    *,
    window_bytes: int = WINDOW_BYTES,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[MemoryStream, MemoryStream]:
    """Give the ends of a stream: the first belongs to peer `one`, the second to `other`."""
    to_one, to_other = _Pipe(window_bytes, chunk_bytes), _Pipe(window_bytes, chunk_bytes)
    return MemoryStream(other, to_one, to_other), MemoryStream(one, to_other, to_one)
