"""A hidden node does not dial gateways that the configuration bans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from gateway.peer.announcing import Announcer
from node.reaching import Reaching
from p2p.codec import encode_messages
from p2p.network import Way
from p2p.reaching.gateway_statements import KnownGateway, verify_gateway
from p2p.types import PeerId
from tests.fakes import trust
from tests.fakes.clocks import START_MS


class Network:
    """Notes whom the node dials; connections are lost at once."""

    local, network_id = trust.NODE.peer_id, trust.NETWORK

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self.watcher: Any = None

    def addresses(self) -> tuple[str, ...]:
        return ()

    def way_to(self, peer_id: PeerId) -> Way | None:
        return None

    def watch_ways(self, watcher: Any) -> None:
        self.watcher = watcher

    async def connect(self, address: str) -> None:
        self.dialled.append(address)


class Uplink:
    """A bootstrap that lists one gateway."""

    bootstrap, address = trust.BOOTSTRAP.peer_id, "/ip4/203.0.113.1/tcp/1"

    def __init__(self, listed: bytes) -> None:
        self.listed = listed

    async def wait_up(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_changed(self) -> None:
        await trio.sleep_forever()

    async def call(self, method: str, body: bytes) -> bytes:
        return self.listed


def statement() -> Any:
    nothing: Any = None
    network: Any = Network()
    announcer = Announcer(
        network,
        nothing,
        trust.GATEWAY,
        trust.gateway_chain(),
        reachable="yes",
        clock_ms=lambda: START_MS,
    )
    announcer.addresses = (f"/ip4/203.0.113.9/tcp/4001/p2p/{trust.GATEWAY.peer_id}",)
    return announcer.statement()


async def test_a_banned_gateway_is_not_dialled(autojump_clock: trio.abc.Clock) -> None:
    banned: set[PeerId] = set()
    network: Any = Network()
    uplink: Any = Uplink(encode_messages([statement()]))
    reaching = Reaching(
        network,
        uplink,
        mode="yes",
        announced=False,
        clock_ms=lambda: START_MS,
        on_change=lambda: None,
        jitter=lambda: 0.0,
        is_banned=lambda peer_id: peer_id in banned,
    )
    with trio.move_on_after(100):
        await reaching._dial_gateways()
    assert len(network.dialled) > 2
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reaching._dial_gateways)
            await trio.sleep(5)
            banned.add(trust.GATEWAY.peer_id)
            await trio.sleep(60)
            before = len(network.dialled)
            await trio.sleep_forever()
    assert len(network.dialled) == before
    with trio.move_on_after(100):
        await reaching._dial_gateways()
    assert len(network.dialled) == before


def test_accounts_own_gateways_take_some_of_the_places_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody may have own gateways: the authority's are dialled all the same, and first."""
    monkeypatch.setattr("node.reaching.GATEWAYS_DIALLED_MAX", 6)
    monkeypatch.setattr("node.reaching.OWN_GATEWAYS_DIALLED_MAX", 3)
    nothing: Any = None
    network: Any = Network()
    reaching = Reaching(
        network,
        nothing,
        mode="yes",
        announced=False,
        clock_ms=lambda: START_MS,
        on_change=lambda: None,
    )
    known = verify_gateway(statement(), trust.NETWORK, START_MS)

    def hear(*numbers: int, own: bool) -> None:
        for number in numbers:
            said = replace(known.statement, peer_id=trust.key_pair(900 + number).peer_id)
            certificate = replace(known.certificate, own_namespaces_only=own)
            reaching._book.add(KnownGateway(said, known.signed, certificate), START_MS)

    hear(1, 2, own=True)
    assert len(reaching._choose()) == 2
    hear(3, 4, 5, 6, own=True)
    assert len(reaching._choose()) == 1
    hear(7, 8, 9, 10, own=False)
    chosen = reaching._choose()
    assert [one.certificate.own_namespaces_only for one in chosen] == [False] * 3
