"""Owns the multiplexer of a connection: yamux as specified, on py-libp2p's secured connection.

Theory of operation. The wire format is yamux version 0 (hashicorp/yamux, spec.md): 12-byte
headers, streams with credit windows. py-libp2p's own `Yamux` stays the base class (its types are
asked for in many places), but reading and writing are done here, because upstream's way has
faults that cannot be repaired from outside (each was measured, see `repairs`):

- It answers pings and new streams from the read loop, under the write lock. When both directions
  are busy, both read loops wait for each other, for good. Here the read loop never waits for a
  write: everything to be sent goes to an outbox, and one task writes it.
- A sender that is cancelled in the middle of a write leaves half a Noise message on the wire, and
  the whole connection breaks. Here only the writing task touches the socket, and nobody cancels
  it.
- It opens 256 streams on a connection and then waits without a word.
- It warns about a peer that ignores its window, and keeps the bytes. Here the connection is closed.
- It polls a full window every 10 ms, and sends a window update after every single read.

The outbox also joins what is ready at one moment into one Noise message: a frame of its own costs
0.1 CPU-ms whatever its size. Pings keep NAT mappings alive and find unplugged peers.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p.libp2p_adapter.limits import (
    CLOSE_FLUSH_S,
    CONNECTION_SILENCE_S_MAX,
    OUTBOX_BYTES_FATAL,
    OUTBOX_BYTES_MAX,
    PING_INTERVAL_S,
    STREAM_LINGER_S,
    STREAMS_ACCEPTED_MAX,
    STREAMS_OPEN_MAX,
)
from p2p.libp2p_adapter.muxer_stream import MuxerStream
from p2p.libp2p_adapter.noise_socket import SessionTransport, Transport, transport_of

_logger = logging.getLogger(__name__)

_HEADER = struct.Struct(">BBHII")
_HEADER_BYTES = 12
_DATA, _WINDOW, _PING, _GO_AWAY = 0, 1, 2, 3
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_NORMAL, _PROTOCOL_ERROR = 0, 1


_WRITE_ERRORS = (
    OSError,
    IOException,
    RawConnError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)


class MuxerProtocolError(Exception):
    """The other side broke the multiplexer's rules; the connection is closed."""


class Muxer(Yamux):
    """A multiplexed connection. `on_lost` is called once, as soon as it is known to be gone."""

    def __init__(
        self,
        secured_conn: Any,
        peer_id: Any,
        is_initiator: bool | None = None,
        on_close: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator, on_close)
        self.streams: dict[int, MuxerStream] = {}
        self.stream_backlog_semaphore = trio.Semaphore(STREAMS_OPEN_MAX)
        self.new_stream_send_channel, self.new_stream_receive_channel = trio.open_memory_channel[
            MuxerStream
        ](STREAMS_ACCEPTED_MAX)
        self.link: Any = None
        self.on_lost: Callable[[], None] | None = None
        self.outbox_is_full = False
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._outbox_event = trio.Event()
        self._outbox_room = trio.lowlevel.ParkingLot()
        self._writing = False
        self._accepted_count = 0
        self._heard_at = 0.0
        self._transport: Transport = SessionTransport(secured_conn)
        self._body_stream: MuxerStream | None = None
        self._body_remaining = 0
        self._body_flags = 0

    # --- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read and write until the connection is gone."""
        self._heard_at = trio.current_time()
        self._transport = transport_of(self.secured_conn)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_loop)
                nursery.start_soon(self._keep_alive)
                self._established = True
                self.event_started.set()
                await self._read_loop()
                self._lose()
                await self._close_socket()
                nursery.cancel_scope.cancel()
        finally:
            self._lose()
            with trio.CancelScope(shield=True):
                await self._close_socket()

    async def close(self, error_code: int = _NORMAL) -> None:
        """Say goodbye, flush what is queued within a moment, and close the socket."""
        if not self.event_shutting_down.is_set():
            self._queue(_HEADER.pack(0, _GO_AWAY, 0, 0, error_code))
            if self.event_started.is_set():
                with trio.move_on_after(CLOSE_FLUSH_S):
                    while (self._outbox or self._writing) and not self.event_shutting_down.is_set():
                        await self._outbox_room.park()
            self._lose()
        await self._close_socket()
        if self.on_close is not None:
            await self.on_close()

    async def _close_socket(self) -> None:
        if self.event_closed.is_set():
            return
        self.event_closed.set()
        try:
            await self.secured_conn.close()
        except Exception as error:  # whatever it says, the socket is gone
            _logger.debug("closing a connection: %s", error)

    def _lose(self) -> None:
        """Everything that waits on this connection learns that it is gone (once)."""
        if self.event_shutting_down.is_set():
            return
        self.event_shutting_down.set()
        self.new_stream_send_channel.close()
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.take_reset()
        self._outbox_event.set()
        self._outbox_room.unpark_all()
        if self.on_lost is not None:
            self.on_lost()

    # --- writing ----------------------------------------------------------------------------

    def _queue(self, frame: bytes) -> None:
        if self.event_shutting_down.is_set():
            return
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        if self._outbox_bytes > OUTBOX_BYTES_MAX:
            self.outbox_is_full = True
        self._outbox_event.set()

    def _answer(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        if self._outbox_bytes > OUTBOX_BYTES_FATAL:
            raise MuxerProtocolError("the peer makes us answer and does not read")
        self._queue(_HEADER.pack(0, kind, flags, stream_id, value))

    def queue_data(self, stream_id: int, data: bytes) -> None:
        """Send one data frame (the stream has taken it from its window)."""
        self._queue(_HEADER.pack(0, _DATA, 0, stream_id, len(data)) + data)

    def queue_window(self, stream_id: int, increment: int) -> None:
        """Let the other side send that many bytes more."""
        self._queue(_HEADER.pack(0, _WINDOW, 0, stream_id, increment))

    def queue_end(self, stream: MuxerStream) -> None:
        """Send the end of our half of a stream."""
        self._queue(_HEADER.pack(0, _WINDOW, _FIN, stream.stream_id, 0))
        if stream.receive_closed:
            self._forget(stream)

    def queue_reset(self, stream: MuxerStream) -> None:
        """Send a reset and forget the stream."""
        self._queue(_HEADER.pack(0, _WINDOW, _RST, stream.stream_id, 0))
        self._forget(stream)

    async def wait_for_outbox(self) -> None:
        """Wait until the outbox has room again (or the connection is gone)."""
        while self.outbox_is_full and not self.event_shutting_down.is_set():
            await self._outbox_room.park()

    async def _write_frame(self, data: bytes) -> None:
        self._queue(data)
        await trio.lowlevel.checkpoint()

    async def _write_loop(self) -> None:
        write = self._transport.write
        while not self.event_shutting_down.is_set():
            if not self._outbox:
                self._outbox_event = trio.Event()
                await self._outbox_event.wait()
                continue
            data = self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox)
            self._outbox.clear()
            self._outbox_bytes = 0
            self._writing = True
            try:
                await write(data)
            except _WRITE_ERRORS as error:
                _logger.debug("writing to %s: %s", self.peer_id, error)
                break
            finally:
                self._writing = False
            if self._outbox_bytes <= OUTBOX_BYTES_MAX:
                self.outbox_is_full = False
                self._outbox_room.unpark_all()
        self._lose()
        await self._close_socket()

    # --- streams ----------------------------------------------------------------------------

    async def open_stream(self) -> MuxerStream:
        """Open a stream; waits while STREAMS_OPEN_MAX of ours are open.

        Raises: MuxedStreamError if the connection is gone.
        """
        await self.stream_backlog_semaphore.acquire()
        if self.event_shutting_down.is_set():
            self.stream_backlog_semaphore.release()
            raise MuxedStreamError("the connection is closed")
        stream_id = self.next_stream_id
        self.next_stream_id += 2
        stream = MuxerStream(stream_id, self, True)
        self.streams[stream_id] = stream
        self._queue(_HEADER.pack(0, _WINDOW, _SYN, stream_id, 0))
        return stream

    def _forget(self, stream: MuxerStream) -> None:
        if self.streams.pop(stream.stream_id, None) is None:
            return
        if stream.is_initiator:
            self.stream_backlog_semaphore.release()
        else:
            self._accepted_count -= 1

    # --- reading ----------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        buffer = bytearray()
        try:
            while not self.event_shutting_down.is_set():
                chunk = await self._transport.read()
                self._heard_at = trio.current_time()
                if not chunk:
                    return
                buffer += chunk
                del buffer[: self._take(buffer)]
        except MuxerProtocolError as error:
            _logger.info("closing the connection to %s: %s", self.peer_id, error)
            with trio.move_on_after(CLOSE_FLUSH_S):
                await self.close(_PROTOCOL_ERROR)
        except (OSError, IOException, RawConnError, ValueError) as error:
            _logger.debug("reading from %s: %s", self.peer_id, error)
        except trio.ClosedResourceError:
            pass
        except Exception as error:  # noise: a message that does not decrypt
            _logger.info("the connection to %s broke: %r", self.peer_id, error)

    def _take(self, buffer: bytearray) -> int:
        """Handle all that is complete and give how many bytes that was."""
        view = memoryview(buffer)
        size = len(view)
        position = 0
        try:
            while True:
                if self._body_remaining:
                    part = min(self._body_remaining, size - position)
                    if part:
                        self._take_body(view[position : position + part])
                        position += part
                    if self._body_remaining:
                        return position
                    self._end_body()
                if size - position < _HEADER_BYTES:
                    return position
                header = _HEADER.unpack_from(view, position)
                position += _HEADER_BYTES
                self._take_header(*header)
                if self.event_shutting_down.is_set():
                    return position
        finally:
            view.release()

    def _take_header(
        self, version: int, kind: int, flags: int, stream_id: int, length: int
    ) -> None:
        if version != 0 or kind > _GO_AWAY:
            raise MuxerProtocolError("not a yamux frame")
        if kind == _PING:
            if flags & _SYN:
                self._answer(_PING, _ACK, 0, length)
            return
        if kind == _GO_AWAY:
            self._lose()
            return
        if flags & _SYN:
            self._accept(stream_id)
        stream = self.streams.get(stream_id)
        if kind == _WINDOW:
            if stream is not None:
                if length:
                    stream.add_window(length)
                self._take_flags(stream, flags)
            return
        self._body_stream = stream
        self._body_flags = flags
        self._body_remaining = length
        if stream is not None and length > stream.receive_window:
            raise MuxerProtocolError("the peer sends more than its window")
        if not length:
            self._end_body()

    def _take_body(self, data: memoryview) -> None:
        self._body_remaining -= len(data)
        stream = self._body_stream
        if stream is None or stream.receive_closed:
            return
        if stream.discards:
            self.queue_reset(stream)
            stream.take_reset()
            return
        stream.take_data(data)

    def _end_body(self) -> None:
        stream, self._body_stream = self._body_stream, None
        if stream is not None and self._body_flags:
            self._take_flags(stream, self._body_flags)
        self._body_flags = 0

    def _take_flags(self, stream: MuxerStream, flags: int) -> None:
        if flags & _RST:
            self._forget(stream)
            stream.take_reset()
        elif flags & _FIN and not stream.receive_closed:
            stream.take_end()
            if stream.send_closed:
                self._forget(stream)

    def _accept(self, stream_id: int) -> None:
        if stream_id == 0 or stream_id % 2 == self.next_stream_id % 2:
            raise MuxerProtocolError("the peer opens a stream with a number of ours")
        if stream_id in self.streams:
            raise MuxerProtocolError("the peer opens a stream twice")
        if self._accepted_count >= STREAMS_ACCEPTED_MAX:
            self._answer(_WINDOW, _RST, stream_id, 0)
            return
        stream = MuxerStream(stream_id, self, False)
        try:
            self.new_stream_send_channel.send_nowait(stream)
        except trio.WouldBlock:
            self._answer(_WINDOW, _RST, stream_id, 0)
            return
        self._accepted_count += 1
        self.streams[stream_id] = stream
        self._answer(_WINDOW, _ACK, stream_id, 0)

    # --- keeping alive ----------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        number = 0
        while True:
            await trio.sleep(PING_INTERVAL_S)
            now = trio.current_time()
            if now - self._heard_at > CONNECTION_SILENCE_S_MAX:
                _logger.info("the connection to %s is silent: closing it", self.peer_id)
                self._lose()
                await self._close_socket()
                return
            number += 1
            self._queue(_HEADER.pack(0, _PING, _SYN, 0, number))
            for stream in list(self.streams.values()):
                if stream.send_closed and now - stream.closed_at > STREAM_LINGER_S:
                    self.queue_reset(stream)
                    stream.take_reset()
