"""Hours of faults between a gateway and a hidden node, on a clock that jumps."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.peer.announcing import Announcer
from gateway.peer.discovery import follow_adverts
from gateway.peer.registry import Registry
from gateway.peer.sessions import NodeSession, Sessions
from p2p.clock import system_clock_ms
from p2p.network import Way
from p2p.network_configuration import open_configuration
from p2p.types import Role
from p2p.uplink import Uplink
from tests.fakes import trust
from tests.fakes.gateway_world import _no_records
from tests.fakes.hidden_world import BOOTSTRAP_ADDRESS, HiddenWorld

FAULTS = 400 if os.environ.get("RESULTITY_SOAK") == "1" else 12
NODE, GATEWAY = trust.NODE.peer_id, trust.GATEWAY.peer_id
PATIENCE_S = 300.0
"""Of the clock that jumps: expired adverts, full pauses and a gateway's statement together."""


class Net:
    """A bootstrap, a hidden node, and the part of a gateway that keeps sessions."""

    def __init__(self, data_dir: Path) -> None:
        self.world = HiddenWorld(data_dir)
        began_ms = system_clock_ms()
        self.world.clock_ms = lambda: began_ms + int(trio.current_time() * 1000)
        self.world.nodes[0].clock_ms = self.world.clock_ms
        self.sessions: Any = None
        self.network: Any = None
        self.surroundings: Any = None

    @asynccontextmanager
    async def gateway(self, reachable: str) -> AsyncIterator[None]:
        world = self.world
        chain = world.peer.chain
        gate = world._membership(trust.GATEWAY, Role.GATEWAY, chain, world._book())
        async with (
            world.hub.open(
                trust.GATEWAY, trust.NETWORK, gate=gate, record_check=_no_records
            ) as network,
            trio.open_nursery() as nursery,
        ):
            self.network = network
            registry = Registry(trust.NETWORK, now_s=trio.current_time, clock_ms=world.clock_ms)
            registry.configure(open_configuration(world.signed_configuration, trust.NETWORK))
            uplink = Uplink(network, (BOOTSTRAP_ADDRESS,))
            announcer = Announcer(
                network,
                uplink,
                trust.GATEWAY,
                chain,
                reachable=reachable,
                clock_ms=world.clock_ms,
            )
            self.sessions = Sessions(
                network, registry, lambda peer_id: peer_id == trust.BOOTSTRAP.peer_id
            )
            await nursery.start(uplink.run)
            nursery.start_soon(announcer.run)
            nursery.start_soon(follow_adverts, network, registry)
            await nursery.start(self.sessions.run)
            yield
            nursery.cancel_scope.cancel()

    async def session(self, way: Way) -> NodeSession:
        """Wait for a session that goes this way."""
        with trio.fail_after(PATIENCE_S):
            while True:
                session = self.sessions.get(NODE)
                if session is not None and session.way is way:
                    return session  # type: ignore[no-any-return]
                await trio.sleep(0.1)

    async def restart_bootstrap(self, pause_s: float) -> None:
        self.world.bootstrap_scope.cancel()
        while trust.BOOTSTRAP.peer_id in self.world.hub.networks:
            await trio.sleep(0.1)
        await trio.sleep(pause_s)
        self.world.bootstrap_scope = await self.surroundings.start(self.world.run_bootstrap)


@pytest.fixture
def net(tmp_path: Path) -> Net:
    return Net(tmp_path)


async def test_a_silent_cable_is_noticed_and_replaced(net: Net, autojump_clock: MockClock) -> None:
    async with net.world.surroundings(), net.gateway("yes"):
        before = await net.session(Way.DIRECT)
        net.world.hub.partition([GATEWAY], silent=True)
        with trio.fail_after(15):
            await before.ended.wait()
        net.world.hub.heal()
        after = await net.session(Way.DIRECT)
        assert after is not before
        assert after.link.is_open


async def test_a_session_is_opened_as_soon_as_the_node_has_dialled(
    net: Net, autojump_clock: MockClock
) -> None:
    async with net.world.surroundings(), net.gateway("yes"):
        for _ in range(5):
            before = await net.session(Way.DIRECT)
            await net.network.disconnect(NODE)
            await before.ended.wait()
            await trio.sleep(5)  # the pauses between tries have grown
            net.world.hub.cut(NODE, GATEWAY)
            await net.network.disconnect(NODE)
            await trio.sleep(2)
            net.world.hub.heal()
            with trio.fail_after(PATIENCE_S):
                while net.network.way_to(NODE) is not Way.DIRECT:
                    await trio.sleep(0.001)
            with trio.fail_after(0.05):
                while getattr(net.sessions.get(NODE), "way", None) is not Way.DIRECT:
                    await trio.sleep(0.001)


async def test_the_relay_is_used_while_the_direct_way_is_cut(
    net: Net, autojump_clock: MockClock
) -> None:
    """Node and gateway do not reach each other; both reach the bootstrap."""
    async with net.world.surroundings(), net.gateway("yes"):
        await net.session(Way.DIRECT)
        net.world.hub.cut(NODE, GATEWAY)
        await net.session(Way.RELAYED)
        used = net.world.relay.budget.used_bytes
        await trio.sleep(120)  # and the node goes on dialling
        assert net.sessions.get(NODE).way is Way.RELAYED
        assert net.world.relay.budget.used_bytes > used
        net.world.hub.heal()
        await net.session(Way.DIRECT)
        await trio.sleep(10)
        assert net.world.relay.circuits == 0
        assert net.network.way_to(NODE) is Way.DIRECT


@pytest.mark.parametrize("reachable", ["yes", "no"])
async def test_after_any_faults_there_is_a_session_again(
    net: Net, autojump_clock: MockClock, reachable: str
) -> None:
    draw = random.Random(f"faults/{reachable}")
    hub = net.world.hub
    way = Way.DIRECT if reachable == "yes" else Way.RELAYED
    async with net.world.surroundings() as net.surroundings, net.gateway(reachable):
        await net.session(way)
        for _ in range(FAULTS):
            fault = draw.choice(["lose", "cut", "silence", "bootstrap", "circuit", "freeze"])
            lasts_s = draw.choice([0.0, 0.3, 3.0, 12.0, 70.0, 200.0])
            match fault:
                case "lose":
                    await net.network.disconnect(NODE)
                case "cut":
                    hub.partition([draw.choice([GATEWAY, NODE])])
                case "silence":
                    hub.partition([draw.choice([GATEWAY, NODE])], silent=True)
                case "bootstrap":
                    await net.restart_bootstrap(lasts_s)
                case "circuit":
                    await net.network.disconnect(NODE, only=Way.RELAYED)
                case "freeze":
                    frozen = draw.choice([GATEWAY, NODE])
                    hub.freeze(frozen)
                    await trio.sleep(lasts_s)
                    hub.thaw(frozen)
            await trio.sleep(lasts_s)
            hub.heal()
            if draw.random() < 0.5:
                session = await net.session(way)
                assert session.link.is_open, fault
        await net.session(way)
        await trio.sleep(60)
        assert net.world.relay.circuits == (way is Way.RELAYED)
        assert net.world.relay.reservations == 1
        assert len(net.world.nodes[0].links) == 1  # no session was left behind
