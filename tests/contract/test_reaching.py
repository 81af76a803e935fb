"""Finding out on real sockets whether one can be dialled, and what peers make of the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from bootstrap.gateway_directory import GatewayDirectory
from bootstrap.reach_service import ReachService
from gateway.peer.announcing import Announcer
from node.reaching import Reaching
from p2p.adverts import HIDDEN
from p2p.call_service import handle_calls
from p2p.calls import CALLS_PROTOCOL
from p2p.clock import system_clock_ms
from p2p.errors import RefusedError
from p2p.network import Way
from p2p.reaching.relay import Relay, RelayCaps
from p2p.signing import KeyPair
from p2p.types import Role
from p2p.uplink import Uplink
from tests.fakes import trust
from tests.fakes.networks import (
    SimpleGate,
    eventually,
    process_free_of_networks,
    simple_records,
)

CLOSED = "/ip4/127.0.0.1/tcp/1"


@pytest.fixture(autouse=True)
def own_network() -> Iterator[None]:
    with process_free_of_networks():
        yield


@asynccontextmanager
async def opened(pair: KeyPair, **options: Any) -> AsyncIterator[Any]:
    from p2p.libp2p_adapter import open_libp2p_network

    async with open_libp2p_network(
        pair, trust.NETWORK, gate=SimpleGate(), record_check=simple_records, **options
    ) as network:
        yield network


def certificate_of(peer_id: str) -> Any:
    role = Role.NODE if peer_id == trust.NODE.peer_id else Role.GATEWAY
    return SimpleNamespace(role=role, peer_id=peer_id)


@asynccontextmanager
async def bootstrap(*, checks: bool = True) -> AsyncIterator[Any]:
    async with opened(trust.BOOTSTRAP) as network, trio.open_nursery() as nursery:
        directory = GatewayDirectory(trust.NETWORK, clock_ms=system_clock_ms)
        membership: Any = SimpleNamespace(certificate_of=certificate_of)
        handlers = {
            **directory.handlers(),
            **(ReachService(network).handlers() if checks else {}),
        }
        handle_calls(network, CALLS_PROTOCOL, membership, handlers)
        Relay(network, certificate_of, RelayCaps(), clock_ms=system_clock_ms).register()
        nursery.start_soon(directory.run, network)
        yield network
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def reaching(
    network: Any, uplink: Uplink, mode: str = "auto", on_change: Callable[[], None] = lambda: None
) -> AsyncIterator[Reaching]:
    async with trio.open_nursery() as nursery:
        found = Reaching(
            network,
            uplink,
            mode=mode,
            announced=False,
            clock_ms=system_clock_ms,
            on_change=on_change,
        )
        await nursery.start(uplink.run)
        nursery.start_soon(found.run)
        yield found
        nursery.cancel_scope.cancel()


async def test_a_node_that_can_be_dialled_is_not_hidden() -> None:
    async with bootstrap() as boot, opened(trust.NODE) as node:
        uplink = Uplink(node, (boot.addresses()[0],))
        async with reaching(node, uplink) as found:
            assert found.where() == (node.addresses(), "")  # while nobody knows
            await eventually(lambda: found.hidden is False)
            assert found.where() == (node.addresses(), "")


async def test_a_node_that_cannot_be_dialled_dials_gateways_and_is_relayed() -> None:
    changes: list[int] = []
    chain = trust.gateway_chain(issued_ms=system_clock_ms() - 1000)
    async with (
        bootstrap() as boot,
        opened(trust.NODE, announce_addresses=(CLOSED,)) as node,
        opened(trust.GATEWAY) as gateway,
        trio.open_nursery() as nursery,
    ):
        address = boot.addresses()[0]
        gateway_uplink = Uplink(gateway, (address,))
        await nursery.start(gateway_uplink.run)
        announcer = Announcer(
            gateway,
            gateway_uplink,
            trust.GATEWAY,
            chain,
            reachable="auto",
            clock_ms=system_clock_ms,
        )
        nursery.start_soon(announcer.run)
        uplink = Uplink(node, (address,))
        async with reaching(node, uplink, on_change=lambda: changes.append(1)) as found:
            await eventually(lambda: found.hidden is True)
            await eventually(lambda: node.way_to(gateway.local) is Way.DIRECT)
            assert announcer.addresses == gateway.addresses()
            relayed = f"{address}/p2p-circuit/p2p/{node.local}"
            await eventually(lambda: found.where() == ((relayed,), HIDDEN))
            assert len(changes) >= 2
            # The plug: the node dials again.
            await gateway.disconnect(node.local)
            await eventually(lambda: gateway.way_to(node.local) is Way.DIRECT)
        nursery.cancel_scope.cancel()


async def test_while_nobody_can_tell_a_node_does_as_both_kinds_do() -> None:
    chain = trust.gateway_chain(issued_ms=system_clock_ms() - 1000)
    async with (
        bootstrap(checks=False) as boot,
        opened(trust.NODE) as node,
        opened(trust.GATEWAY) as gateway,
        trio.open_nursery() as nursery,
    ):
        gateway_uplink = Uplink(gateway, (boot.addresses()[0],))
        await nursery.start(gateway_uplink.run)
        announcer = Announcer(
            gateway,
            gateway_uplink,
            trust.GATEWAY,
            chain,
            reachable="yes",
            clock_ms=system_clock_ms,
        )
        nursery.start_soon(announcer.run)
        async with reaching(node, Uplink(node, (boot.addresses()[0],))) as found:
            await eventually(lambda: node.way_to(gateway.local) is Way.DIRECT)
            assert found.hidden is None
            assert found.where() == (node.addresses(), "")
            assert "not known" in found.summary()
            found._take("", "a router was changed")
            await eventually(lambda: found.where()[1] == HIDDEN and bool(found.where()[0]))
            await eventually(lambda: "has dialled 1 of 1" in found.summary())
            found._take(node.addresses()[0], "")
            assert found.where() == (node.addresses(), "")
            assert "can be dialled" in found.summary()
            await eventually(lambda: found._reservation.address == "")
        nursery.cancel_scope.cancel()


async def test_a_gateway_that_cannot_be_dialled_says_nothing() -> None:
    async with (
        bootstrap() as boot,
        opened(trust.GATEWAY, announce_addresses=(CLOSED,)) as gateway,
        trio.open_nursery() as nursery,
    ):
        uplink = Uplink(gateway, (boot.addresses()[0],))
        await nursery.start(uplink.run)
        announcer = Announcer(
            gateway, uplink, trust.GATEWAY, (), reachable="auto", clock_ms=system_clock_ms
        )
        nursery.start_soon(announcer.run)
        await eventually(lambda: announcer._said is False)
        assert await uplink.call("gateways.list", b"") == b""
        nursery.cancel_scope.cancel()


async def test_nobody_speaks_for_a_gateway() -> None:
    """A member cannot announce another peer, nor itself without a gateway's certificate."""
    now_ms = system_clock_ms()
    async with bootstrap() as boot, opened(trust.NODE) as node, trio.open_nursery() as nursery:
        uplink = Uplink(node, (boot.addresses()[0],))
        await nursery.start(uplink.run)
        await uplink.wait_up()
        for pair in (trust.GATEWAY, trust.NODE):
            announcer = Announcer(
                node,
                uplink,
                pair,
                trust.gateway_chain(pair, issued_ms=now_ms - 1000)
                if pair is trust.GATEWAY
                else trust.node_chain(pair, issued_ms=now_ms - 1000),
                reachable="yes",
                clock_ms=system_clock_ms,
            )
            await announcer._look()
            with pytest.raises(RefusedError):
                await announcer._tell()
        assert await uplink.call("gateways.list", b"") == b""
        nursery.cancel_scope.cancel()
