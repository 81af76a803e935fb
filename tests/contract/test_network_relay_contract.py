"""Owns the contract of relayed connections, on both adapters."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from p2p.certificates import Certificate
from p2p.errors import PeerUnavailableError, RefusedError, SessionLostError, UntrustedError
from p2p.limits import RELAY_CIRCUITS_PER_PAIR_MAX
from p2p.network import Access, Way
from p2p.reaching.relay import Relay, RelayCaps
from p2p.reaching.relay_client import RelayReservation, connect_through
from p2p.reaching.relay_messages import (
    RELAY_PROTOCOL,
    RELAYED_PROTOCOL,
    RelayConnect,
    RelayIncoming,
    RelayReserve,
    RelayVerdict,
)
from p2p.reaching.relay_wire import read_one, send_one
from p2p.types import AccountId, Role
from tests.fakes.networks import NETWORK, SimpleGate, eventually, pair, receive_exactly

NODE, GATEWAY, RELAY = pair("node"), pair("gateway"), pair("relay")
ROLES = {NODE.peer_id: Role.NODE, GATEWAY.peer_id: Role.GATEWAY, RELAY.peer_id: Role.BOOTSTRAP}


def certificate_of(peer_id):
    role = ROLES.get(peer_id)
    if role is None:
        return None
    return Certificate(NETWORK, peer_id, role, AccountId("a"), 0, 2**50)


def may_relay(peer_id):
    return ROLES.get(peer_id) is Role.BOOTSTRAP


class StandingUplink:
    """An uplink that is up."""

    def __init__(self, bootstrap, address):
        self.bootstrap, self.address = bootstrap, address

    async def wait_up(self):
        await trio.lowlevel.checkpoint()


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)


@dataclass
class Relayed:
    """A node without a listener, a gateway, and the relay between them."""

    node: Any
    gateway: Any
    relay_network: Any
    relay: Relay
    reservation: RelayReservation
    node_gate: SimpleGate

    async def connect(self):
        return await connect_through(self.gateway, self.reservation.address, may_relay)

    async def ask(self, data=b"hello"):
        stream = await self.gateway.open_stream(self.node.local, "echo/1")
        await stream.send_all(data)
        answer = await receive_exactly(stream, len(data))
        await stream.close()
        return answer


@asynccontextmanager
async def relayed(world, caps=None, **options):
    node_gate = SimpleGate()
    async with (
        world.open("relay", **options) as relay_network,
        world.open("node", node_gate, listen_addresses=(), **options) as node,
        world.open("gateway", **options) as gateway,
        trio.open_nursery() as nursery,
    ):
        relay = Relay(relay_network, certificate_of, caps or RelayCaps(), clock_ms=lambda: 0)
        relay.register()
        address = relay_network.addresses()[0]
        await node.connect(address)
        node.handle("echo/1", echo)
        uplink = StandingUplink(relay_network.local, address)
        reservation = RelayReservation(node, uplink, lambda: None)
        nursery.start_soon(reservation.run)
        await eventually(lambda: bool(reservation.address))
        yield Relayed(node, gateway, relay_network, relay, reservation, node_gate)
        nursery.cancel_scope.cancel()


async def test_a_peer_without_a_listener_is_reached_through_the_relay(world):
    async with relayed(world) as net:
        assert net.node.addresses() == ()
        assert await net.connect() == net.node.local
        assert net.gateway.way_to(net.node.local) is Way.RELAYED
        assert net.gateway.access_of(net.node.local) is Access.MEMBER
        await eventually(lambda: net.node.way_to(net.gateway.local) is Way.RELAYED)
        data = bytes(range(256)) * 4096  # a megabyte, both ways: several windows
        with trio.fail_after(30):
            stream = await net.gateway.open_stream(net.node.local, "echo/1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, data)
                assert await receive_exactly(stream, len(data)) == data
        assert net.relay.circuits == 1
        assert net.relay.budget.used_bytes >= 2 * len(data)
        # And the node can ask the gateway over the same connection.
        net.gateway.handle("echo/1", echo)
        back = await net.node.open_stream(net.gateway.local, "echo/1")
        await back.send_all(b"back")
        assert await receive_exactly(back, 4) == b"back"


async def test_the_relayed_peer_is_greeted_and_may_refuse(world):
    async with relayed(world) as net:
        net.node_gate.refused.add(net.gateway.local)
        with pytest.raises(UntrustedError):
            await net.connect()
        assert net.gateway.way_to(net.node.local) is None
        await eventually(lambda: net.relay.circuits == 0)


async def test_a_circuit_is_cut_when_its_bytes_are_used_up(world):
    async with relayed(world, RelayCaps(bytes_per_circuit=200_000)) as net:
        await net.connect()
        assert await net.ask() == b"hello"
        with pytest.raises(SessionLostError), trio.fail_after(20):
            stream = await net.gateway.open_stream(net.node.local, "echo/1")
            for _ in range(100):
                await stream.send_all(b"x" * 10_000)
                if await receive_exactly(stream, 10_000) != b"x" * 10_000:
                    raise SessionLostError("the answer is cut")
        assert net.relay.budget.used_bytes <= 200_000
        await eventually(lambda: net.gateway.way_to(net.node.local) is None)
        await eventually(lambda: net.node.way_to(net.gateway.local) is None)
        await eventually(lambda: net.relay.circuits == 0)
        await net.connect()  # the day has bytes left
        assert await net.ask() == b"hello"


async def test_the_days_bytes_are_capped(world):
    async with relayed(world, RelayCaps(bytes_per_day=80_000)) as net:
        await net.connect()
        with pytest.raises(SessionLostError), trio.fail_after(20):
            for _ in range(10):
                if not await net.ask(b"y" * 5_000):
                    raise SessionLostError("the answer is cut")
        await eventually(lambda: net.gateway.way_to(net.node.local) is None)
        assert net.relay.budget.used_bytes <= 20_000  # a node's part
        net.relay.budget.take(net.node.local, 20_000 - net.relay.budget.used_bytes, 0)
        with pytest.raises(PeerUnavailableError, match="used up"):
            await net.connect()


async def test_a_circuit_is_cut_when_its_time_is_over(world):
    async with relayed(world, RelayCaps(circuit_s=0.5)) as net:
        await net.connect()
        await eventually(lambda: net.gateway.way_to(net.node.local) is None)
        await eventually(lambda: net.relay.circuits == 0)


async def test_a_direct_connection_takes_over(world):
    async with relayed(world) as net:
        ways: list[Any] = []
        await net.connect()
        net.gateway.watch_ways(lambda peer_id, way: ways.append((peer_id, way)))
        running = await net.gateway.open_stream(net.node.local, "echo/1")
        await net.node.connect(net.gateway.addresses()[0])
        await eventually(lambda: net.gateway.way_to(net.node.local) is Way.DIRECT)
        assert net.node.way_to(net.gateway.local) is Way.DIRECT
        before = net.relay.budget.used_bytes
        assert await net.ask(b"z" * 5_000) == b"z" * 5_000
        assert net.relay.budget.used_bytes - before < 1_000  # the new stream went the direct way
        await running.send_all(b"still here")  # and the old one goes on
        assert await receive_exactly(running, 10) == b"still here"
        await net.gateway.disconnect(net.node.local, only=Way.RELAYED)
        await eventually(lambda: net.relay.circuits == 0)
        assert await net.ask() == b"hello"
        assert ways == [(net.node.local, Way.DIRECT)]


async def test_only_members_with_the_right_role_are_relayed(world):
    async with relayed(world) as net, world.open("stranger") as stranger:
        with pytest.raises(PeerUnavailableError, match="certified gateway"):
            await connect_through(stranger, net.reservation.address, may_relay)
        with pytest.raises(UntrustedError):  # and nothing is relayed by whoever offers it
            await connect_through(net.gateway, net.reservation.address, lambda peer_id: False)
        uplink = StandingUplink(net.relay_network.local, net.relay_network.addresses()[0])
        reservation = RelayReservation(stranger, uplink, lambda: None)
        with pytest.raises(RefusedError, match="certified node"):
            await reservation._hold()
        assert reservation.address == ""
        assert net.relay.reservations == 1


async def test_a_second_reservation_replaces_the_first(world):
    async with relayed(world) as net:
        stream = await net.node.open_stream(net.relay_network.local, RELAY_PROTOCOL)
        await send_one(stream, RelayReserve())
        verdict, _ = await read_one(stream, RelayVerdict)
        assert verdict.code == ""
        assert 0 < verdict.bytes_max <= RelayCaps().bytes_per_circuit
        await eventually(lambda: net.reservation.address == "")  # the first stream was ended
        assert net.relay.reservations == 1
        await stream.close()
        await eventually(lambda: net.relay.reservations == 0)


async def test_a_connection_that_no_relay_announced_is_refused(world):
    """Any member may open `relayed/1` at a node; only the relay where it reserved is heard."""
    async with relayed(world) as net:
        await net.node.connect(net.gateway.addresses()[0])
        await eventually(lambda: net.gateway.way_to(net.node.local) is Way.DIRECT)
        stream = await net.gateway.open_stream(net.node.local, RELAYED_PROTOCOL)
        await send_one(stream, RelayIncoming(net.gateway.local))
        verdict, _ = await read_one(stream, RelayVerdict)
        assert verdict.code == "not_allowed"


async def test_what_is_no_request_ends_the_stream(world):
    async with relayed(world) as net:
        for garbage in (b"\0\0\0\0", b"\xff" * 64, b"\0\0\0\1\x90", b""):
            stream = await net.node.open_stream(net.relay_network.local, RELAY_PROTOCOL)
            await stream.send_all(garbage)
            await stream.close()
        assert await net.connect() == net.node.local  # and nothing else


async def test_a_gateway_does_not_take_all_circuits_of_a_node(world):
    async with relayed(world) as net:
        codes = []
        await net.gateway.connect(net.relay_network.addresses()[0])
        for _ in range(RELAY_CIRCUITS_PER_PAIR_MAX + 1):
            stream = await net.gateway.open_stream(net.relay_network.local, RELAY_PROTOCOL)
            await send_one(stream, RelayConnect(net.node.local))
            verdict, _ = await read_one(stream, RelayVerdict)
            codes.append(verdict.code)
        assert codes == [""] * RELAY_CIRCUITS_PER_PAIR_MAX + ["relay_full"]
        assert net.relay.circuits == RELAY_CIRCUITS_PER_PAIR_MAX


async def test_noise_from_the_other_end_of_a_circuit_harms_nobody(world):
    """A certified gateway that does not shake hands: with bytes of any kind, or by silence."""
    async with relayed(world) as net:
        await net.gateway.connect(net.relay_network.addresses()[0])
        for noise in (b"\xff" * 70_000, b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\0" * 99):
            stream = await net.gateway.open_stream(net.relay_network.local, RELAY_PROTOCOL)
            await send_one(stream, RelayConnect(net.node.local))
            verdict, _ = await read_one(stream, RelayVerdict)
            assert verdict.code == ""
            await stream.send_all(noise)
            await stream.reset()
        await eventually(lambda: net.relay.circuits == 0)
        assert await net.connect() == net.node.local
        assert await net.ask() == b"hello"


async def test_without_a_reservation_nothing_is_relayed(world):
    async with relayed(world) as net:
        address = net.reservation.address
        await net.connect()
        await net.node.disconnect(net.relay_network.local)  # the plug
        await eventually(lambda: net.gateway.way_to(net.node.local) is None)
        await eventually(lambda: net.relay.reservations == 0 and net.relay.circuits == 0)
        with pytest.raises(PeerUnavailableError, match="no reservation"):
            await connect_through(net.gateway, address, may_relay)


async def test_gossip_does_not_travel_through_relays(world):
    async with relayed(world) as net:
        await net.connect()
        messages = net.gateway.subscribe("topic")
        await trio.sleep(0.1)  # on a direct connection both take milliseconds
        await net.node.publish("topic", b"news")
        with trio.move_on_after(0.3) as waited:
            await messages.receive()
        assert waited.cancelled_caught


async def test_a_private_network_relays_too(world):
    async with relayed(world, pre_shared_key=b"k" * 32) as net:
        await net.connect()
        assert net.gateway.way_to(net.node.local) is Way.RELAYED
        assert await net.ask() == b"hello"


async def test_a_probe_finds_out_who_answers(world):
    async with relayed(world) as net:
        address = net.gateway.addresses()[0]
        await net.relay_network.probe(address)
        assert net.relay_network.way_to(net.gateway.local) is None
        assert net.gateway.peers() == ()
        other = address.replace(net.gateway.local, net.node.local)
        with pytest.raises(UntrustedError):
            await net.relay_network.probe(other)
        async with world.open("gone") as gone:
            empty = gone.addresses()[0]
        with pytest.raises(PeerUnavailableError):
            await net.relay_network.probe(empty)
