"""Owns calls: questions with one answer, multiplexed over a link, with deadlines and a rate limit.

Theory of operation. The asking side numbers its calls; the answering side may answer in any order.
A Reply either carries the answer's bytes or a refusal (code, message, when to retry). What the
bytes mean is the method's business; signed documents travel inside them, so that a call proves as
much as its body does. Each peer has a token bucket and a bound on calls under way; beyond either, a
call is refused at once with `rate_limited`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import trio

from p2p.certificates import Certificate
from p2p.codec import Limit, Message, Range, message
from p2p.errors import (
    DeadlineError,
    MalformedError,
    P2PError,
    RateLimitedError,
    RefusedError,
    SessionLostError,
    UntrustedError,
)
from p2p.limits import (
    CALL_TIMEOUT_S,
    CALLS_BURST_PER_PEER,
    CALLS_IN_FLIGHT_PER_PEER_MAX,
    CALLS_PER_SECOND_PER_PEER,
    FRAME_BYTES_MAX,
    TEXT_CHARACTERS_MAX,
)
from p2p.link import Link
from p2p.token_bucket import TokenBucket
from p2p.types import PeerId

log = logging.getLogger(__name__)
CALLS_PROTOCOL = "calls/1"
ADMISSION_PROTOCOL = "admission/1"
"""The same call protocol, served to newcomers, with the admission methods only."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling: the authenticated peer and its certificate (None for a newcomer)."""

    peer_id: PeerId
    certificate: Certificate | None


CallHandler = Callable[[Caller, bytes], Awaitable[bytes]]
"""Answers one call. Raises RefusedError (told to the caller as it is) or another P2PError."""


@message(24)
@dataclass(frozen=True, slots=True)
class Call(Message):
    """A question."""

    number: Annotated[int, Range(0, 2**53)]
    method: Annotated[str, Limit(64)]
    body: Annotated[bytes, Limit(FRAME_BYTES_MAX)]


@message(25)
@dataclass(frozen=True, slots=True)
class Reply(Message):
    """The answer: `code` is empty if it succeeded."""

    number: Annotated[int, Range(0, 2**53)]
    body: Annotated[bytes, Limit(FRAME_BYTES_MAX)]
    code: Annotated[str, Limit(64)] = ""
    reason: Annotated[str, Limit(TEXT_CHARACTERS_MAX)] = ""
    retry_after_ms: Annotated[int, Range(0, 86_400_000)] = 0


class CallLink:
    """The asking side of one link. Feed it with the link's messages (`on_messages`)."""

    def __init__(self, link: Link) -> None:
        """Ask over this link."""
        self.link = link
        self._number = 0
        self._waiting: dict[int, tuple[trio.Event, list[Reply]]] = {}

    def on_messages(self, messages: list[Message]) -> None:
        """Give answers to those who wait for them. Raises: MalformedError for anything else."""
        for item in messages:
            if not isinstance(item, Reply):
                raise MalformedError(f"a {type(item).__name__} where a Reply belongs")
            waiting = self._waiting.get(item.number)
            if waiting is not None:  # an answer after its deadline is dropped
                waiting[1].append(item)
                waiting[0].set()

    def fail_all(self) -> None:
        """The link is gone: wake everybody who waits."""
        for event, _ in self._waiting.values():
            event.set()

    async def call(self, method: str, body: bytes, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        """Ask and wait for the answer.

        Raises: RefusedError, RateLimitedError, DeadlineError, SessionLostError.
        """
        self._number += 1
        number, event, replies = self._number, trio.Event(), list[Reply]()
        self._waiting[number] = (event, replies)
        try:
            self.link.send(Call(number, method, body))
            with trio.move_on_after(timeout_s) as scope:
                await event.wait()
        finally:
            del self._waiting[number]
        if scope.cancelled_caught and not replies:
            raise DeadlineError(f"no answer to {method} within {timeout_s:g} s")
        if not replies:
            raise SessionLostError(f"the link broke while {method} was under way")
        return _body_of(replies[0])


def _body_of(reply: Reply) -> bytes:
    if not reply.code:
        return reply.body
    if reply.code == "rate_limited":
        raise RateLimitedError(reply.reason)
    retry_after_s = reply.retry_after_ms / 1000 if reply.retry_after_ms else None
    raise RefusedError(reply.code, reply.reason, retry_after_s)


async def serve_calls(
    link: Link,
    caller: Caller,
    handlers: Mapping[str, CallHandler],
    *,
    rate_per_s: float = CALLS_PER_SECOND_PER_PEER,
    burst: float = CALLS_BURST_PER_PEER,
) -> None:
    """Answer the calls of one link until it ends (each call in a task of its own).

    Raises: SessionLostError, MalformedError: as `Link.run`.
    """
    bucket = TokenBucket(rate_per_s, burst, trio.current_time())
    in_flight = 0
    failure: P2PError | None = None

    async def answer(call: Call) -> None:
        nonlocal in_flight
        try:
            reply = await _answer(call, caller, handlers)
        finally:
            in_flight -= 1
        if link.is_open:
            link.send(reply)

    async with trio.open_nursery() as nursery:

        def on_messages(messages: list[Message]) -> None:
            nonlocal in_flight
            for item in messages:
                if not isinstance(item, Call):
                    raise MalformedError(f"a {type(item).__name__} where a Call belongs")
                if in_flight >= CALLS_IN_FLIGHT_PER_PEER_MAX or not bucket.take(
                    trio.current_time()
                ):
                    link.send(Reply(item.number, b"", "rate_limited", "too many calls", 1000))
                    continue
                in_flight += 1
                nursery.start_soon(answer, item)

        try:
            await link.run(on_messages)
        except P2PError as error:
            failure = error  # raised outside: a nursery would wrap it in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _answer(call: Call, caller: Caller, handlers: Mapping[str, CallHandler]) -> Reply:
    handler = handlers.get(call.method)
    if handler is None:
        return Reply(call.number, b"", "unknown_method", f"no such method: {call.method}")
    try:
        return Reply(call.number, await handler(caller, call.body))
    except RefusedError as error:
        retry_after_ms = int((error.retry_after_s or 0) * 1000)
        return Reply(call.number, b"", error.code, str(error)[:TEXT_CHARACTERS_MAX], retry_after_ms)
    except MalformedError as error:
        return Reply(call.number, b"", "malformed", str(error)[:TEXT_CHARACTERS_MAX])
    except UntrustedError as error:
        return Reply(call.number, b"", "untrusted", str(error)[:TEXT_CHARACTERS_MAX])
    except P2PError as error:
        return Reply(call.number, b"", "unavailable", str(error)[:TEXT_CHARACTERS_MAX], 1000)
    except Exception:
        # One call must not end the link of everybody else behind this peer; the trace is for us.
        log.exception("call %s failed", call.method)
        return Reply(call.number, b"", "internal", "an internal error; it is in the log")
