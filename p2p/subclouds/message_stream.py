"""Owns streams that carry one small message a frame, each waited for under a deadline."""

from __future__ import annotations

from typing import TypeVar

import trio

from p2p.codec import Message, decode_any_message, encode_message
from p2p.errors import DeadlineError, MalformedError, SessionLostError
from p2p.network import Stream
from p2p.wire import FrameDecoder, encode_frame

M = TypeVar("M", bound=Message)
MESSAGE_BYTES_MAX = 16 * 1024
FRAMES_WAITING_MAX = 1024
"""Unread frames of one stream; a peer that sends more at once is not what it should be."""


class MessageStream:
    """One side of such a stream."""

    def __init__(self, stream: Stream) -> None:
        """Take over a fresh stream."""
        self.stream = stream
        self._decoder = FrameDecoder(MESSAGE_BYTES_MAX)
        self._frames: list[bytes] = []

    async def send(self, item: Message, timeout_s: float) -> None:
        """Send a message. Raises: SessionLostError, DeadlineError, MalformedError (too large)."""
        data = encode_frame(encode_message(item), MESSAGE_BYTES_MAX)
        with trio.move_on_after(timeout_s) as scope:
            await self.stream.send_all(data)
        if scope.cancelled_caught:
            raise DeadlineError(f"{self.stream.remote} does not read")

    async def next(self, timeout_s: float, *kinds: type[M]) -> M:
        """Wait for a message of one of these kinds.

        Raises: SessionLostError, DeadlineError, MalformedError.
        """
        with trio.move_on_after(timeout_s) as scope:
            while not self._frames:
                data = await self.stream.receive_some()
                if not data:
                    raise SessionLostError(f"{self.stream.remote} ended the stream")
                self._frames += self._decoder.feed(data)
                if len(self._frames) > FRAMES_WAITING_MAX:
                    raise MalformedError("too many messages at once")
        if scope.cancelled_caught:
            raise DeadlineError(f"{self.stream.remote} did not answer in {timeout_s:g} s")
        item = decode_any_message(self._frames.pop(0))
        if not isinstance(item, kinds):
            raise MalformedError(f"a {type(item).__name__} does not belong here")
        return item
