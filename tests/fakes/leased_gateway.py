"""Owns what tests of a gateway with leases share: getting one, and seeing that all comes back."""

from __future__ import annotations

import httpx

from tests.fakes.gateway_world import GatewayWorld, chat
from tests.fakes.networks import eventually
from tests.fakes.nodes import JobSeen

CHAT = "/v1/chat/completions"
PRICE = 7 * 2 + 20 * 5
BALANCE = 10**9


async def prime(world: GatewayWorld, client: httpx.AsyncClient) -> None:
    """Ask until a lease is there: the second job in a row makes the gateway ask for one."""
    for _ in range(2):
        assert (await client.post(CHAT, json=chat())).status_code == 200
    await eventually(lambda: bool(world.ledger.leases))
    await world.ledger.settled(2)
    await world.leases_at_gateway(client, 1)


def jobs(world: GatewayWorld) -> list[JobSeen]:
    """All jobs that nodes saw, in the order of their offers."""
    return sorted((j for n in world.nodes for j in n.jobs), key=lambda j: j.offer.issued_ms)


def check_whole(world: GatewayWorld) -> None:
    """No credit is set aside or held any more, and none is missing."""
    ledger = world.ledger
    assert ledger.leased == 0
    assert all(lease.ended for lease in ledger.leases.values())
    assert ledger.open_holds == 0
    assert ledger.available + ledger.spent == BALANCE
