"""Clocks that jump an hour either way while holds and leases end: each ends once, none stays."""

from __future__ import annotations

import os
import random

import pytest
import trio
from sqlalchemy import Connection, text

from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.operations import Operation
from tests.fakes.claim_world import claim, leased_claim
from tests.fakes.lease_world import charge_leased, give_back, lease, part
from tests.fakes.ledger_world import NETWORK, NODES, World

HOUR_MS = 3_600_000
STEPS, SEEDS = (60, range(20)) if os.environ.get("RESULTITY_SOAK") == "1" else (40, range(2))
STAYS = "SELECT COUNT(*) FROM ledger_holds WHERE state = 'open' AND expires_ms <= :now_ms"
ENDS = (
    "SELECT hold_number, COUNT(*) FROM ledger_transfers t JOIN ledger_holds h "
    "ON h.ended_by = t.number GROUP BY hold_number HAVING COUNT(*) > 1"
)


class Scene:
    """Two processes on one database, each with a clock of its own."""

    def __init__(self, url: str, seed: int) -> None:
        self.world, self.random = World(), random.Random(seed)
        self.offsets_ms = [0, 0]
        self.ledgers = [
            Ledger(url, NETWORK, clock_ms=self.clock(number), sweep_interval_s=1e9)
            for number in range(2)
        ]
        self.tenant = self.world.tenant()
        self.holds: list[tuple[object, bool]] = []

    def clock(self, number: int):  # type: ignore[no-untyped-def]
        return lambda: self.world.now_ms + self.offsets_ms[number]

    async def do(self, operation: Operation) -> None:
        try:
            await self.random.choice(self.ledgers).submit(operation)
        except LedgerError:
            pass  # expired, ended, claimed: the clocks disagree, and that is what is tried here

    def new(self) -> Operation:
        world, source = self.world, self.random
        lifetime_ms = source.choice((1_000, 60_000, HOUR_MS))
        if source.random() < 0.4:
            made: Operation = lease(world, self.tenant, 300, lifetime_ms=min(lifetime_ms, 600_000))
            self.holds.append((made, True))
        else:
            made = world.hold(self.tenant, 100, lifetime_ms=min(lifetime_ms, 600_000))
            self.holds.append((made, False))
        return made

    def used(self) -> Operation:
        world, source = self.world, self.random
        made, is_lease = source.choice(self.holds)
        kind = source.randrange(3)
        if is_lease:
            if kind == 0:
                return charge_leased(world, made, self.tenant, 4)  # type: ignore[arg-type]
            if kind == 1:
                return give_back(world, made, final=True)  # type: ignore[arg-type]
            job = part(world, made, 50)  # type: ignore[arg-type]
            return leased_claim(world, job, self.tenant, output_tokens=5)
        if kind == 0:
            leg = world.leg(made, output_tokens=3)  # type: ignore[arg-type]
            return world.capture(made, [leg])  # type: ignore[arg-type]
        if kind == 1:
            return world.release(made)  # type: ignore[arg-type]
        return claim(world, made, node=NODES[1], output_tokens=5)  # type: ignore[arg-type]

    async def step(self) -> None:
        source = self.random
        match source.randrange(5):
            case 0:
                number = source.randrange(2)
                self.offsets_ms[number] = source.choice((0, HOUR_MS, -HOUR_MS))
            case 1:
                self.world.now_ms += source.choice((500, 30_000, 600_000))
            case 2:
                number = source.randrange(2)
                await self.ledgers[number].expire_holds(self.clock(number)())
            case 3 if self.holds:
                await self.do(self.used())
            case _:
                await self.do(self.new())


async def count(ledger: Ledger, statement: str, **values: int) -> list[tuple[int, ...]]:
    def read(connection: Connection) -> list[tuple[int, ...]]:
        return [tuple(row) for row in connection.execute(text(statement), values)]

    return await ledger.read(read)


@pytest.mark.parametrize("seed", SEEDS)
async def test_each_hold_ends_once_and_none_stays(url: str, seed: int) -> None:
    scene = Scene(url, seed)
    async with trio.open_nursery() as nursery:
        for ledger in scene.ledgers:
            await nursery.start(ledger.run)
        first, second = scene.ledgers
        for operation in scene.world.setup(scene.tenant, 100_000):
            await first.submit(operation)
        for _ in range(STEPS):
            await scene.step()
        # The clocks are right again: one sweep, by two processes at once.
        scene.offsets_ms[:] = [0, 0]
        now_ms = scene.world.now_ms
        async with trio.open_nursery() as sweeps:
            for ledger in scene.ledgers:
                sweeps.start_soon(ledger.expire_holds, now_ms)
        assert await count(second, STAYS, now_ms=now_ms) == [(0,)]
        # And once everything's time is over, nothing is held any more.
        scene.world.now_ms += 2 * HOUR_MS
        await second.expire_holds(scene.world.now_ms)
        assert await count(first, STAYS, now_ms=2**62) == [(0,)]
        assert await count(first, ENDS) == []
        ((held,),) = await count(first, "SELECT SUM(held) FROM ledger_namespaces")
        ((exposed,),) = await count(first, "SELECT SUM(held) FROM ledger_gateway_exposure")
        assert (held, exposed) == (0, 0)
        ((open_claims,),) = await count(
            first, "SELECT COUNT(*) FROM ledger_claims WHERE state = 'open'"
        )
        assert open_claims == 0
        await first.check_integrity()
        nursery.cancel_scope.cancel()


async def test_a_hold_is_not_ended_by_a_clock_behind_nor_twice_by_one_ahead(url: str) -> None:
    scene = Scene(url, 0)
    async with trio.open_nursery() as nursery:
        for ledger in scene.ledgers:
            await nursery.start(ledger.run)
        ahead, right = scene.ledgers
        for operation in scene.world.setup(scene.tenant, 10_000):
            await right.submit(operation)
        await right.submit(scene.world.hold(scene.tenant, 100))
        await right.submit(lease(scene.world, scene.tenant, 200))
        scene.offsets_ms[0] = -HOUR_MS
        scene.world.now_ms += 700_000
        assert await ahead.expire_holds(scene.clock(0)()) == 0
        scene.offsets_ms[0] = HOUR_MS
        assert await ahead.expire_holds(scene.clock(0)()) == 2
        assert await right.expire_holds(scene.world.now_ms) == 0
        nursery.cancel_scope.cancel()
