"""Owns the contract of gossip, on both adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from p2p.errors import MalformedError
from p2p.limits import GOSSIP_MESSAGE_BYTES_MAX, SUBSCRIPTION_QUEUE_MESSAGES_MAX
from p2p.network import Access, GossipMessage
from tests.fakes.networks import PATIENCE_S, SimpleGate, connected_pair, eventually


async def arrives(publisher, channel, topic, data):
    """Publish until the first message arrives (subscriptions travel too), and empty the channel."""
    with trio.fail_after(PATIENCE_S):
        while True:
            await publisher.publish(topic, data)
            with trio.move_on_after(0.1):
                message = await channel.receive()
                break
    drain(channel)
    return message


def drain(channel):
    messages = []
    while True:
        try:
            messages.append(channel.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return messages


async def test_a_publisher_need_not_subscribe(world):
    async with connected_pair(world) as (one, two):
        channel = two.subscribe("adverts")
        message = await arrives(one, channel, "adverts", b"here I am")
        assert message == GossipMessage(one.local, b"here I am")


async def test_subscriptions_may_come_before_the_connection(world):
    async with world.open("one") as one, world.open("two") as two:
        channel = two.subscribe("adverts")
        await one.connect(two.addresses()[0])
        message = await arrives(one, channel, "adverts", b"x")
        assert message.author == one.local


async def test_publishing_to_nobody_is_no_error(world):
    async with world.open("one") as one:
        await one.publish("adverts", b"x")


async def test_own_messages_are_not_delivered_to_ourselves(world):
    async with connected_pair(world) as (one, two):
        mine, theirs = one.subscribe("t"), two.subscribe("t")
        await arrives(one, theirs, "t", b"x")
        await arrives(two, mine, "t", b"y")
        await one.publish("t", b"z")
        await theirs.receive()
        assert drain(mine) == []


async def test_a_message_is_relayed_and_its_author_is_who_wrote_it(world):
    async with AsyncExitStack() as stack:
        names = ["a", "b", "c"]
        a, b, c = [await stack.enter_async_context(world.open(name)) for name in names]
        b.subscribe("t")
        channel = c.subscribe("t")
        await a.connect(b.addresses()[0])
        await c.connect(b.addresses()[0])
        message = await arrives(a, channel, "t", b"over b")
        assert message == GossipMessage(a.local, b"over b")


async def test_what_is_too_large_is_refused_at_once(world):
    async with connected_pair(world) as (one, two):
        channel = two.subscribe("t")
        await arrives(one, channel, "t", b"x")
        with pytest.raises(MalformedError):
            await one.publish("t", b"x" * (GOSSIP_MESSAGE_BYTES_MAX + 1))
        await one.publish("t", b"x" * GOSSIP_MESSAGE_BYTES_MAX)
        with trio.fail_after(PATIENCE_S):
            assert len((await channel.receive()).data) == GOSSIP_MESSAGE_BYTES_MAX


async def test_a_burst_of_two_hundred_arrives_whole_and_once(world):
    async with connected_pair(world) as (one, two):
        channel = two.subscribe("t")
        await arrives(one, channel, "t", b"x")
        await trio.sleep(0.2)
        drain(channel)
        for number in range(200):
            await one.publish("t", b"message %d" % number)
        received = set()
        with trio.fail_after(PATIENCE_S):
            while len(received) < 200:
                data = (await channel.receive()).data
                assert data not in received
                received.add(data)


async def test_topics_are_kept_apart(world):
    async with connected_pair(world) as (one, two):
        first, second = two.subscribe("first"), two.subscribe("second")
        await arrives(one, second, "second", b"x")
        await arrives(one, first, "first", b"y")
        await trio.sleep(0.1)
        drain(first)
        drain(second)
        await one.publish("second", b"z")
        with trio.fail_after(PATIENCE_S):
            assert (await second.receive()).data == b"z"
        assert drain(first) == []


async def test_a_topic_is_subscribed_once(world):
    async with world.open("one") as one:
        one.subscribe("t")
        with pytest.raises(MalformedError):
            one.subscribe("t")


async def test_a_reader_that_lags_loses_the_oldest(world):
    async with connected_pair(world) as (one, two):
        channel = two.subscribe("t")
        await arrives(one, channel, "t", b"x")
        last = SUBSCRIPTION_QUEUE_MESSAGES_MAX + 200
        for number in range(last):
            await one.publish("t", b"%d" % number)
            if number % 100 == 99:
                await trio.sleep(0.25)
        await eventually(
            lambda: channel.statistics().current_buffer_used == SUBSCRIPTION_QUEUE_MESSAGES_MAX
        )
        await one.publish("t", b"last")
        await trio.sleep(0.3)
        numbers = [message.data for message in drain(channel)]
        assert b"last" in numbers
        assert b"0" not in numbers


async def test_gossip_works_again_after_reconnecting(world):
    async with connected_pair(world) as (one, two):
        mine, theirs = one.subscribe("t"), two.subscribe("t")
        for round_number in range(4):
            await arrives(one, theirs, "t", b"there %d" % round_number)
            await arrives(two, mine, "t", b"back %d" % round_number)
            closer, other = (one, two) if round_number % 2 else (two, one)
            await closer.disconnect(other.local)
            await eventually(lambda other=other, closer=closer: other.peers() == ())
            await one.connect(two.addresses()[0])


async def test_gossip_works_again_after_a_restart(world):
    async with world.open("one") as one:
        mine = one.subscribe("t")
        for _ in range(3):
            async with world.open("two") as two:
                theirs = two.subscribe("t")
                await two.connect(one.addresses()[0])
                await arrives(one, theirs, "t", b"there")
                await arrives(two, mine, "t", b"back")
            await eventually(lambda: one.peers() == ())


async def test_newcomers_get_no_gossip_and_send_none(world):
    async with (
        world.open("new", SimpleGate(claims=Access.NEWCOMER)) as newcomer,
        connected_pair(world) as (one, two),
    ):
        heard = newcomer.subscribe("t")
        channel = two.subscribe("t")
        await newcomer.connect(two.addresses()[0])
        await arrives(one, channel, "t", b"x")
        for _ in range(10):
            await newcomer.publish("t", b"from a newcomer")
            await one.publish("t", b"for members")
            await trio.sleep(0.05)
        assert all(message.author == one.local for message in drain(channel))
        assert drain(heard) == []


async def test_after_dialling_each_other_gossip_survives_the_loss_of_one_connection(world):
    async with world.open("one") as one, world.open("two") as two:
        mine, theirs = one.subscribe("t"), two.subscribe("t")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, two.addresses()[0])
            nursery.start_soon(two.connect, one.addresses()[0])
        await arrives(one, theirs, "t", b"there")
        await arrives(two, mine, "t", b"back")
        await close_one_connection(one, two)
        await arrives(one, theirs, "t", b"there again")
        await arrives(two, mine, "t", b"back again")


async def close_one_connection(one, two):
    """Break the first of the connections between two networks, if there is more than one."""
    if hasattr(one, "hub"):
        wires = list(one.hub.wires)
        if len(wires) > 1:
            wires[0].break_off()
        return
    links = one._connections.links()
    if len(links) > 1:
        await one._connections.close(links[0])
