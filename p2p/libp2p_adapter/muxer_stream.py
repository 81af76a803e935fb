"""Owns one stream of a multiplexed connection: its buffer, its windows, its two halves.

The connection (`muxer.Muxer`) calls the plain methods when frames arrive; nothing here waits except
for data to read and for window to write. One task may read and one may write at a time.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import (
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from p2p.libp2p_adapter.limits import (
    MUXER_FRAME_BYTES_MAX,
    RECEIVE_BYTES_MAX,
    STREAM_STALL_S_MAX,
    STREAM_WINDOW_BYTES,
    STREAM_WINDOW_BYTES_MAX,
    WINDOW_GROWS_WITHIN_S,
)

if TYPE_CHECKING:
    from p2p.libp2p_adapter.muxer import Muxer


class MuxerStream(IMuxedStream):
    """A yamux stream. Bytes that came before the connection broke can still be read."""

    def __init__(self, stream_id: int, conn: Muxer, is_initiator: bool) -> None:
        self.stream_id = stream_id
        self.conn = conn
        self.muxed_conn = conn
        self.is_initiator = is_initiator
        self.buffer = bytearray()
        self.send_window = STREAM_WINDOW_BYTES
        self.receive_window = STREAM_WINDOW_BYTES
        self.target_window = STREAM_WINDOW_BYTES
        self.window_given_at = 0.0
        self.send_closed = False
        self.receive_closed = False
        self.was_reset = False
        self.end_received = False
        self.discards = False
        self.header_is_due = False
        self.closed_at = 0.0
        self._readable: trio.Event | None = None
        self._writable: trio.Event | None = None

    # --- what the connection calls ----------------------------------------------------------

    def take_data(self, data: bytes | memoryview) -> None:
        """Keep bytes that arrived (the connection has checked the window)."""
        self.receive_window -= len(data)
        self.buffer += data
        self.wake_reader()

    def add_window(self, increment: int) -> None:
        """The other side is ready to take more."""
        self.send_window += increment
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def take_end(self) -> None:
        """The other side sends no more."""
        self.receive_closed = True
        self.end_received = True
        self.wake_reader()

    def take_reset(self) -> None:
        """The stream is dead in both directions."""
        self.was_reset = True
        self.send_closed = True
        self.receive_closed = True
        self.wake_reader()
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def wake_reader(self) -> None:
        """Let a waiting reader look again."""
        if self._readable is not None:
            self._readable.set()
            self._readable = None

    @property
    def closed(self) -> bool:
        """Whether both halves are closed."""
        return self.send_closed and self.receive_closed

    # --- reading ----------------------------------------------------------------------------

    async def wait_readable(self) -> None:
        """Wait for more bytes, the end or a reset (at once if already there)."""
        if self.receive_closed:
            await trio.lowlevel.checkpoint()
            return
        if self._readable is None:
            self._readable = trio.Event()
        await self._readable.wait()

    async def receive_some(self, size_bytes_max: int = RECEIVE_BYTES_MAX) -> bytes:
        """Give what is there, waiting only if there is nothing; `b""` at the end.

        Raises: MuxedStreamReset.
        """
        buffer = self.buffer
        while not buffer:
            if self.end_received:
                return b""  # all of it came, whatever happened to the connection since
            if self.was_reset:
                raise MuxedStreamReset("the stream was reset")
            if self._readable is None:
                self._readable = trio.Event()
            await self._readable.wait()
        if len(buffer) <= size_bytes_max:
            data = bytes(buffer)
            buffer.clear()
        else:
            data = bytes(memoryview(buffer)[:size_bytes_max])
            del buffer[:size_bytes_max]
        if not self.receive_closed:
            self._give_window()
        return data

    def _give_window(self) -> None:
        missing = self.target_window - self.receive_window - len(self.buffer)
        if missing < self.target_window // 2:
            return
        now = trio.current_time()
        if (
            now - self.window_given_at < WINDOW_GROWS_WITHIN_S
            and self.target_window < STREAM_WINDOW_BYTES_MAX
        ):
            missing += self.target_window
            self.target_window *= 2
        self.window_given_at = now
        self.receive_window += missing
        self.conn.queue_window(self.stream_id, missing)

    async def read(self, n: int | None = None) -> bytes:
        """Read as py-libp2p's own code expects it: at most n bytes, an exception at the end."""
        data = await self.receive_some(n if n is not None and n >= 0 else RECEIVE_BYTES_MAX)
        if not data and n != 0:
            raise MuxedStreamEOF("the stream is closed for receiving")
        return data

    # --- writing ----------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """Send all bytes; waits while the window or the connection's outbox is full.

        Raises: MuxedStreamReset, MuxedStreamClosed, MuxedStreamError (window full for too long).
        """
        total = len(data)
        sent = 0
        conn = self.conn
        while sent < total:
            if self.send_closed:
                if self.was_reset:
                    raise MuxedStreamReset("the stream was reset")
                raise MuxedStreamClosed("the stream is closed for sending")
            if conn.outbox_is_full:
                await conn.wait_for_outbox()
                continue
            window = self.send_window
            if window <= 0:
                await self._wait_for_window()
                continue
            size = min(window, MUXER_FRAME_BYTES_MAX, total - sent)
            self.send_window = window - size
            conn.queue_data(self.stream_id, data if size == total else data[sent : sent + size])
            sent += size

    async def _wait_for_window(self) -> None:
        with trio.move_on_after(STREAM_STALL_S_MAX):
            if self._writable is None:
                self._writable = trio.Event()
            await self._writable.wait()
            return
        raise MuxedStreamError(f"the reader took nothing for {STREAM_STALL_S_MAX:g} s")

    # --- ending -----------------------------------------------------------------------------

    async def close(self) -> None:
        """Say that we send no more (the other half stays open)."""
        if not self.send_closed:
            self.send_closed = True
            self.closed_at = trio.current_time()
            self.conn.queue_end(self)
        await trio.lowlevel.checkpoint()

    def discard(self) -> None:
        """Nobody reads any more: drop what is here, and reset if more should come."""
        self.discards = True
        self.buffer.clear()

    async def reset(self) -> None:
        """Abort in both directions."""
        if not self.was_reset and not (self.closed and not self.buffer):
            self.conn.queue_reset(self)
        self.buffer.clear()
        self.end_received = False
        self.take_reset()
        await trio.lowlevel.checkpoint()

    # --- the rest of py-libp2p's interface --------------------------------------------------

    def set_deadline(self, ttl: int) -> None:
        """Not supported: deadlines are trio's cancel scopes."""
        raise MuxedStreamError("use a trio cancel scope")

    def get_remote_address(self) -> tuple[str, int] | None:
        """The socket address of the other side."""
        address: tuple[str, int] | None = self.conn.get_remote_address()
        return address

    async def __aenter__(self) -> MuxerStream:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()
