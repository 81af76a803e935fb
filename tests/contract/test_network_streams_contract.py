"""Owns the contract of the network port: streams, on both adapters."""

from __future__ import annotations

import pytest
import trio

from p2p.errors import PeerUnavailableError, RefusedError, SessionLostError
from tests.fakes.networks import (
    PATIENCE_S,
    connected_pair,
    eventually,
    pair,
    receive_all,
    receive_exactly,
)

STRANGER = pair("stranger").peer_id


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)


async def test_a_stream_carries_bytes_both_ways(world):
    async with connected_pair(world) as (one, two):
        two.handle("echo/1", echo)
        stream = await one.open_stream(two.local, "echo/1")
        assert stream.remote == two.local
        for size in (1, 100, 10_000):
            await stream.send_all(b"z" * size)
            assert await receive_exactly(stream, size) == b"z" * size
        await stream.close()
        await stream.close()


async def test_the_acceptor_may_open_streams_too(world):
    async with connected_pair(world) as (one, two):
        one.handle("echo/1", echo)
        stream = await two.open_stream(one.local, "echo/1")
        await stream.send_all(b"back")
        assert await receive_exactly(stream, 4) == b"back"


async def test_a_protocol_that_is_not_served_is_refused(world):
    async with connected_pair(world) as (one, two):
        with pytest.raises(RefusedError):
            await one.open_stream(two.local, "nothing/1")
        two.handle("nothing/1", echo)
        await (await one.open_stream(two.local, "nothing/1")).close()


async def test_no_connection_no_stream(world):
    async with world.open("one") as one:
        with pytest.raises(PeerUnavailableError):
            await one.open_stream(STRANGER, "echo/1")


async def test_bytes_sent_before_closing_arrive_and_then_the_end(world):
    async def send_and_end(stream):
        await stream.send_all(b"half")
        await stream.send_all(b" data")

    async with connected_pair(world) as (one, two):
        two.handle("send/1", send_and_end)
        stream = await one.open_stream(two.local, "send/1")
        assert await receive_all(stream) == b"half data"
        assert await stream.receive_some() == b""


async def test_five_megabytes_both_ways_at_once(world):
    size = 5 * 1024 * 1024
    sent = bytes(range(256)) * (size // 256)

    async def both(stream):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, sent)
            received.append(await receive_exactly(stream, size))

    received: list[bytes] = []
    async with connected_pair(world) as (one, two):
        two.handle("bulk/1", both)
        stream = await one.open_stream(two.local, "bulk/1")
        await both(stream)
        await eventually(lambda: len(received) == 2)
        assert all(data == sent for data in received)


async def test_receiving_gives_what_is_there_and_at_most_64_kib(world):
    async def flood(stream):
        await stream.send_all(b"f" * 200_000)

    async with connected_pair(world) as (one, two):
        two.handle("flood/1", flood)
        stream = await one.open_stream(two.local, "flood/1")
        total = 0
        while chunk := await stream.receive_some():
            assert len(chunk) <= 64 * 1024
            total += len(chunk)
        assert total == 200_000


async def test_a_reset_breaks_the_other_side(world):
    ended = trio.Event()

    async def wait(stream):
        with pytest.raises(SessionLostError):
            await stream.receive_some()
        ended.set()

    async with connected_pair(world) as (one, two):
        two.handle("wait/1", wait)
        stream = await one.open_stream(two.local, "wait/1")
        await stream.reset()
        await stream.reset()
        await stream.close()
        await ended.wait()
        with pytest.raises(SessionLostError):
            await stream.send_all(b"x")


async def test_closing_ends_the_other_side_s_sending(world):
    lost = trio.Event()

    async def go_on(stream):
        with pytest.raises(SessionLostError):
            while True:
                await stream.send_all(b"x" * 1000)
                await trio.sleep(0.001)
        lost.set()

    async with connected_pair(world) as (one, two):
        two.handle("on/1", go_on)
        stream = await one.open_stream(two.local, "on/1")
        await stream.receive_some()
        await stream.close()
        await lost.wait()


async def test_a_handler_that_raises_resets_its_stream_only(world):
    async def fail(stream):
        await stream.receive_some()
        raise LookupError("a bug in a handler")

    async with connected_pair(world) as (one, two):
        two.handle("fail/1", fail)
        two.handle("echo/1", echo)
        healthy = await one.open_stream(two.local, "echo/1")
        failing = await one.open_stream(two.local, "fail/1")
        await failing.send_all(b"x")
        with pytest.raises(SessionLostError):
            await failing.receive_some()
        await healthy.send_all(b"y")
        assert await healthy.receive_some() == b"y"


async def test_a_handler_that_returns_without_closing_ends_the_stream(world):
    async def leave(stream):
        await stream.send_all(b"bye")

    async with connected_pair(world) as (one, two):
        two.handle("leave/1", leave)
        stream = await one.open_stream(two.local, "leave/1")
        assert await receive_all(stream) == b"bye"


async def test_a_handler_that_never_ends_does_not_keep_a_network_open(world):
    async def stay(stream):
        await trio.sleep_forever()

    with trio.fail_after(PATIENCE_S):
        async with connected_pair(world) as (one, two):
            two.handle("stay/1", stay)
            for _ in range(20):
                await one.open_stream(two.local, "stay/1")


async def test_a_cancelled_receive_loses_nothing(world):
    async with connected_pair(world) as (one, two):
        two.handle("echo/1", echo)
        stream = await one.open_stream(two.local, "echo/1")
        for _ in range(5):
            with trio.move_on_after(0.01):
                await stream.receive_some()
        await stream.send_all(b"still")
        assert await receive_exactly(stream, 5) == b"still"


async def test_a_cancelled_send_hurts_its_own_stream_only(world):
    async def read_nothing(stream):
        await trio.sleep_forever()

    async with connected_pair(world) as (one, two):
        two.handle("deaf/1", read_nothing)
        two.handle("echo/1", echo)
        healthy = await one.open_stream(two.local, "echo/1")
        stuck = await one.open_stream(two.local, "deaf/1")
        with trio.move_on_after(0.1) as cancelled:
            await stuck.send_all(b"x" * 4_000_000)
        assert cancelled.cancelled_caught
        await healthy.send_all(b"ok")
        assert await receive_exactly(healthy, 2) == b"ok"


async def test_a_reader_that_stops_breaks_its_stream_after_a_while(world):
    async def read_nothing(stream):
        await trio.sleep_forever()

    async with connected_pair(world) as (one, two):
        two.handle("deaf/1", read_nothing)
        stuck = await one.open_stream(two.local, "deaf/1")
        with pytest.raises(SessionLostError):
            await stuck.send_all(b"x" * 4_000_000)


async def test_three_hundred_streams_at_once(world):
    done = []

    async def one_stream(one, two, number):
        stream = await one.open_stream(two.local, "echo/1")
        await stream.send_all(b"%d" % number)
        assert await receive_exactly(stream, len(b"%d" % number)) == b"%d" % number
        done.append(stream)

    async with connected_pair(world) as (one, two):
        two.handle("echo/1", echo)
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(one_stream, one, two, number)
        assert len(done) == 300
        for stream in done:
            await stream.close()


async def test_a_thousand_streams_one_after_the_other(world):
    async with connected_pair(world) as (one, two):
        two.handle("echo/1", echo)
        for _ in range(1000):
            stream = await one.open_stream(two.local, "echo/1")
            await stream.close()
