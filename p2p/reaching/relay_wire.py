"""Owns the one frame that each side of a relay's stream begins with."""

from __future__ import annotations

import struct
from typing import TypeVar

import trio

from p2p.codec import Message, decode_message, encode_message
from p2p.errors import DeadlineError, MalformedError, SessionLostError
from p2p.limits import FRAME_HEADER_BYTES, RELAY_ANSWER_TIMEOUT_S
from p2p.network import Stream
from p2p.wire import encode_frame

M = TypeVar("M", bound=Message)
FIRST_FRAME_BYTES_MAX = 4096
_HEADER = struct.Struct(">I")


async def send_one(stream: Stream, item: Message) -> None:
    """Send one message in a frame. Raises: SessionLostError, DeadlineError."""
    with trio.move_on_after(RELAY_ANSWER_TIMEOUT_S):
        await stream.send_all(encode_frame(encode_message(item), FIRST_FRAME_BYTES_MAX))
        return
    raise DeadlineError(f"{stream.remote} does not read")


async def read_one(stream: Stream, *kinds: type[M]) -> tuple[M, bytes]:
    """Read one message of one of these kinds; gives it with the bytes that came after it.

    Raises: SessionLostError, DeadlineError, MalformedError.
    """
    with trio.move_on_after(RELAY_ANSWER_TIMEOUT_S):
        payload, rest = await _read_frame(stream)
        for kind in kinds[:-1]:
            try:
                return decode_message(payload, kind), rest
            except MalformedError:
                continue
        return decode_message(payload, kinds[-1]), rest
    raise DeadlineError(f"{stream.remote} did not answer in {RELAY_ANSWER_TIMEOUT_S:g} s")


async def _read_frame(stream: Stream) -> tuple[bytes, bytes]:
    data = b""
    while True:
        if len(data) >= FRAME_HEADER_BYTES:
            (length,) = _HEADER.unpack_from(data)
            if not 0 < length <= FIRST_FRAME_BYTES_MAX:
                raise MalformedError("not the first frame of a relay's stream")
            end = FRAME_HEADER_BYTES + length
            if len(data) >= end:
                return data[FRAME_HEADER_BYTES:end], data[end:]
        received = await stream.receive_some()
        if not received:
            raise SessionLostError(f"{stream.remote} went away without an answer")
        data += received
