"""A configuration that bans a peer ends its standing, whether it is connected or comes back."""

from __future__ import annotations

import pytest
import trio

from p2p.configuration_sync import enforce_bans
from p2p.errors import UntrustedError
from p2p.memory_network import MemoryHub
from p2p.types import Role
from tests.fakes.clocks import FakeClock
from tests.fakes.networks import eventually, simple_records
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    NODE,
    book_with,
    bootstrap_chain,
    configuration,
    gateway_chain,
    membership,
    node_chain,
)


@pytest.mark.parametrize("banned", [NODE, BOOTSTRAP], ids=["itself", "the bootstrap it came by"])
async def test_a_ban_closes_the_connection_and_keeps_it_closed(autojump_clock, banned) -> None:
    hub, clock = MemoryHub(1), FakeClock()
    first = configuration()
    book = book_with(first)
    gateway = membership(GATEWAY, Role.GATEWAY, gateway_chain(), clock, book=book)
    node = membership(NODE, Role.NODE, node_chain(), clock)
    other = membership(BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(), clock)
    async with (
        hub.open(GATEWAY, NETWORK, gate=gateway, record_check=simple_records) as here,
        hub.open(NODE, NETWORK, gate=node, record_check=simple_records) as there,
        hub.open(BOOTSTRAP, NETWORK, gate=other, record_check=simple_records) as third,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(enforce_bans, here, book, gateway)
        await there.connect(here.addresses()[0])
        await third.connect(here.addresses()[0])
        await eventually(lambda: len(here.peers()) == 2)
        assert gateway.certificate_of(NODE.peer_id) is not None
        book.offer(configuration(2, first, banned_peers=(banned.peer_id,)))
        await eventually(lambda: banned.peer_id not in here.peers())
        assert gateway.certificate_of(NODE.peer_id) is None
        await there.disconnect(here.local)
        with pytest.raises(UntrustedError, match="banned"):
            await there.connect(here.addresses()[0])
        nursery.cancel_scope.cancel()
