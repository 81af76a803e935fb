"""A mirror follows referrals and invites, in whatever batches they come, and after a restart."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from ledger.ledger import Ledger
from ledger.store.opening_tables import INVITE_USES, REFERRALS
from tests.fakes.ledger_world import World
from tests.fakes.mirrors import assert_same, running_mirror, running_primary
from tests.fakes.opening_world import invite, invited, referred


async def openings(ledger: Ledger) -> list[list[tuple[object, ...]]]:
    return [
        await ledger.read(lambda c, t=table: sorted(tuple(row) for row in c.execute(select(t))))
        for table in (REFERRALS, INVITE_USES)
    ]


async def test_a_mirror_follows_openings(tmp_path: Path) -> None:
    world = World()
    tenants = [world.tenant(number) for number in range(8)]
    folder = tmp_path / "mirror"
    async with running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary:
        primary.service.sequencer._sources_max = 2
        for tenant in tenants[:3]:
            await primary.ledger.submit(tenant.founding)
        found = invite(4)
        for tenant in tenants[3:6]:
            await primary.ledger.submit(invited(tenant, found))
        for who, by in ((0, 5), (5, 3), (3, 1), (1, 2)):
            await primary.ledger.submit(referred(world, tenants[who], tenants[by]))
        async with running_mirror(folder, world) as mirror:
            await primary.log()
            await mirror.follow(primary)
            await assert_same(primary, mirror)
            assert await openings(mirror.ledger) == await openings(primary.ledger)
        async with running_mirror(folder, world) as mirror:
            await primary.ledger.submit(invited(tenants[6], found))
            await primary.ledger.submit(referred(world, tenants[6], tenants[0]))
            await primary.log()
            await mirror.follow(primary)
            await assert_same(primary, mirror)
            referrals, uses = await openings(mirror.ledger)
            assert (len(referrals), len(uses), mirror.alarms()) == (5, 4, [])
