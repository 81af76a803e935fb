"""Owns the way from a connection's plaintext to its TCP socket and back, in few steps.

Theory of operation. py-libp2p's secured connection reads a 2-byte length and a body for every
Noise message, through five objects, two locks and four scheduler turns. Once the handshake is
done, nothing of that is needed: what the socket has is taken at once and cut into Noise messages
(2-byte length, ciphertext with a 16-byte tag, spec: libp2p noise, "wire format"), and what is to
be sent is sealed and written in one call. One task reads and one writes, so there are no locks.
Measured, with the writer that joins frames: half the CPU time of a small frame.

Connections of another make (a private network's additional cipher) keep py-libp2p's own way.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.io import NoiseTransportReadWriter

from p2p.libp2p_adapter.limits import WRITE_STALL_S_MAX

RECEIVE_BYTES = 128 * 1024
PLAINTEXT_BYTES_MAX = 65_535 - 16
_LENGTH_BYTES = 2


class Transport(Protocol):
    """Plaintext in and out."""

    async def read(self) -> bytes:
        """Wait for some bytes; `b""` is the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Write all bytes; gives up when the socket takes nothing for WRITE_STALL_S_MAX."""
        ...


class SessionTransport:
    """py-libp2p's own way, for connections that are not plain Noise over TCP."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def read(self) -> bytes:
        """Wait for some bytes; `b""` is the end."""
        data: bytes = await self._session.read(None)
        return data

    async def write(self, data: bytes) -> None:
        """Write all bytes."""
        with trio.fail_after(WRITE_STALL_S_MAX):
            await self._session.write(data)


class NoiseSocket:
    """Plaintext in and out of a TCP socket after the Noise handshake."""

    def __init__(
        self,
        stream: trio.SocketStream,
        raw: socket.socket,
        encrypt: Callable[[bytes], bytes],
        decrypt: Callable[[bytes], bytes],
        plaintext: bytes,
    ) -> None:
        self._stream = stream
        self._socket = raw
        self._encrypt = encrypt
        self._decrypt = decrypt
        self._plaintext = plaintext
        self._buffer = bytearray()
        self._may_have_more = False

    async def read(self) -> bytes:
        """Wait for some bytes; `b""` is the end.

        Raises: OSError, trio.ClosedResourceError, and what a message raises that does not decrypt.
        """
        if self._plaintext:
            data, self._plaintext = self._plaintext, b""
            return data
        buffer = self._buffer
        while True:
            chunk = await self._receive()
            if not chunk:
                return b""
            buffer += chunk
            opened = self._open_messages()
            if opened:
                return opened

    async def _receive(self) -> bytes:
        if self._may_have_more:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._socket)
        while True:
            try:
                chunk = self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_readable(self._socket)
                continue
            self._may_have_more = len(chunk) == RECEIVE_BYTES
            return chunk

    def _open_messages(self) -> bytes:
        buffer = self._buffer
        size = len(buffer)
        position = 0
        opened: list[bytes] = []
        while size - position >= _LENGTH_BYTES:
            start = position + _LENGTH_BYTES
            end = start + (buffer[position] << 8 | buffer[position + 1])
            if end > size:
                break
            opened.append(self._decrypt(bytes(buffer[start:end])))
            position = end
        if position:
            del buffer[:position]
        return opened[0] if len(opened) == 1 else b"".join(opened)

    async def write(self, data: bytes) -> None:
        """Write all bytes.

        Raises: OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError.
        """
        sealed = self._seal(data)
        try:
            sent = self._socket.send(sealed)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(sealed):
            with trio.fail_after(WRITE_STALL_S_MAX):
                await self._stream.send_all(memoryview(sealed)[sent:])

    def _seal(self, data: bytes) -> bytes:
        if len(data) <= PLAINTEXT_BYTES_MAX:
            ciphertext = self._encrypt(data)
            return len(ciphertext).to_bytes(_LENGTH_BYTES, "big") + ciphertext
        parts: list[bytes] = []
        for start in range(0, len(data), PLAINTEXT_BYTES_MAX):
            ciphertext = self._encrypt(data[start : start + PLAINTEXT_BYTES_MAX])
            parts += (len(ciphertext).to_bytes(_LENGTH_BYTES, "big"), ciphertext)
        return b"".join(parts)


def transport_of(session: Any) -> Transport:
    """Give the short way of a secured connection if it is plain Noise over TCP."""
    noise: Any = getattr(session, "conn", None)
    if type(noise) is not NoiseTransportReadWriter:
        return SessionTransport(session)
    connection = noise.read_writer.read_write_closer
    if type(connection) is not RawConnection or type(connection.stream) is not TrioTCPStream:
        return SessionTransport(session)
    stream = connection.stream.stream
    raw = getattr(getattr(stream, "socket", None), "_sock", None)
    if not isinstance(raw, socket.socket):
        return SessionTransport(session)
    return NoiseSocket(stream, raw, noise.encrypt, noise.decrypt, session._drain(None))
