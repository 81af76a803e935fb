"""Every kind of operation comes along to a mirror, in batches that are cut anywhere, over restarts.

A new kind of transfer or record belongs in `_use_all`: nobody has to teach the mirror about it once
the audit knows it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from ledger.ledger import Ledger
from ledger.operations import BindNode
from ledger.records import TransferKind
from ledger.store.tables import TRANSFERS
from tests.fakes import claim_world
from tests.fakes.dispute_world import answer, decision, dispute, operator_tenant
from tests.fakes.lease_world import charge_leased, expire, give_back, lease
from tests.fakes.ledger_log import use
from tests.fakes.ledger_world import NODES, Tenant, World
from tests.fakes.mirrors import assert_same, running_mirror, running_primary
from tests.fakes.stake_world import stake, unstake
from tests.fakes.subcloud_ledger import SHARED, SHARED_TERMS, a_token, open_one


async def _use_all(ledger: Ledger, world: World) -> None:
    tenant, operator = world.tenant(), operator_tenant(world)
    await use(ledger, world, tenant)
    for operation in world.setup(operator, 0, nodes=0):
        await ledger.submit(operation)
    await ledger.submit(BindNode(NODES[0].peer_id, operator.account_id))
    opened, short = lease(world, tenant, 5_000), lease(world, tenant, 700, lifetime_ms=5_000)
    for operation in (
        opened,
        short,
        charge_leased(world, opened, tenant, 40),
        give_back(world, opened, 100),
        charge_leased(world, opened, tenant, 7),
        give_back(world, opened, final=True),
    ):
        await ledger.submit(operation)
    hold = world.hold(tenant, 2_000)
    legs = [world.leg(hold, input_tokens=10, output_tokens=100)]
    for operation in (
        hold,
        world.capture(hold, legs),
        dispute(world, tenant, hold, claimed=200),
        answer(world, operator, hold),
        decision(world, hold, 120),
    ):
        await ledger.submit(operation)
    await _use_subcloud(ledger, world, tenant)
    for moved in (stake(world, tenant, 300), unstake(world, tenant), stake(world, tenant, 200)):
        await ledger.submit(moved)
    claimed = world.hold(tenant, 500)
    for operation in (
        claimed,
        claim_world.claim(world, claimed, input_tokens=10, output_tokens=20),
    ):
        await ledger.submit(operation)
    world.now_ms += 60_000
    await ledger.expire_holds(world.now_ms)
    await ledger.submit(expire(world, short))


async def _use_subcloud(ledger: Ledger, world: World, tenant: Tenant) -> None:
    """A job that a token lets in, and one out of a lease: both pay the subcloud's owner."""
    context = replace(SHARED, token=open_one(uses=2))
    shared = {"terms": SHARED_TERMS, "context": context, "caller_token": a_token(uses=2)}
    hold = world.hold(tenant, 2_000, **shared)  # type: ignore[arg-type]
    leased = lease(world, tenant, 600, terms=SHARED_TERMS, context=SHARED, lifetime_ms=5_000)
    for operation in (
        hold,
        world.capture(hold, [world.leg(hold, input_tokens=10, output_tokens=100)]),
        dispute(world, tenant, hold, claimed=200),
        decision(world, hold, 120),
        leased,
        charge_leased(world, leased, tenant, 40),
        give_back(world, leased, final=True),
    ):
        await ledger.submit(operation)


@pytest.mark.parametrize("sources_max", [2048, 1])
async def test_every_kind_comes_along(tmp_path: Path, url: str, sources_max: int) -> None:
    """From a file to a mirror on each database."""
    world = World()
    async with running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary:
        await _use_all(primary.ledger, world)
        kinds = await primary.ledger.read(
            lambda c: set(c.execute(select(TRANSFERS.c.kind)).scalars())
        )
        assert kinds == {kind.value for kind in TransferKind}
        primary.service.sequencer._sources_max = sources_max
        await primary.log()
        async with running_mirror(tmp_path / "mirror", world, url) as mirror:
            await mirror.mirror.step(primary)  # type: ignore[arg-type]
        async with running_mirror(tmp_path / "mirror", world, url) as mirror:
            await mirror.follow(primary)
            assert mirror.alarms() == []
            await assert_same(primary, mirror)
