"""Owns the frame codec: bytes of a stream to frames and back, without any I/O.

Theory of operation. A stream carries frames and nothing else. A frame is a 4-byte big-endian length
followed by that many bytes, which are one msgpack array of messages (see `p2p.codec`). Everything
that is ready at one moment goes into one frame, because a frame costs about 0.1 CPU-ms on each side
whatever its size (measured). The decoder is fed whatever the socket gave and yields whole frames; a
length above the limit is refused before any of its bytes are stored. End of stream proves nothing,
so protocols end with an explicit message; `bytes_pending` tells whether a stream stopped inside a
frame.
"""

from __future__ import annotations

import struct

from p2p.errors import MalformedError
from p2p.limits import FRAME_BYTES_MAX, FRAME_HEADER_BYTES

_HEADER = struct.Struct(">I")


def encode_frame(payload: bytes, size_bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """Put the length in front of a payload.

    Raises: MalformedError if the payload is empty or larger than `size_bytes_max`.
    """
    if not 0 < len(payload) <= size_bytes_max:
        raise MalformedError(f"a frame has 1 to {size_bytes_max} bytes, not {len(payload)}")
    return _HEADER.pack(len(payload)) + payload


class FrameDecoder:
    """Collects bytes and gives back whole frames (sans-IO; one decoder for each stream)."""

    def __init__(self, size_bytes_max: int = FRAME_BYTES_MAX) -> None:
        """Make a decoder that refuses frames larger than `size_bytes_max`."""
        self._size_bytes_max = size_bytes_max
        self._buffer = bytearray()
        self._broken = False

    @property
    def bytes_pending(self) -> int:
        """How many bytes of an unfinished frame are waiting."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and give the payloads of all frames that are now complete.

        Raises: MalformedError if a frame is empty or too large; the decoder is unusable afterwards.
        """
        if self._broken:
            raise MalformedError("this stream broke the frame format before")
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start = 0
        while len(buffer) - start >= FRAME_HEADER_BYTES:
            (length,) = _HEADER.unpack_from(buffer, start)
            if not 0 < length <= self._size_bytes_max:
                self._broken = True
                self._buffer = bytearray()
                raise MalformedError(f"a frame has 1 to {self._size_bytes_max} bytes, not {length}")
            end = start + FRAME_HEADER_BYTES + length
            if len(buffer) < end:
                break
            frames.append(bytes(buffer[start + FRAME_HEADER_BYTES : end]))
            start = end
        if start:
            del buffer[:start]
        return frames
