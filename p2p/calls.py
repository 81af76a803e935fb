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
RETRY_AFTER_S_MAX = 86_400


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling: the authenticated peer and its certificate (None for a newcomer).

    `address`: the IP address of its connection, empty if that is not known.
    """

    peer_id: PeerId
    certificate: Certificate | None
    address: str = ""


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
    retry_after_ms: Annotated[int, Range(0, RETRY_AFTER_S_MAX * 1000)] = 0


class CallLink:
    """The asking side of one link: `run` moves its messages and ends with it."""

    def __init__(self, link: Link) -> None:
        """Ask over this link."""
        self.link = link
        self._number = 0
        self._waiting: dict[int, tuple[trio.Event, list[Reply]]] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the link until it ends; who waits then is woken. Raises: as `Link.run`."""
        try:
            await self.link.run(self.on_messages, task_status=task_status)
        finally:
            self.fail_all()

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

    async def call(
        self, method: str, body: bytes, timeout_s: float = CALL_TIMEOUT_S, *, urgent: bool = True
    ) -> bytes:
        """Ask and wait for the answer (`urgent`: as `Link.send`).

        Raises: RefusedError, RateLimitedError, DeadlineError, SessionLostError.
        """
        self._number += 1
        number, event, replies = self._number, trio.Event(), list[Reply]()
        self._waiting[number] = (event, replies)
        try:
            self.link.send(Call(number, method, body), urgent=urgent)
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
    bucket: TokenBucket | None = None,
) -> None:
    """Answer the calls of one link until it ends (each call in a task of its own).

    Args:
        bucket: how often this peer may call, shared by all its links.
    Raises: SessionLostError, MalformedError: as `Link.run`.
    """
    if bucket is None:
        bucket = TokenBucket(CALLS_PER_SECOND_PER_PEER, CALLS_BURST_PER_PEER, trio.current_time())
    in_flight = 0
    failure: P2PError | None = None

    async def answer(call: Call) -> None:
        nonlocal in_flight
        try:
            reply = await _answer(call, caller, handlers)
        finally:
            in_flight -= 1
        _send_reply(link, reply)

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


def _send_reply(link: Link, reply: Reply) -> None:
    try:
        link.send(reply)
    except SessionLostError:
        pass  # the link has ended: `Link.run` reports it
    except MalformedError as error:
        # One answer that cannot be sent must not end the link of all other calls.
        log.error("the answer to a call of %s: %s", link.remote, error)
        _send_reply(link, Reply(reply.number, b"", "internal", "the answer cannot be sent"))


async def _answer(call: Call, caller: Caller, handlers: Mapping[str, CallHandler]) -> Reply:
    handler = handlers.get(call.method)
    if handler is None:
        return Reply(call.number, b"", "unknown_method", f"no such method: {call.method}")
    try:
        return Reply(call.number, await handler(caller, call.body))
    except RefusedError as error:
        retry_after_ms = int(min(max(error.retry_after_s or 0, 0), RETRY_AFTER_S_MAX) * 1000)
        reason = str(error)[:TEXT_CHARACTERS_MAX]
        return Reply(call.number, b"", error.code[:64], reason, retry_after_ms)
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
