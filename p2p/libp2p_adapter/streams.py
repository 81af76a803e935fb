"""Owns the streams that the port hands out, and the negotiation of a stream's protocol.

Theory of operation. A fresh stream first agrees on a protocol (multistream-select 1.0: each
message is a varint length, text and a newline). The opener sends the header and its one choice in
one write and waits for both answers; the other side answers as it reads, with `na` for what it
does not serve. Then the stream belongs to the protocol. Nothing is added to sending and receiving
but the mapping of errors: a stream that ended is `b""`, one that broke is a SessionLostError.
"""

from __future__ import annotations

from typing import Any

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2p.errors import MalformedError, RefusedError, SessionLostError
from p2p.libp2p_adapter.limits import PROTOCOL_NAME_BYTES_MAX
from p2p.libp2p_adapter.muxer_stream import MuxerStream
from p2p.network import Way
from p2p.types import PeerId

_MULTISTREAM = "/multistream/1.0.0"
_NOT_AVAILABLE = "na"


class LibP2PStream:
    """A stream of the port on a multiplexed libp2p connection."""

    __slots__ = ("_net_stream", "_stream", "remote")

    def __init__(self, net_stream: Any, remote: PeerId) -> None:
        self._net_stream = net_stream
        self._stream: MuxerStream = net_stream.muxed_stream
        self.remote = remote

    @property
    def muxed_stream(self) -> MuxerStream:
        """The stream below (for a connection that it is to carry)."""
        return self._stream

    @property
    def remote_address(self) -> str:
        """The other side's IP address; empty if the connection is gone."""
        address = self._stream.get_remote_address()
        return address[0] if address else ""

    @property
    def way(self) -> Way | None:
        """DIRECT where the connection has the other side's address: one in a stream has none."""
        return Way.DIRECT if self._stream.get_remote_address() else None

    async def send_all(self, data: bytes) -> None:
        """Send all bytes. Raises: SessionLostError if the stream or connection is gone."""
        try:
            await self._stream.write(data)
        except MuxedStreamError as error:
            raise SessionLostError(f"the stream to {self.remote} is gone: {error}") from error

    async def receive_some(self) -> bytes:
        """Give up to 64 KiB of what is there; `b""` is the end. Raises: SessionLostError."""
        try:
            return await self._stream.receive_some()
        except MuxedStreamError as error:
            raise SessionLostError(f"the stream from {self.remote} is gone: {error}") from error

    async def close(self) -> None:
        """Close in both directions."""
        if not self._stream.was_reset:
            self._stream.discard()
            await self._net_stream.close()

    async def reset(self) -> None:
        """Abort in both directions."""
        await self._net_stream.reset()


async def finish(stream: LibP2PStream, *, broken: bool) -> None:
    """End a stream whatever its state, even while being cancelled."""
    with trio.CancelScope(shield=True):
        if broken:
            await stream.reset()
        else:
            await stream.close()


# --- negotiation ------------------------------------------------------------------------------


def _delimited(text: str) -> bytes:
    body = text.encode() + b"\n"
    assert len(body) < 16_384
    if len(body) < 128:
        return bytes([len(body)]) + body
    return bytes([len(body) & 127 | 128, len(body) >> 7]) + body


def _parse_delimited(buffer: bytearray) -> tuple[str, int] | None:
    """Give a message and how many bytes it took, or None if it is not complete.

    Raises: MalformedError.
    """
    if not buffer:
        return None
    length, start = buffer[0], 1
    if length > 127:
        if len(buffer) < 2:
            return None
        length, start = length & 127 | buffer[1] << 7, 2
    if not 0 < length <= PROTOCOL_NAME_BYTES_MAX:
        raise MalformedError("a protocol's name is too long")
    if len(buffer) < start + length:
        return None
    body = bytes(buffer[start : start + length])
    if body[-1:] != b"\n":
        raise MalformedError("a protocol's name ends in a newline")
    try:
        return body[:-1].decode(), start + length
    except UnicodeDecodeError as error:
        raise MalformedError("a protocol's name is text") from error


async def read_delimited(stream: MuxerStream) -> str:
    """Read one negotiation message; bytes after it stay in the stream's buffer.

    Raises: MalformedError, SessionLostError.
    """
    while True:
        parsed = _parse_delimited(stream.buffer)
        if parsed is not None:
            text, size = parsed
            del stream.buffer[:size]
            return text
        if stream.receive_closed:
            raise SessionLostError("the stream ended while its protocol was agreed on")
        await stream.wait_readable()


async def negotiate_outbound(stream: MuxerStream, protocol: str) -> None:
    """Ask the other side for a protocol on a stream that we opened.

    Raises: RefusedError if it is not served, MalformedError, SessionLostError.
    """
    try:
        await stream.write(_delimited(_MULTISTREAM) + _delimited(protocol))
    except MuxedStreamError as error:
        raise SessionLostError("the connection broke while a stream was opened") from error
    if await read_delimited(stream) != _MULTISTREAM:
        raise MalformedError("the peer does not speak multistream-select 1.0")
    answer = await read_delimited(stream)
    if answer == _NOT_AVAILABLE:
        raise RefusedError("protocol_not_served", "the peer does not serve this protocol to us")
    if answer != protocol:
        raise MalformedError("the peer answered with another protocol")


async def read_request(stream: MuxerStream) -> str:
    """Read the header and the first choice on a stream that the other side opened.

    The caller answers with `answer`. Raises: MalformedError, SessionLostError.
    """
    if await read_delimited(stream) != _MULTISTREAM:
        raise MalformedError("the peer does not speak multistream-select 1.0")
    if _parse_delimited(stream.buffer) is not None:
        # Both came together: the answer to both goes out in one write (see `answer`).
        stream.header_is_due = True
    else:
        await _write(stream, _delimited(_MULTISTREAM))
    return await read_delimited(stream)


async def read_choice(stream: MuxerStream) -> str:
    """Read a further choice, after a refusal. Raises: MalformedError, SessionLostError."""
    return await read_delimited(stream)


async def answer(stream: MuxerStream, protocol: str | None) -> None:
    """Accept a protocol, or refuse with None. Raises: SessionLostError."""
    data = _delimited(_NOT_AVAILABLE if protocol is None else protocol)
    if stream.header_is_due:
        stream.header_is_due = False
        data = _delimited(_MULTISTREAM) + data
    await _write(stream, data)


async def _write(stream: MuxerStream, data: bytes) -> None:
    try:
        await stream.write(data)
    except MuxedStreamError as error:
        raise SessionLostError("the connection broke while a stream was opened") from error
