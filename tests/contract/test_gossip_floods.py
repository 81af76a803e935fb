"""Owns the proof that one hostile member cannot fill our memory or silence honest members.

The hostile peer is a real one: it has said its hello, and writes raw RPCs on its gossip stream.
"""

from __future__ import annotations

import os
import random

import psutil
import pytest
import trio
import trio.lowlevel
from libp2p.exceptions import BaseLibp2pError
from libp2p.pubsub.pb import rpc_pb2

from p2p.errors import P2PError
from p2p.libp2p_adapter.gossip_wire import SIGNING_PREFIX, prefixed_rpc
from p2p.libp2p_adapter.isolation import Names
from p2p.libp2p_adapter.limits import (
    RECENT_MESSAGES_MAX,
    RPC_BYTES_MAX,
    SEEN_MESSAGES_MAX,
    TOPICS_KNOWN_MAX,
    TOPICS_PER_PEER_MAX,
)
from tests.fakes.networks import NETWORK, PATIENCE_S, LibP2PWorld, eventually

NAMES = Names(NETWORK)
TOPIC = NAMES.topic("t")
RPCS = 300
GROWTH_BYTES_MAX = 60 * 1024 * 1024
"""Of the whole process, hostile peer included; without the guard the PRUNEs alone keep 288 MB."""


def invented(index: int) -> str:
    return NAMES.topic(f"invented-{index}-{random.getrandbits(64):x}")


def many(count: int, add) -> bytes:
    rpc = rpc_pb2.RPC()
    for index in range(count):
        add(rpc, index)
    data = rpc.SerializeToString()
    assert len(data) <= RPC_BYTES_MAX
    return data


def add_prune(rpc, index):
    rpc.control.prune.add(topicID=invented(index), backoff=2**63)


def add_prune_of_ours(rpc, index):
    rpc.control.prune.add(topicID=TOPIC, backoff=2**64 - 1)


def add_graft(rpc, index):
    rpc.control.graft.add(topicID=invented(index))


def add_graft_of_ours(rpc, index):
    rpc.control.graft.add(topicID=TOPIC)


def add_ihave(rpc, index):
    ihave = rpc.control.ihave.add(topicID=TOPIC)
    ihave.messageIDs.extend(random.randbytes(46) for _ in range(20))


def add_long_ihave(rpc, index):
    rpc.control.ihave.add(topicID=TOPIC).messageIDs.append(random.randbytes(2000))


def add_iwant(rpc, index):
    iwant = rpc.control.iwant.add()
    iwant.messageIDs.extend(random.randbytes(46) for _ in range(20))


def add_subscription(rpc, index):
    rpc.subscriptions.add(subscribe=True, topicid=invented(index))


def add_foreign_subscription(rpc, index):
    rpc.subscriptions.add(subscribe=True, topicid=f"elsewhere-{index}")


def add_unsubscription(rpc, index):
    rpc.subscriptions.add(subscribe=False, topicid=invented(index))


def add_forged_message(rpc, index):
    rpc.publish.add(
        data=b"x" * 100,
        topicIDs=[TOPIC],
        from_id=b"\x00\x24\x08\x01\x12\x20" + random.randbytes(32),
        seqno=random.randbytes(8),
        signature=random.randbytes(64),
    )


def add_message_of_many_topics(rpc, index):
    rpc.publish.add(data=b"x", topicIDs=[invented(n) for n in range(10)], seqno=b"1" * 8)


FLOODS = {
    "PRUNEs of invented topics": (1000, add_prune),
    "PRUNEs of our topic": (2000, add_prune_of_ours),
    "GRAFTs of invented topics": (1000, add_graft),
    "GRAFTs of our topic": (1000, add_graft_of_ours),
    "IHAVEs": (200, add_ihave),
    "long IHAVEs": (100, add_long_ihave),
    "IWANTs": (200, add_iwant),
    "subscriptions": (1000, add_subscription),
    "subscriptions elsewhere": (1000, add_foreign_subscription),
    "unsubscriptions": (1000, add_unsubscription),
    "forged messages": (500, add_forged_message),
    "messages of many topics": (100, add_message_of_many_topics),
}


async def open_raw(hostile, victim):
    link = hostile._connections.greeted(victim.local)
    return (await link.open_raw(NAMES.gossip)).muxed_stream


async def flood(hostile, victim, data):
    """Write an RPC again and again, until it is done or we are thrown out."""
    try:
        stream = await open_raw(hostile, victim)
        whole = prefixed_rpc(data)
        for _ in range(RPCS):
            await stream.write(whole)
    except Exception:
        return


def check_tables(victim):
    gossip, router = victim._gossip, victim._gossip.router
    assert len(gossip.peer_topics) <= TOPICS_KNOWN_MAX
    assert all(count <= TOPICS_PER_PEER_MAX for count in gossip._peer_subscription_count.values())
    assert set(router.back_off) <= {TOPIC}
    assert set(router.mesh) == {TOPIC}
    assert len(gossip.seen_messages) <= SEEN_MESSAGES_MAX
    assert sum(map(len, router.graft_flood_tracking.values())) <= 10
    assert sum(map(len, router.ihave_message_limits.values())) <= 10
    assert len(router._pending_messages) == len(router._pending_control) == 0
    assert len(router.mcache.msgs) <= RECENT_MESSAGES_MAX
    assert not router.recent_message_deliveries


@pytest.mark.parametrize("name", list(FLOODS))
async def test_a_flood_is_bounded_and_honest_gossip_goes_on(name):
    count, add = FLOODS[name]
    data = many(count, add)
    world = LibP2PWorld()
    async with (
        world.open("victim") as victim,
        world.open("honest") as honest,
        world.open("hostile") as hostile,
        trio.open_nursery() as nursery,
    ):
        channel = victim.subscribe("t")
        honest.subscribe("t")
        await honest.connect(victim.addresses()[0])
        await hostile.connect(victim.addresses()[0])
        await eventually(lambda: len(victim.peers()) == 2)
        await eventually(lambda: bool(honest._gossip.router.mesh.get(TOPIC)))
        before = psutil.Process(os.getpid()).memory_info().rss
        nursery.start_soon(flood, hostile, victim, data)
        expected = set()
        for number in range(20):
            await honest.publish("t", b"honest %d" % number)
            expected.add(b"honest %d" % number)
            await trio.sleep(0.02)
        with trio.fail_after(PATIENCE_S):
            while expected:
                message = await channel.receive()
                assert message.author == honest.local
                expected.discard(message.data)
        await eventually(lambda: victim.access_of(hostile.local) is None)
        check_tables(victim)
        growth = psutil.Process(os.getpid()).memory_info().rss - before
        assert growth < GROWTH_BYTES_MAX
        assert victim.access_of(honest.local) is not None
        nursery.cancel_scope.cancel()


async def test_a_flood_of_signed_messages_is_cut_to_the_rate():
    world = LibP2PWorld()
    async with (
        world.open("victim") as victim,
        world.open("hostile") as hostile,
    ):
        channel = victim.subscribe("t")
        await hostile.connect(victim.addresses()[0])
        stream = await open_raw(hostile, victim)
        sign = hostile._gossip.sign_key.sign
        author = hostile._gossip.my_id.to_bytes()
        received = 0
        for start in range(0, 6000, 50):
            rpc = rpc_pb2.RPC()
            for number in range(start, start + 50):
                message = rpc.publish.add(
                    data=b"x", topicIDs=[TOPIC], from_id=author, seqno=number.to_bytes(8, "big")
                )
                message.signature = sign(SIGNING_PREFIX + message.SerializeToString())
            try:
                await stream.write(prefixed_rpc(rpc.SerializeToString()))
            except Exception:
                break
            while True:
                try:
                    channel.receive_nowait()
                    received += 1
                except trio.WouldBlock:
                    break
        assert received <= 4000
        check_tables(victim)


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff" * 10,
        b"\xff\xff\xff\x7f",
        prefixed_rpc(b"\x07" * 100),
        prefixed_rpc(b"\x0a\xff\xff\xff\xff\x0f"),
    ],
    ids=["no length", "too long", "no RPC", "truncated RPC"],
)
async def test_what_is_no_gossip_ends_the_connection(junk):
    world = LibP2PWorld()
    async with world.open("victim") as victim, world.open("hostile") as hostile:
        await hostile.connect(victim.addresses()[0])
        stream = await open_raw(hostile, victim)
        await stream.write(junk)
        await eventually(lambda: victim.access_of(hostile.local) is None)


async def test_malformed_frames_at_the_gossip_stream():
    chance = random.Random(7)
    world = LibP2PWorld()
    async with world.open("victim") as victim, world.open("hostile") as hostile:
        victim.subscribe("t")
        for number in range(100):
            try:
                await hostile.connect(victim.addresses()[0])
                stream = await open_raw(hostile, victim)
                data = chance.randbytes(chance.randrange(1, 200))
                await stream.write(prefixed_rpc(data) if number % 2 else data)
                await stream.close()
            except (P2PError, BaseLibp2pError):
                continue
        await eventually(lambda: not victim._gossip._inbound)
        check_tables(victim)
        async with world.open("honest") as honest:
            await honest.connect(victim.addresses()[0])


async def test_malformed_hellos():
    chance = random.Random(8)
    world = LibP2PWorld()

    class HostileGate:
        async def greet(self, stream, *, dialled):
            await stream.send_all(chance.randbytes(chance.randrange(1, 300)))
            await stream.reset()
            raise P2PError("done")

        def forget(self, peer_id):
            pass

    async with world.open("victim") as victim, world.open("hostile", HostileGate()) as hostile:

        async def attack(address):
            for _ in range(10):
                with pytest.raises(P2PError):
                    await hostile.connect(address)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(attack, victim.addresses()[0])
        assert victim.peers() == ()
        async with world.open("honest") as honest:
            await honest.connect(victim.addresses()[0])
        await eventually(lambda: not victim._connections._greeting)


async def test_a_thousand_malformed_negotiations():
    chance = random.Random(9)
    world = LibP2PWorld()
    async with world.open("victim") as victim, world.open("hostile") as hostile:
        await hostile.connect(victim.addresses()[0])
        link = hostile._connections.greeted(victim.local)
        for _ in range(1000):
            stream = await link.muxer.open_stream()
            await stream.write(chance.randbytes(chance.randrange(1, 100)))
            await stream.close()
        assert victim.access_of(hostile.local) is not None
        assert link.alive


async def test_malformed_muxer_frames():
    chance = random.Random(10)
    world = LibP2PWorld()
    async with world.open("victim") as victim, world.open("hostile") as hostile:
        for _ in range(50):
            await hostile.connect(victim.addresses()[0])
            link = hostile._connections.greeted(victim.local)
            link.muxer._queue(chance.randbytes(chance.randrange(1, 60)))
            link.muxer._queue(bytes([0, chance.randrange(4), 0, chance.randrange(16)]) + b"\0" * 8)
            await trio.lowlevel.checkpoint()
            await hostile.disconnect(victim.local)
        async with world.open("honest") as honest:
            await honest.connect(victim.addresses()[0])


async def test_a_peer_that_ignores_its_window_is_disconnected():
    async def deaf(stream):
        await trio.sleep_forever()

    world = LibP2PWorld()
    async with world.open("victim") as victim, world.open("hostile") as hostile:
        victim.handle("deaf/1", deaf)
        await hostile.connect(victim.addresses()[0])
        stream = (await hostile.open_stream(victim.local, "deaf/1"))._stream
        stream.send_window = 1 << 30
        with pytest.raises(Exception, match="reset"):
            for _ in range(1000):
                await stream.write(b"x" * 65_000)
        await eventually(lambda: victim.access_of(hostile.local) is None)


async def test_a_peer_that_pings_and_does_not_read_is_disconnected():
    world = LibP2PWorld()
    async with world.open("victim") as victim, world.open("hostile") as hostile:
        await hostile.connect(victim.addresses()[0])
        muxer = hostile._connections.greeted(victim.local).muxer
        reads = trio.Event()

        async def read_nothing():
            await reads.wait()
            return b""

        muxer._transport.read = read_nothing
        ping = bytes([0, 2, 0, 1]) + b"\0" * 8
        try:
            for _ in range(3000):
                muxer._queue(ping * 5000)
                await muxer.wait_for_outbox()
                if victim.access_of(hostile.local) is None:
                    break
        finally:
            reads.set()
        assert victim.access_of(hostile.local) is None
