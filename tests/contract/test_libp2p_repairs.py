"""Owns the proof that each repair of py-libp2p is still needed: they fail when upstream is better.

When one fails, remove the repair (see `p2p.libp2p_adapter.repairs`) and the test with it.
"""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
from pathlib import Path

import libp2p.network.swarm as swarm_module
import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p.libp2p_adapter.limits import STREAMS_OPEN_MAX
from p2p.libp2p_adapter.muxer import Muxer
from p2p.libp2p_adapter.repairs import apply_repairs
from tests.fakes.networks import LibP2PWorld, connected_pair, eventually, pair

PING = struct.pack(">BBHII", 0, 2, 1, 0, 77)
DATA = struct.pack(">BBHII", 0, 0, 1, 2, 4) + b"data"


@pytest.fixture(scope="module")
def plain():
    """What py-libp2p does as it comes, in a process of its own."""
    script = Path(__file__).parents[1] / "fakes" / "plain_libp2p.py"
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, timeout=100, check=True
    )
    return json.loads(result.stdout)


def test_1_upstream_s_dial_waits_a_quarter_of_a_second(plain):
    assert plain["dial_takes_s"] >= 0.25
    apply_repairs()
    assert swarm_module._HAPPY_EYEBALLS_DELAY < 0.01


async def test_2_upstream_keeps_the_slot_of_a_closed_connection(plain):
    assert plain["slots_held_after_closing"] == 1
    async with connected_pair(LibP2PWorld()) as (one, two):
        limiter = two._host.get_network()._inbound_limiter
        assert limiter.borrowed_tokens == 1
        await one.disconnect(two.local)
        await eventually(lambda: limiter.borrowed_tokens == 0)


async def test_3_upstream_opens_256_streams_and_then_waits(plain):
    assert plain["streams_opened_at_most"] == 256
    async with connected_pair(LibP2PWorld()) as (one, two):
        muxer = one._connections.greeted(two.local).muxer
        with trio.fail_after(20):
            streams = [await muxer.open_stream() for _ in range(600)]
        assert len({stream.stream_id for stream in streams}) == 600
        assert STREAMS_OPEN_MAX > 600


class BlockedConnection:
    """A secured connection that has bytes to read and whose writes block."""

    is_initiator = True

    def __init__(self, incoming: bytes) -> None:
        self.incoming = incoming
        self.closed = trio.Event()

    async def read(self, n=None):
        await trio.lowlevel.checkpoint()
        if not self.incoming:
            await self.closed.wait()
            return b""
        size = len(self.incoming) if n is None else n
        data, self.incoming = self.incoming[:size], self.incoming[size:]
        return data

    async def write(self, data):
        await trio.sleep_forever()

    async def close(self):
        self.closed.set()


@pytest.mark.parametrize(("kind", "goes_on"), [(Yamux, False), (Muxer, True)])
async def test_4_upstream_s_reader_stops_while_a_ping_s_answer_is_being_written(kind, goes_on):
    connection = BlockedConnection(PING + DATA)
    muxer = kind(connection, ID(b"peer"), is_initiator=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        with trio.move_on_after(1):
            while 2 not in muxer.streams:
                await trio.sleep(0.01)
        assert (2 in muxer.streams) is goes_on
        nursery.cancel_scope.cancel()


def test_5_upstream_lets_two_listeners_share_a_port(plain):
    # The contract suite shows that ours refuses the second one.
    assert plain["two_listeners_on_one_port"] is True


async def test_6_upstream_s_root_logging_adds_a_handler_that_prints(plain):
    assert plain["root_log_handlers"] > 0
    handlers = list(logging.getLogger().handlers)
    async with connected_pair(LibP2PWorld()):
        pass
    assert logging.getLogger().handlers == handlers


async def test_7_upstream_s_host_ends_with_the_first_exception_of_a_handler(plain):
    # The contract suite shows that ours goes on.
    assert plain["a_handler_s_exception_ends_the_host"] is True


async def test_8_upstream_keeps_a_back_off_for_every_invented_topic():
    router = GossipSub(protocols=[], degree=4, degree_low=3, degree_high=8)
    for index in range(1000):
        await router.handle_prune(
            rpc_pb2.ControlPrune(topicID=f"invented-{index}", backoff=60), ID(b"hostile")
        )
    assert len(router.back_off) == 1000


async def test_only_noise_and_yamux_over_tcp_are_spoken():
    async with LibP2PWorld().open("one") as one:
        swarm = one._host.get_network()
        assert [str(name) for name in swarm.upgrader.security_multistream.transports] == ["/noise"]
        assert [str(name) for name in swarm.upgrader.muxer_multistream.transports] == [
            "/yamux/1.0.0"
        ]
        assert [type(each).__name__ for each in swarm.transport_manager.get_transports()] == ["TCP"]
        assert str(one._host.get_id()) == pair("one").peer_id
