"""The overspend race on a real ledger: 64 clients, four gateways, a balance for exactly k jobs."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.errors import GatewayError
from gateway.peer.ledger_port import ReturnedLease
from ledger.ledger import Ledger
from tests.fakes.lease_race import RaceGateway, Town
from tests.fakes.ledger_desk import KEY, TERMS, Desk
from tests.fakes.ledger_world import NETWORK, START_MS
from tests.fakes.networks import eventually

SOAK = os.environ.get("RESULTITY_SOAK") == "1"
CLIENTS = 64
JOBS = 3000 if SOAK else 700
"""More than fits into the balance that a desk begins with."""


@asynccontextmanager
async def open_town(folder: Path, *, lease_usable_s: int) -> AsyncIterator[Town]:
    """Give a town whose namespace can pay for exactly JOBS requests."""
    desks: list[Desk] = []
    ledger = Ledger(
        f"sqlite:///{folder / 'ledger.db'}",
        NETWORK,
        clock_ms=lambda: desks[0].clock_ms() if desks else START_MS,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        desk = Desk(ledger)
        desks.append(desk)
        await desk.set_up()
        town = Town(desk, folder / "gateways", lease_usable_s=lease_usable_s)
        await town.fund(JOBS * await town.gateways[0].maximum())
        with trio.fail_after(500 if SOAK else 120):
            async with town.run():
                yield town
        await ledger.check_integrity()
        nursery.cancel_scope.cancel()


async def ask_until_refused(gateway: RaceGateway) -> None:
    while gateway.alive and await gateway.ask():
        pass


async def everybody_asks(town: Town) -> None:
    """64 clients at the living gateways, each until it is refused."""
    living = [gateway for gateway in town.gateways if gateway.alive]
    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(ask_until_refused, living[number % len(living)])


@pytest.mark.parametrize("lease_usable_s", [0, 300])
async def test_exactly_what_the_balance_covers_is_admitted(
    tmp_path: Path, lease_usable_s: int
) -> None:
    async with open_town(tmp_path, lease_usable_s=lease_usable_s) as town:
        await everybody_asks(town)
        assert town.captured == JOBS
        leased = sum(gateway.leased for gateway in town.gateways)
        assert leased > JOBS // 8 if lease_usable_s else leased == 0
        assert sum(gateway.refused for gateway in town.gateways) == CLIENTS
        assert sum(gateway.told_leased for gateway in town.gateways) == 0


async def test_what_a_killed_gateway_held_comes_back_when_its_lease_ends(tmp_path: Path) -> None:
    async with open_town(tmp_path, lease_usable_s=300) as town:
        victim, never = town.gateways[0], trio.Event()
        async with trio.open_nursery() as nursery:
            # It is killed with leases in hand and jobs in them that nobody will settle.
            async def work_and_hang() -> None:
                while not victim.leases.open_count:
                    await victim.ask()
                await victim.ask(running=never)

            for _ in range(4):
                nursery.start_soon(work_and_hang)
            await eventually(lambda: victim.leased >= 4 and victim.unpaid == 4)
            victim.kill()
            nursery.cancel_scope.cancel()
        await everybody_asks(town)
        assert town.captured < JOBS
        assert victim.leased
        limits = town.configuration.limits
        town.desk.world.now_ms += (limits.lease_usable_s + limits.hold_lifetime_s_max + 1) * 1000
        await town.desk.ledger.expire_holds(town.desk.clock_ms())
        await everybody_asks(town)
        assert town.captured == JOBS


async def test_a_revoked_key_is_out_everywhere_at_once(tmp_path: Path) -> None:
    async with open_town(tmp_path, lease_usable_s=300) as town:
        for gateway in town.gateways:
            while not gateway.leases.open_count:
                assert await gateway.ask()
        captured = town.captured
        await town.revoke()
        await eventually(lambda: not any(g.leases.open_count for g in town.gateways))
        for gateway in town.gateways:
            with pytest.raises(GatewayError, match="Incorrect API key"):
                await gateway.ask()
        assert town.captured == captured


async def test_credit_that_comes_back_between_refusal_and_explanation(tmp_path: Path) -> None:
    async with open_town(tmp_path, lease_usable_s=300) as town:
        desk, (one, other, *_) = town.desk, town.gateways
        lease_id, amount = secrets.token_bytes(16), JOBS * await one.maximum()
        ledger = one.services.ledger
        expires_ms = desk.clock_ms() + 60_000
        limits = town.configuration.limits.model_copy(update={"lease_microcredits_max": amount})
        town.configuration = desk.configuration = town.configuration.model_copy(
            update={"limits": limits}
        )
        await ledger.lease(
            KEY, lease_id=lease_id, amount=amount, terms=TERMS, expires_ms=expires_ms
        )
        read = desk.ledger.read
        await other.maximum()  # the key is looked up

        async def late(query: Any) -> Any:
            desk.ledger.read = read  # type: ignore[method-assign]
            await ledger.lease_return(ReturnedLease(bytes(16), lease_id, 0, final=True))
            return await read(query)

        desk.ledger.read = late  # type: ignore[method-assign]
        assert await other.ask()
        assert other.told_leased == 0
