"""Owns the link: one long-lived stream between two peers that carries many conversations.

Theory of operation. Job sessions and calls both run over links. A frame costs about 0.1 CPU-ms on
each side whatever its size (measured), so the writer puts everything that is waiting into one
frame: `send` only encodes and queues, one task writes. While a write is under way the next batch
collects, which makes batches grow with load and keeps the first message at once when the link is
idle. What nobody waits for (`urgent=False`) stays a few milliseconds for a frame that goes anyway.
Both sides send a Ping when they have been quiet for HEARTBEAT_INTERVAL_S; a side that has heard
nothing for SESSION_SILENCE_S_MAX gives the link up, because a frozen peer is not noticed in any
other way. A link ends with a Bye or with an error; the end of the stream without a Bye is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgpack
import trio

from p2p.codec import Limit, Message, decode_messages, encode_message, message
from p2p.errors import MalformedError, P2PError, SessionLostError
from p2p.limits import (
    FRAME_BYTES_MAX,
    HEARTBEAT_INTERVAL_S,
    MESSAGES_PER_FRAME_MAX,
    SEND_DELAY_S,
    SESSION_SEND_QUEUE_MESSAGES_MAX,
    SESSION_SEND_TIMEOUT_S,
    SESSION_SILENCE_S_MAX,
    TEXT_CHARACTERS_MAX,
)
from p2p.network import Stream
from p2p.types import PeerId
from p2p.wire import FrameDecoder, encode_frame

log = logging.getLogger(__name__)
MessageHandler = Callable[[list[Message]], None]
_ARRAY_HEADER_BYTES = 5


@message(20)
@dataclass(frozen=True, slots=True)
class Ping(Message):
    """I am still here; answer with a Pong."""


@message(21)
@dataclass(frozen=True, slots=True)
class Pong(Message):
    """I am still here."""


@message(22)
@dataclass(frozen=True, slots=True)
class Bye(Message):
    """I am closing this link on purpose."""

    reason: Annotated[str, Limit(TEXT_CHARACTERS_MAX)] = ""


class Link:
    """One side of a link. `send` never waits; `run` moves the bytes until the link ends."""

    def __init__(self, stream: Stream, *, clock: Callable[[], float] = trio.current_time) -> None:
        """Take over a fresh stream (nobody else may use it from now on)."""
        self.remote: PeerId = stream.remote
        self._stream = stream
        self._clock = clock
        self._pending: list[bytes] = []
        self._wake = trio.Event()
        self._patience = trio.CancelScope()
        """Around the writer's wait for `_wake`: its deadline is that of what is not urgent."""
        self._closing = False
        self._ended: str | None = None
        self._heard_at = self._sent_at = clock()

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return self._ended is None and not self._closing

    def send(self, item: Message, *, urgent: bool = True) -> None:
        """Queue a message; it leaves with the next frame.

        Args:
            urgent: False lets it wait for company, for at most SEND_DELAY_S.
        Raises: SessionLostError if the link has ended or the peer does not keep up;
            MalformedError if the message alone is larger than a frame.
        """
        if self._ended is not None or self._closing:
            raise SessionLostError(f"the link to {self.remote} is closed: {self._ended or 'bye'}")
        data = encode_message(item)
        if len(data) + _ARRAY_HEADER_BYTES > FRAME_BYTES_MAX:
            raise MalformedError(f"a message of {len(data)} bytes does not fit a frame")
        if len(self._pending) >= SESSION_SEND_QUEUE_MESSAGES_MAX:
            self._ended = "the peer does not keep up"
            self._wake.set()
            raise SessionLostError(f"the link to {self.remote} is closed: {self._ended}")
        self._pending.append(data)
        if urgent:
            self._wake.set()
        else:
            latest_at = trio.current_time() + SEND_DELAY_S
            self._patience.deadline = min(self._patience.deadline, latest_at)

    def close(self, reason: str = "") -> None:
        """Send what is queued and a Bye, then end; `run` returns. Never raises."""
        if not self.is_open:
            return
        try:
            self.send(Bye(reason[:TEXT_CHARACTERS_MAX]))
        except SessionLostError:
            return  # the queue is full: `run` ends with that
        self._closing = True

    async def run(
        self,
        on_messages: MessageHandler,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the link until it ends; `on_messages` gets the messages of each frame in order.

        Returns when either side said Bye. Raises: SessionLostError (broken, silent, or the peer
        does not keep up), MalformedError (the peer broke the protocol), or a P2PError of
        `on_messages`.
        """
        failure: P2PError | None = None
        try:
            async with trio.open_nursery() as nursery:

                async def part(work: Callable[[], object]) -> None:
                    nonlocal failure
                    try:
                        await work()  # type: ignore[misc]
                    except P2PError as error:
                        failure = failure or error
                    nursery.cancel_scope.cancel()

                nursery.start_soon(part, lambda: self._read(on_messages))
                nursery.start_soon(part, self._write)
                nursery.start_soon(part, self._watch)
                task_status.started()
        finally:
            self._ended = self._ended or (str(failure) if failure else "closed")
            self._pending.clear()
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await (self._stream.reset() if failure else self._stream.close())
        if failure is not None:
            raise failure

    async def _read(self, on_messages: MessageHandler) -> None:
        decoder = FrameDecoder()
        while True:
            data = await self._stream.receive_some()
            if not data:
                raise SessionLostError(f"{self.remote} went away without a word")
            self._heard_at = self._clock()
            for payload in decoder.feed(data):
                messages = decode_messages(payload)
                if self._handle_own(messages):
                    on_messages([m for m in messages if not isinstance(m, (Ping, Pong, Bye))])
                    return
                if messages:
                    on_messages(messages)

    def _handle_own(self, messages: list[Message]) -> bool:
        """Answer pings and drop them from the list; True if the peer said Bye."""
        if not any(isinstance(m, (Ping, Pong, Bye)) for m in messages):
            return False
        if any(isinstance(m, Bye) for m in messages):
            return True
        if any(isinstance(m, Ping) for m in messages) and self.is_open:
            self.send(Pong())
        messages[:] = [m for m in messages if not isinstance(m, (Ping, Pong))]
        return False

    async def _write(self) -> None:
        while True:
            self._patience = trio.CancelScope()
            if self._pending:  # sent before `run`
                self._wake.set()
            with self._patience:
                await self._wake.wait()
            self._wake = trio.Event()
            if self._ended is not None:
                raise SessionLostError(f"the link to {self.remote} is closed: {self._ended}")
            while self._pending:
                await self._send_frame(self._take_batch())
            if self._closing:
                return

    def _take_batch(self) -> list[bytes]:
        size = _ARRAY_HEADER_BYTES
        count = 0
        for data in self._pending:
            size += len(data)
            if size > FRAME_BYTES_MAX or count == MESSAGES_PER_FRAME_MAX:
                break
            count += 1
        batch, self._pending = self._pending[:count], self._pending[count:]
        return batch

    async def _send_frame(self, batch: list[bytes]) -> None:
        payload = msgpack.Packer().pack_array_header(len(batch)) + b"".join(batch)
        with trio.move_on_after(SESSION_SEND_TIMEOUT_S) as scope:
            await self._stream.send_all(encode_frame(payload))
        if scope.cancelled_caught:
            raise SessionLostError(f"{self.remote} does not read what we send")
        self._sent_at = self._clock()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(HEARTBEAT_INTERVAL_S / 2)
            now = self._clock()
            if now - self._heard_at > SESSION_SILENCE_S_MAX:
                raise SessionLostError(
                    f"{self.remote} has been silent for {now - self._heard_at:.0f} s"
                )
            quiet_s = now - max(self._sent_at, self._heard_at)
            if (
                quiet_s >= HEARTBEAT_INTERVAL_S or now - self._heard_at >= HEARTBEAT_INTERVAL_S
            ) and self.is_open:
                self.send(Ping())
