"""Owns connections that a stream carries: what a relay passes on looks like a socket to Noise.

Theory of operation. A relay joins two streams (see `p2p.reaching.relay`). At either end the stream
takes the place of the TCP socket: py-libp2p's upgrader secures it with Noise, end to end, and
multiplexes it like any other, so the relay reads ciphertext. py-libp2p's own circuit transport is
not used: see docs/decisions/0011-our-own-relay.md for what it does wrong. `read` gives exactly what
was asked for: py-libp2p gives a message up that comes in more than a hundred pieces
(`libp2p.io.utils.read_exactly`).
"""

from __future__ import annotations

from typing import Any

from libp2p.abc import ConnectionType
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import IOException
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2p.libp2p_adapter.limits import RECEIVE_BYTES_MAX
from p2p.libp2p_adapter.muxer_stream import MuxerStream


class CarriedStream(ReadWriteCloser):
    """A stream as py-libp2p wants to see a socket."""

    def __init__(self, stream: MuxerStream, received: bytes) -> None:
        """Read `received` first, then the stream."""
        self._stream = stream
        self._received = bytearray(received)

    async def read(self, n: int | None = None) -> bytes:
        """Read n bytes (fewer only at the end), or whatever is there. Raises: IOException."""
        buffer = self._received
        wanted = 1 if n is None or n < 0 else n
        try:
            while len(buffer) < wanted:
                data = await self._stream.receive_some()
                if not data:
                    break
                buffer += data
        except MuxedStreamError as error:
            raise IOException(f"the carrying stream is gone: {error}") from error
        size = RECEIVE_BYTES_MAX if n is None or n < 0 else n
        taken = bytes(memoryview(buffer)[:size])
        del buffer[: len(taken)]
        return taken

    async def write(self, data: bytes) -> None:
        """Write all bytes. Raises: IOException."""
        try:
            await self._stream.write(data)
        except MuxedStreamError as error:
            raise IOException(f"the carrying stream is gone: {error}") from error

    async def close(self) -> None:
        """End the stream: what was written still arrives, nothing is read any more."""
        if not self._stream.was_reset:
            self._stream.discard()
            await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Unknown: the other end of the carrying connection is the relay."""
        return None


class CarriedConnection(RawConnection):
    """A raw connection inside of a stream."""

    def __init__(self, stream: MuxerStream, received: bytes, *, initiator: bool) -> None:
        """Take over a stream."""
        super().__init__(
            CarriedStream(stream, received), initiator, ConnectionType.RELAYED, addresses=[]
        )


def is_carried(muxer: Any) -> bool:
    """Tell whether a multiplexed connection runs inside of a stream.

    py-libp2p's `get_connection_type` is not asked: it fails on a private network's connections.
    """
    noise: Any = getattr(muxer.secured_conn, "conn", None)
    raw = getattr(getattr(noise, "read_writer", None), "read_write_closer", None)
    return isinstance(getattr(raw, "_conn", raw), CarriedConnection)
