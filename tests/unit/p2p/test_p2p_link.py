"""Owns the tests of the link: batches, heartbeats, ends of every kind, peers that misbehave."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from p2p.calls import Call
from p2p.codec import Message, decode_messages, encode_message, encode_messages
from p2p.errors import MalformedError, P2PError, RefusedError, SessionLostError
from p2p.job_messages import CancelFrame
from p2p.limits import (
    FRAME_BYTES_MAX,
    HEARTBEAT_INTERVAL_S,
    MESSAGES_PER_FRAME_MAX,
    SEND_DELAY_S,
    SESSION_SEND_QUEUE_MESSAGES_MAX,
    SESSION_SEND_TIMEOUT_S,
    SESSION_SILENCE_S_MAX,
)
from p2p.link import Bye, Link, Ping, Pong
from p2p.wire import FrameDecoder, encode_frame
from tests.fakes.streams import MemoryStream, stream_pair
from tests.fakes.trust import GATEWAY, NODE


@dataclass
class End:
    """One end that runs a link, what it heard, and how it ended."""

    link: Link
    frames: list[list[Message]] = field(default_factory=list)
    heard: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    error: P2PError | None = None

    @property
    def messages(self) -> list[Message]:
        return [item for frame in self.frames for item in frame]

    def on_messages(self, messages: list[Message]) -> None:
        self.frames.append(messages)
        self.heard.set()
        self.heard = trio.Event()

    async def run(self) -> None:
        try:
            await self.link.run(self.on_messages)
        except P2PError as error:
            self.error = error
        self.ended.set()

    async def wait_for(self, count: int) -> None:
        while len(self.messages) < count:
            await self.heard.wait()


@asynccontextmanager
async def two_links(
    window_bytes: int = 1 << 20,
) -> AsyncIterator[tuple[End, End, MemoryStream, MemoryStream]]:
    ours, theirs = stream_pair(GATEWAY.peer_id, NODE.peer_id, window_bytes=window_bytes)
    one, other = End(Link(ours)), End(Link(theirs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(other.run)
        with trio.fail_after(600):
            yield one, other, ours, theirs
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def link_and_stream(
    window_bytes: int = 1 << 20,
) -> AsyncIterator[tuple[End, MemoryStream, MemoryStream]]:
    """Give an end with a link, the other end as a bare stream, and the link's own stream."""
    ours, theirs = stream_pair(GATEWAY.peer_id, NODE.peer_id, window_bytes=window_bytes)
    one = End(Link(ours))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        with trio.fail_after(600):
            yield one, theirs, ours
        nursery.cancel_scope.cancel()


def note(number: int) -> CancelFrame:
    return CancelFrame(number, "test")


# --- messages and batches -----------------------------------------------------------------------
async def test_messages_arrive_in_order_both_ways() -> None:
    async with two_links() as (one, other, _, _):
        for number in range(100):
            one.link.send(note(number))
            other.link.send(note(1000 + number))
        await one.wait_for(100)
        await other.wait_for(100)
    assert other.messages == [note(number) for number in range(100)]
    assert one.messages == [note(1000 + number) for number in range(100)]


async def test_what_is_ready_goes_into_one_frame() -> None:
    async with two_links() as (one, other, _, _):
        one.link.send(note(0))
        await other.wait_for(1)
        for number in range(1, 50):
            one.link.send(note(number))
        await other.wait_for(50)
    assert [len(frame) for frame in other.frames] == [1, 49]


async def test_batches_collect_while_a_write_is_under_way() -> None:
    async with two_links(window_bytes=16) as (one, other, _, theirs):
        theirs.freeze()
        one.link.send(note(0))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 20):
            one.link.send(note(number))
            await trio.testing.wait_all_tasks_blocked()
        theirs.thaw()
        await other.wait_for(20)
    assert len(other.frames) <= 3
    assert other.messages == [note(number) for number in range(20)]


async def test_a_batch_is_split_where_a_frame_is_full() -> None:
    big = [Call(number, "m", bytes(FRAME_BYTES_MAX // 3)) for number in range(5)]
    async with two_links() as (one, other, _, _):
        for item in big:
            one.link.send(item)
        await other.wait_for(5)
        assert [len(frame) for frame in other.frames] == [2, 2, 1]
        for number in range(MESSAGES_PER_FRAME_MAX + 1):
            one.link.send(note(number))
        await other.wait_for(5 + MESSAGES_PER_FRAME_MAX + 1)
    assert [len(frame) for frame in other.frames[3:]] == [MESSAGES_PER_FRAME_MAX, 1]


async def test_the_largest_message_and_one_byte_more() -> None:
    overhead = len(encode_message(Call(1, "m", bytes(FRAME_BYTES_MAX // 2)))) - FRAME_BYTES_MAX // 2
    room = FRAME_BYTES_MAX - overhead - 5
    async with two_links() as (one, other, _, _):
        with pytest.raises(MalformedError, match="does not fit"):
            one.link.send(Call(1, "m", bytes(room + 1)))
        one.link.send(Call(1, "m", bytes(room)))
        await other.wait_for(1)
        assert one.link.is_open


async def test_what_nobody_waits_for_takes_its_time(autojump_clock: trio.abc.Clock) -> None:
    async with two_links() as (one, other, _, _):
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        one.link.send(note(1), urgent=False)
        await other.wait_for(1)
        assert trio.current_time() - started == pytest.approx(SEND_DELAY_S, rel=0.01)
        started = trio.current_time()
        one.link.send(note(2), urgent=False)
        one.link.send(note(3))
        one.link.send(note(4), urgent=False)
        await other.wait_for(4)
        assert trio.current_time() == started
        await trio.sleep(SEND_DELAY_S / 2)
        one.link.send(note(5), urgent=False)
        await trio.sleep(SEND_DELAY_S / 2)
        one.link.send(note(6), urgent=False)
        await other.wait_for(6)
        assert trio.current_time() - started == pytest.approx(SEND_DELAY_S * 1.5, rel=0.01)
    assert [len(frame) for frame in other.frames] == [1, 3, 2]


async def test_what_nobody_waits_for_is_not_forgotten(autojump_clock: trio.abc.Clock) -> None:
    ours, theirs = stream_pair(GATEWAY.peer_id, NODE.peer_id, window_bytes=16)
    one, other = End(Link(ours)), End(Link(theirs))
    one.link.send(note(0), urgent=False)  # before it runs
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(other.run)
        await other.wait_for(1)
        theirs.freeze()
        one.link.send(note(1))
        await trio.testing.wait_all_tasks_blocked()
        one.link.send(note(2), urgent=False)  # while a write is under way
        theirs.thaw()
        await other.wait_for(3)
        one.link.send(note(3), urgent=False)
        one.link.close()
        await other.ended.wait()
    assert other.messages == [note(number) for number in range(4)]


# --- ends ---------------------------------------------------------------------------------------
async def test_a_bye_ends_both_sides_after_what_was_sent() -> None:
    async with two_links() as (one, other, ours, theirs):
        one.link.send(note(1))
        one.link.close("done")
        assert not one.link.is_open
        one.link.close("again")
        with pytest.raises(SessionLostError):
            one.link.send(note(2))
        await one.ended.wait()
        await other.ended.wait()
    assert other.messages == [note(1)]
    assert one.error is other.error is None
    assert not ours.was_reset
    assert not theirs.was_reset
    assert not other.link.is_open


async def test_the_end_of_the_stream_without_a_bye_is_an_error() -> None:
    async with link_and_stream() as (one, theirs, ours):
        await theirs.close()
        await one.ended.wait()
        assert isinstance(one.error, SessionLostError)
        assert ours.was_reset
        with pytest.raises(SessionLostError):
            one.link.send(note(1))


async def test_a_broken_stream_ends_the_link() -> None:
    async with two_links() as (one, other, ours, _):
        ours.break_now()
        await one.ended.wait()
        await other.ended.wait()
    assert isinstance(one.error, SessionLostError)
    assert isinstance(other.error, SessionLostError)


async def test_what_the_owner_refuses_ends_the_link_with_its_error() -> None:
    def refuse(messages: list[Message]) -> None:
        raise RefusedError("no", "not like this")

    async with link_and_stream() as (one, theirs, ours):
        one.on_messages = refuse  # type: ignore[method-assign]
        await theirs.send_all(encode_frame(encode_messages([note(1)])))
        await one.ended.wait()
        assert isinstance(one.error, RefusedError)
        assert ours.was_reset


async def test_a_link_that_is_cancelled_closes_its_stream() -> None:
    ours, theirs = stream_pair(GATEWAY.peer_id, NODE.peer_id)
    link = Link(ours)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run, lambda messages: None)
        nursery.cancel_scope.cancel()
    assert not link.is_open
    with trio.fail_after(5):
        assert await theirs.receive_some() == b""


# --- silence and slowness -----------------------------------------------------------------------
async def test_an_idle_link_stays(autojump_clock: trio.abc.Clock) -> None:
    async with two_links() as (one, other, _, _):
        await trio.sleep(300)
        assert one.link.is_open
        assert other.link.is_open
    assert one.messages == other.messages == []


async def test_a_busy_link_needs_no_heartbeat(autojump_clock: trio.abc.Clock) -> None:
    async with link_and_stream() as (_, theirs, _):
        decoder = FrameDecoder()
        for _ in range(50):
            await theirs.send_all(encode_frame(encode_messages([note(1)])))
            await trio.sleep(HEARTBEAT_INTERVAL_S / 4)
        assert theirs.bytes_unread == 0
        await trio.sleep(HEARTBEAT_INTERVAL_S * 1.6)
        payload, *_ = decoder.feed(await theirs.receive_some())
        assert decode_messages(payload) == [Ping()]


async def test_a_ping_is_answered_even_in_company() -> None:
    async with link_and_stream() as (one, theirs, _):
        await theirs.send_all(encode_frame(encode_messages([note(1), Ping(), note(2), Pong()])))
        (payload,) = FrameDecoder().feed(await theirs.receive_some())
        assert decode_messages(payload) == [Pong()]
        assert one.messages == [note(1), note(2)]


async def test_a_frozen_peer_is_given_up(autojump_clock: trio.abc.Clock) -> None:
    async with two_links() as (one, _, _, theirs):
        await trio.sleep(60)
        theirs.freeze()
        frozen_at = trio.current_time()
        await one.ended.wait()
        waited_s = trio.current_time() - frozen_at
    assert isinstance(one.error, SessionLostError)
    assert abs(waited_s - SESSION_SILENCE_S_MAX) <= 2 * HEARTBEAT_INTERVAL_S
    assert "silent" in str(one.error)


async def test_a_peer_that_does_not_read(autojump_clock: trio.abc.Clock) -> None:
    async with link_and_stream(window_bytes=1024) as (one, theirs, _):

        async def keep_talking() -> None:
            while one.link.is_open:
                await theirs.send_all(encode_frame(encode_messages([note(1)])))
                await trio.sleep(0.5)

        started = trio.current_time()
        one.link.send(Call(1, "m", bytes(100_000)))
        try:
            await keep_talking()
        except SessionLostError:
            pass
        await one.ended.wait()
        assert trio.current_time() - started <= SESSION_SEND_TIMEOUT_S + 1
    assert "does not read" in str(one.error)


async def test_a_queue_that_overflows_ends_the_link(autojump_clock: trio.abc.Clock) -> None:
    async with link_and_stream(window_bytes=64) as (one, _, _):
        with pytest.raises(SessionLostError, match="does not keep up"):
            for number in range(2 * SESSION_SEND_QUEUE_MESSAGES_MAX + 2):
                one.link.send(note(number))
        assert not one.link.is_open
        one.link.close()
        await one.ended.wait()
    assert isinstance(one.error, SessionLostError)


async def test_closing_a_full_link_does_not_raise(autojump_clock: trio.abc.Clock) -> None:
    async with link_and_stream(window_bytes=64) as (one, _, _):
        for number in range(SESSION_SEND_QUEUE_MESSAGES_MAX):
            one.link.send(note(number))
        one.link.close("enough")
        assert not one.link.is_open
        await one.ended.wait()


# --- malformed ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [
        bytes(4),
        b"\xff\xff\xff\xff",
        encode_frame(b"\x90"),
        encode_frame(b"\xc1"),
        encode_frame(encode_message(note(1))),
        encode_frame(encode_messages([note(1)])[:-1]),
    ],
)
async def test_frames_that_are_none(data: bytes) -> None:
    async with link_and_stream() as (one, theirs, ours):
        await theirs.send_all(data)
        await one.ended.wait()
        assert ours.was_reset
    assert isinstance(one.error, MalformedError)
    assert one.messages == []


async def test_a_thousand_malformed_frames(autojump_clock: trio.abc.Clock) -> None:
    draw = random.Random(3)
    good = encode_messages([note(1), Call(2, "m", b"body"), Ping(), Bye("x")])
    for _ in range(1_000):
        data = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        async with link_and_stream() as (one, theirs, _):
            await theirs.send_all(encode_frame(bytes(data)))
            await theirs.close()
            await one.ended.wait()
        assert isinstance(one.error, SessionLostError | MalformedError | None)


async def test_a_flood_of_pings_does_not_pile_up() -> None:
    pings = encode_frame(encode_messages([Ping()] * MESSAGES_PER_FRAME_MAX))
    async with link_and_stream() as (one, theirs, _):
        for _ in range(20):
            await theirs.send_all(pings)
        await trio.testing.wait_all_tasks_blocked()
        assert theirs.bytes_unread < 20 * 16
        assert one.link.is_open
