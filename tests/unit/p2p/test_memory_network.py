"""Owns what only the in-memory network can do: seeds, partitions, crashes, frozen peers, losses."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from p2p.errors import DeadlineError, PeerUnavailableError, SessionLostError, WrongNetworkError
from p2p.memory_network import MemoryHub
from p2p.types import NetworkId
from tests.fakes.networks import NETWORK, SimpleGate, pair, simple_records


def open_on(hub, name, gate=None, network_id=NETWORK, **options):
    return hub.open(
        pair(name),
        network_id,
        gate=gate or SimpleGate(),
        record_check=simple_records,
        **options,
    )


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)


async def scenario(seed):
    """A small network with delays and losses; gives a log with times."""
    log = []
    hub = MemoryHub(seed, delay_s=(0.01, 0.2), gossip_loss=0.3, dial_loss=0.3)
    async with AsyncExitStack() as stack:
        names = ["a", "b", "c", "d"]
        peers = [await stack.enter_async_context(open_on(hub, name)) for name in names]
        channels = [peer.subscribe("t") for peer in peers]
        for peer in peers[1:]:
            peer.handle("echo/1", echo)
            while True:
                try:
                    await peers[0].connect(peer.addresses()[0])
                    break
                except PeerUnavailableError:
                    log.append((trio.current_time(), "dial lost"))
        for number in range(10):
            await peers[number % 4].publish("t", b"%d" % number)
            await trio.sleep(1)
        for peer in peers[1:]:
            stream = await peers[0].open_stream(peer.local, "echo/1")
            for _ in range(3):
                await stream.send_all(b"x" * 10)
                log.append((trio.current_time(), await stream.receive_some()))
        for channel in channels:
            while channel.statistics().current_buffer_used:
                message = await channel.receive()
                log.append((trio.current_time(), message.author, message.data))
    return log


def run(seed):
    return trio.run(scenario, seed, clock=trio.testing.MockClock(autojump_threshold=0))


def test_one_seed_gives_one_history_and_another_seed_another():
    assert run(1) == run(1)
    assert run(1) != run(2)
    assert any(entry[1] == "dial lost" for seed in range(5) for entry in run(seed))


async def test_a_partition_breaks_connections_and_dials_until_it_heals(autojump_clock):
    hub = MemoryHub(1, delay_s=(0.01, 0.02))
    gate = SimpleGate()
    async with open_on(hub, "a", gate) as a, open_on(hub, "b") as b, open_on(hub, "c") as c:
        b.handle("echo/1", echo)
        await a.connect(b.addresses()[0])
        await a.connect(c.addresses()[0])
        stream = await a.open_stream(b.local, "echo/1")
        hub.partition({a.local, c.local}, {b.local})
        with pytest.raises(SessionLostError):
            await stream.receive_some()
        assert a.peers() == (c.local,)
        assert gate.forgotten == [b.local]
        with pytest.raises(DeadlineError):
            await a.connect(b.addresses()[0])
        await c.put_record(b"key", b"1:here")
        with pytest.raises(PeerUnavailableError):
            await b.put_record(b"key", b"2:there")
        hub.heal()
        await a.connect(b.addresses()[0])
        assert await a.get_record(b"key") == b"2:there"


async def test_a_silent_partition_delivers_everything_after_it_heals(autojump_clock):
    hub = MemoryHub(1, delay_s=(0.01, 0.02))
    async with open_on(hub, "a") as a, open_on(hub, "b") as b:
        b.handle("echo/1", echo)
        await a.connect(b.addresses()[0])
        stream = await a.open_stream(b.local, "echo/1")
        hub.partition({a.local}, silent=True)
        await stream.send_all(b"late")
        with trio.move_on_after(100) as waited:
            await stream.receive_some()
        assert waited.cancelled_caught
        hub.heal()
        assert await stream.receive_some() == b"late"


async def test_a_frozen_peer_answers_nothing_and_goes_on_when_it_thaws(autojump_clock):
    hub = MemoryHub(1, delay_s=(0.01, 0.02))
    async with open_on(hub, "a") as a, open_on(hub, "b") as b, open_on(hub, "c") as c:
        b.handle("echo/1", echo)
        await a.connect(b.addresses()[0])
        stream = await a.open_stream(b.local, "echo/1")
        hub.freeze(b.local)
        await stream.send_all(b"x")
        with trio.move_on_after(30) as waited:
            await stream.receive_some()
        assert waited.cancelled_caught
        with pytest.raises(DeadlineError):
            await a.open_stream(b.local, "echo/1")
        with pytest.raises(DeadlineError):
            await c.connect(b.addresses()[0])
        hub.thaw(b.local)
        assert await stream.receive_some() == b"x"
        await c.connect(b.addresses()[0])


async def test_a_crash_cancels_the_block_and_frees_the_address(autojump_clock):
    hub = MemoryHub(1)
    async with open_on(hub, "a") as a:
        async with open_on(hub, "b", listen_addresses=("/ip4/127.0.0.1/tcp/4001",)) as b:
            await a.connect(b.addresses()[0])
            hub.crash(b.local)
            await trio.sleep_forever()
        assert a.peers() == ()
        with pytest.raises(PeerUnavailableError):
            await a.connect(f"/ip4/127.0.0.1/tcp/4001/p2p/{pair('b').peer_id}")
        async with open_on(hub, "b", listen_addresses=("/ip4/127.0.0.1/tcp/4001",)) as b:
            await a.connect(b.addresses()[0])


async def test_gossip_loss_loses_some_and_not_all(autojump_clock):
    hub = MemoryHub(3, gossip_loss=0.5)
    async with open_on(hub, "a") as a, open_on(hub, "b") as b:
        channel = b.subscribe("t")
        await a.connect(b.addresses()[0])
        await trio.sleep(1)
        for number in range(100):
            await a.publish("t", b"%d" % number)
        assert 20 < channel.statistics().current_buffer_used < 80


async def test_networks_on_one_hub_are_kept_apart(autojump_clock):
    hub = MemoryHub(1)
    other = NetworkId("other-" + "2" * 32)
    async with open_on(hub, "a") as a, open_on(hub, "b", network_id=other) as b:
        with pytest.raises(WrongNetworkError):
            await a.connect(b.addresses()[0])
        assert b.peers() == ()


async def test_chunks_arrive_in_order_whatever_their_delays(autojump_clock):
    hub = MemoryHub(5, delay_s=(0.0, 1.0))
    received = []

    async def collect(stream):
        while data := await stream.receive_some():
            received.append(data)

    async with open_on(hub, "a") as a, open_on(hub, "b") as b:
        b.handle("collect/1", collect)
        await a.connect(b.addresses()[0])
        stream = await a.open_stream(b.local, "collect/1")
        for number in range(50):
            await stream.send_all(b"%03d" % number)
        await trio.sleep(60)
        assert b"".join(received) == b"".join(b"%03d" % number for number in range(50))


async def test_hours_pass_in_no_time(autojump_clock):
    hub = MemoryHub(1, delay_s=(0.01, 0.05))
    async with open_on(hub, "a") as a, open_on(hub, "b") as b:
        b.handle("echo/1", echo)
        await a.connect(b.addresses()[0])
        stream = await a.open_stream(b.local, "echo/1")
        for _ in range(100):
            await stream.send_all(b"beat")
            assert await stream.receive_some() == b"beat"
            await trio.sleep(3600)
