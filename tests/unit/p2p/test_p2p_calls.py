"""Owns the tests of calls: answers, refusals, deadlines, limits, and faults that stay contained."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import trio
import trio.testing

from p2p.call_service import PeerBuckets, handle_calls
from p2p.calls import Call, Caller, CallHandler, CallLink, Reply, serve_calls
from p2p.codec import decode_messages, encode_messages
from p2p.errors import (
    DeadlineError,
    MalformedError,
    P2PError,
    PeerUnavailableError,
    RateLimitedError,
    RefusedError,
    SessionLostError,
    StaleError,
)
from p2p.limits import CALLS_IN_FLIGHT_PER_PEER_MAX, FRAME_BYTES_MAX
from p2p.link import Link, Ping
from p2p.network import Network, StreamHandler
from p2p.token_bucket import TokenBucket
from p2p.types import Role
from p2p.wire import FrameDecoder, encode_frame
from tests.fakes.clocks import FakeClock
from tests.fakes.streams import MemoryStream, stream_pair
from tests.fakes.trust import BOOTSTRAP, NODE, OTHER_NODE, bootstrap_chain, membership

CALLER = Caller(NODE.peer_id, None)


@dataclass
class Service:
    """Handlers for every kind of outcome."""

    release: trio.Event = field(default_factory=trio.Event)
    cancelled: int = 0
    begun: int = 0
    callers: list[Caller] = field(default_factory=list)

    def handlers(self) -> dict[str, CallHandler]:
        async def echo(caller: Caller, body: bytes) -> bytes:
            self.callers.append(caller)
            return body

        async def slow(caller: Caller, body: bytes) -> bytes:
            self.begun += 1
            try:
                await self.release.wait()
            except trio.Cancelled:
                self.cancelled += 1
                raise
            return body

        async def too_large(caller: Caller, body: bytes) -> bytes:
            return bytes(FRAME_BYTES_MAX)

        return {"echo": echo, "slow": slow, "too_large": too_large} | {
            name: self._raising(error) for name, error in ERRORS.items()
        }

    def _raising(self, error: Exception) -> CallHandler:
        async def handler(caller: Caller, body: bytes) -> bytes:
            raise error

        return handler


ERRORS: dict[str, Exception] = {
    "refused": RefusedError("busy", "not now", 2.5),
    "refused_plainly": RefusedError("no", "never"),
    "refused_for_ever": RefusedError("c" * 100, "r" * 5000, float("inf")),
    "refused_in_the_past": RefusedError("late", "", -1.0),
    "malformed": MalformedError("bad field"),
    "untrusted": StaleError("expired"),
    "unavailable": PeerUnavailableError("the database is away"),
    "bug": KeyError("secret detail"),
    "surrogates": RefusedError("no", "\ud800"),
}


@asynccontextmanager
async def service(
    handlers: Mapping[str, CallHandler], bucket: TokenBucket | None = None
) -> AsyncIterator[tuple[CallLink, list[P2PError | None], MemoryStream]]:
    """Give a caller's link, how the serving side ended, and the caller's stream."""
    ours, theirs = stream_pair(NODE.peer_id, BOOTSTRAP.peer_id, window_bytes=4 << 20)
    link = CallLink(Link(ours))
    ends: list[P2PError | None] = []

    async def serve() -> None:
        try:
            await serve_calls(Link(theirs), CALLER, handlers, bucket=bucket)
            ends.append(None)
        except P2PError as error:
            ends.append(error)

    async def run() -> None:
        try:
            await link.run()
        except P2PError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(run)
        with trio.fail_after(600):
            yield link, ends, ours
        nursery.cancel_scope.cancel()


async def test_answers_come_back_to_who_asked() -> None:
    desk = Service()
    async with service(desk.handlers()) as (link, _, _):
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            answers[number] = await link.call("echo", str(number).encode())

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
    assert answers == {number: str(number).encode() for number in range(200)}
    assert desk.callers == [CALLER] * 200


async def test_a_slow_call_does_not_hold_up_others() -> None:
    desk = Service()
    async with service(desk.handlers()) as (link, _, _), trio.open_nursery() as nursery:
        nursery.start_soon(link.call, "slow", b"")
        assert await link.call("echo", b"fast") == b"fast"
        desk.release.set()


@pytest.mark.parametrize(
    ("method", "code", "retry_after_s"),
    [
        ("refused", "busy", 2.5),
        ("refused_plainly", "no", None),
        ("refused_for_ever", "c" * 64, 86_400.0),
        ("refused_in_the_past", "late", None),
        ("malformed", "malformed", None),
        ("untrusted", "untrusted", None),
        ("unavailable", "unavailable", 1.0),
        ("bug", "internal", None),
        ("too_large", "internal", None),
        ("surrogates", "internal", None),
        ("nonsense", "unknown_method", None),
    ],
)
async def test_errors_become_refusals_and_the_link_stays(
    method: str, code: str, retry_after_s: float | None
) -> None:
    async with service(Service().handlers()) as (link, ends, _):
        with pytest.raises(RefusedError) as caught:
            await link.call(method, b"")
        assert (caught.value.code, caught.value.retry_after_s) == (code, retry_after_s)
        assert "secret" not in str(caught.value)
        assert await link.call("echo", b"still here") == b"still here"
        assert ends == []


async def test_a_deadline_and_the_answer_after_it(autojump_clock: trio.abc.Clock) -> None:
    desk = Service()
    async with service(desk.handlers()) as (link, _, _):
        started = trio.current_time()
        with pytest.raises(DeadlineError, match="slow within 3 s"):
            await link.call("slow", b"", timeout_s=3)
        assert trio.current_time() - started == pytest.approx(3)
        desk.release.set()
        await trio.sleep(1)
        assert await link.call("echo", b"next") == b"next"


async def test_a_peer_that_asks_too_often() -> None:
    bucket = TokenBucket(0.001, 3, 0.0)
    async with service(Service().handlers(), bucket) as (link, ends, _):
        for _ in range(3):
            await link.call("echo", b"")
        for _ in range(3):
            with pytest.raises(RateLimitedError):
                await link.call("echo", b"")
        assert ends == []


async def test_calls_under_way_are_bounded() -> None:
    desk = Service()
    async with service(desk.handlers()) as (link, _, _), trio.open_nursery() as nursery:
        for _ in range(CALLS_IN_FLIGHT_PER_PEER_MAX):
            nursery.start_soon(link.call, "slow", b"")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RateLimitedError):
            await link.call("echo", b"")
        desk.release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await link.call("echo", b"again") == b"again"


async def test_a_broken_link_wakes_callers_and_stops_handlers() -> None:
    desk = Service()
    async with service(desk.handlers()) as (link, ends, stream):

        async def expect_loss() -> None:
            with pytest.raises(SessionLostError):
                await link.call("slow", b"")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_loss)
            await trio.testing.wait_all_tasks_blocked()
            assert desk.begun == 1
            stream.break_now()
        await trio.testing.wait_all_tasks_blocked()
        assert desk.cancelled == 1
        assert [type(end) for end in ends] == [SessionLostError]
        with pytest.raises(SessionLostError):
            await link.call("echo", b"")


async def test_a_bye_wakes_callers_at_once() -> None:
    ours, theirs = stream_pair(NODE.peer_id, BOOTSTRAP.peer_id)
    link, other = CallLink(Link(ours)), Link(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        nursery.start_soon(other.run, lambda messages: other.close("enough"))
        with trio.fail_after(5), pytest.raises(SessionLostError):
            await link.call("echo", b"")


async def test_the_asking_side_takes_replies_only() -> None:
    ours, theirs = stream_pair(NODE.peer_id, BOOTSTRAP.peer_id)
    link = CallLink(Link(ours))
    await theirs.send_all(encode_frame(encode_messages([Reply(99, b""), Call(1, "m", b"")])))
    with pytest.raises(MalformedError, match="a Call where a Reply"):
        await link.run()


async def served(stream: MemoryStream) -> P2PError | None:
    try:
        await serve_calls(Link(stream), CALLER, Service().handlers())
    except P2PError as error:
        return error
    return None


async def test_the_answering_side_takes_calls_only() -> None:
    ours, theirs = stream_pair(NODE.peer_id, BOOTSTRAP.peer_id)
    await ours.send_all(encode_frame(encode_messages([Reply(1, b"")])))
    assert isinstance(await served(theirs), MalformedError)


async def test_a_thousand_malformed_calls(autojump_clock: trio.abc.Clock) -> None:
    draw = random.Random(11)
    good = encode_messages([Call(1, "echo", b"body"), Call(2, "refused", b""), Ping()])
    for _ in range(1_000):
        data = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        ours, theirs = stream_pair(NODE.peer_id, BOOTSTRAP.peer_id)
        await ours.send_all(encode_frame(bytes(data)))
        await ours.close()
        outcome = await served(theirs)  # None: a Bye, one bit from a Ping
        assert isinstance(outcome, SessionLostError | MalformedError | None)


# --- the service on a network -------------------------------------------------------------------
class Registry:
    """Takes what `handle_calls` registers (the only thing of a network that it uses)."""

    def __init__(self) -> None:
        self.handlers: dict[str, tuple[StreamHandler, bool]] = {}

    def handle(self, protocol: str, handler: StreamHandler, *, newcomers: bool = False) -> None:
        self.handlers[protocol] = (handler, newcomers)


async def call_once(handler: StreamHandler, method: str) -> bytes:
    """Open a stream of one's own for one call."""
    ours, theirs = stream_pair(NODE.peer_id, BOOTSTRAP.peer_id)
    link = CallLink(Link(ours))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler, theirs)
        await nursery.start(link.run)
        try:
            return await link.call(method, b"")
        finally:
            link.link.close()


def registered(**options: Any) -> tuple[StreamHandler, bool]:
    registry = Registry()
    standing = membership(BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(), FakeClock())
    handlers = Service().handlers()
    handle_calls(cast(Network, registry), "calls/1", standing, handlers, **options)
    return registry.handlers["calls/1"]


async def test_a_new_stream_is_no_new_allowance() -> None:
    handler, newcomers = registered(newcomers=True, rate_per_s=0.001, burst=2)
    assert newcomers
    assert [await call_once(handler, "echo") for _ in range(2)] == [b"", b""]
    with pytest.RaisesGroup(RateLimitedError):
        await call_once(handler, "echo")


async def test_how_a_link_ends_is_no_fault_of_the_service() -> None:
    handler, newcomers = registered()
    assert not newcomers
    for data in (bytes(4), encode_frame(encode_messages([Reply(1, b"")]))):
        ours, theirs = stream_pair(NODE.peer_id, BOOTSTRAP.peer_id)
        await ours.send_all(data)
        await handler(theirs)
        assert theirs.was_reset


def test_buckets_are_per_peer_and_bounded() -> None:
    buckets = PeerBuckets(1.0, 1.0, peers_max=2)
    first = buckets.of(NODE.peer_id, 0.0)
    assert first.take(0.0)
    assert buckets.of(NODE.peer_id, 0.0) is first
    assert buckets.of(OTHER_NODE.peer_id, 0.0) is not first
    buckets.of(BOOTSTRAP.peer_id, 0.0)
    assert buckets.of(NODE.peer_id, 0.0) is not first


async def test_replies_that_nobody_waits_for_change_nothing() -> None:
    async with service(Service().handlers()) as (link, _, _):
        link.on_messages([Reply(12345, b"late"), Reply(0, b"")])
        assert await link.call("echo", b"x") == b"x"


def test_frames_of_replies_fit_the_decoder() -> None:
    frame = encode_frame(encode_messages([Reply(1, bytes(FRAME_BYTES_MAX - 64))]))
    (payload,) = FrameDecoder().feed(frame)
    assert len(decode_messages(payload)) == 1
