"""Contribution points from work and uptime to frozen epochs, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from bootstrap.limits import EPOCH_GRACE_MS
from ledger import methods
from ledger.errors import ConflictError, ValueRefusedError
from ledger.ledger import Ledger
from ledger.operations import FreezeEpoch, KeepUptime
from ledger.rcp import Days, scores_digest, verify_report
from ledger.store.audit.whole import audit
from ledger.store.rcp_queries import rcp_state, uptime_records
from ledger.store.usage_check import counter_problems, epoch_problems
from ledger.usage import DAY_MS, day_of
from p2p.calls import Caller
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError
from p2p.signing import open_signed
from p2p.usage_messages import RcpEpoch, RcpQuery, RcpReport, RcpScore, UptimeRecord
from tests.fakes import trust
from tests.fakes.epochs import Points
from tests.fakes.ledger_desk import caller
from tests.fakes.ledger_world import GATEWAY, MINT, NETWORK, NODE_ACCOUNTS, NODES, START_MS, World

DAY = day_of(START_MS)
MIDNIGHT_MS = DAY * DAY_MS
ANYBODY = caller(GATEWAY)


@asynccontextmanager
async def ledgers(url: str, world: World, count: int = 1) -> AsyncIterator[list[Ledger]]:
    async with trio.open_nursery() as nursery:
        found = [Ledger(url, NETWORK, clock_ms=world.clock_ms) for _ in range(count)]
        for ledger in found:
            await nursery.start(ledger.run)
        yield found
        nursery.cancel_scope.cancel()


async def work(ledger: Ledger, world: World, node: int, output_tokens: int) -> None:
    hold = world.hold(world.tenant(), 10_000)
    leg = world.leg(hold, node=NODES[node], output_tokens=output_tokens)
    await ledger.submit(hold)
    await ledger.submit(world.capture(hold, [leg]))


async def report(points: Points, query: RcpQuery) -> RcpReport:
    handler = points.service.handlers()[methods.RCP]
    return decode_message(await handler(ANYBODY, encode_message(query)), RcpReport)


def count_minutes(points: Points, world: World, minutes: int, *nodes: int) -> None:
    points.live = [(NODES[node].peer_id, NODE_ACCOUNTS[node]) for node in nodes]
    for _ in range(minutes):
        world.now_ms += 60_000
        points.service._counter.observe(world.now_ms, points.live)


def after_the_epoch(day: int) -> int:
    return (day + 1) * DAY_MS + EPOCH_GRACE_MS


async def test_from_work_and_uptime_to_a_frozen_epoch(url: str) -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world) as (ledger,):
        for operation in world.setup(world.tenant(), 1_000_000):
            await ledger.submit(operation)
        points = Points(ledger, world.clock_ms)
        with pytest.raises(RefusedError, match="no frozen epoch"):
            await report(points, RcpQuery())
        assert await points.service.freeze() == 0
        await work(ledger, world, 0, 300)
        await work(ledger, world, 1, 100)
        count_minutes(points, world, 3, 0, 1)
        await points.service.record()
        # A restart goes on with what was recorded.
        points = Points(ledger, world.clock_ms)
        await points.service._restore()
        count_minutes(points, world, 1, 1)
        await points.service.record()
        world.now_ms = after_the_epoch(DAY) - 1
        assert await points.service.freeze() == 0
        world.now_ms += 1
        await work(ledger, world, 2, 500)  # the next epoch's
        assert await points.service.freeze() == 1
        assert await points.service.freeze() == 0

        found = await report(points, RcpQuery())
        epoch = verify_report(found, NETWORK)
        assert (epoch.first_day, epoch.days, epoch.accounts) == (DAY, 1, 2)
        assert found.scores == (
            RcpScore(NODE_ACCOUNTS[0], 525_000 + 128_571, 1_350, 3),
            RcpScore(NODE_ACCOUNTS[1], 175_000 + 171_428, 450, 4),
        )
        page = await report(points, RcpQuery(DAY, 1, 10))
        assert (page.first, page.scores) == (1, found.scores[1:])
        one = await report(points, RcpQuery(DAY, 0, 10, NODE_ACCOUNTS[1]))
        assert (one.first, one.scores) == (1, found.scores[1:])
        assert await ledger.read(lambda c: list(epoch_problems(c, NETWORK))) == []
        assert await ledger.read(lambda c: list(counter_problems(c))) == []
        nobody = await report(points, RcpQuery(DAY, 0, 10, NODE_ACCOUNTS[5]))
        assert nobody.scores == ()
        with pytest.raises(RefusedError, match="no frozen epoch"):
            await report(points, RcpQuery(DAY + 1))
        with pytest.raises(RefusedError, match="only a certified"):
            await points.service.report(Caller(GATEWAY.peer_id, None), encode_message(RcpQuery()))
        await ledger.check_integrity()


async def test_epochs_follow_without_a_gap_also_after_a_long_pause(url: str) -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world) as (ledger,):
        points = Points(ledger, world.clock_ms, epoch_days=2)
        count_minutes(points, world, 1, 0)
        await points.service.record()
        world.now_ms = after_the_epoch(DAY + 6)
        assert await points.service.freeze() == 3
        state = await ledger.read(rcp_state)
        assert (state.frozen_day, state.started_day) == (DAY + 5, DAY)
        # Another length takes effect with the next epoch.
        points.configuration = Points(ledger, world.clock_ms, epoch_days=1).configuration
        assert await points.service.freeze() == 1
        assert (await ledger.read(rcp_state)).frozen_day == DAY + 6
        for day, accounts in ((DAY, 1), (DAY + 3, 0), (DAY + 6, 0)):
            found = await report(points, RcpQuery(day))
            assert verify_report(found, NETWORK).accounts == accounts


async def test_two_bootstraps_freeze_one_epoch(url: str) -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world, count=2) as both:
        pairs = (trust.BOOTSTRAP, trust.OTHER_BOOTSTRAP)
        points = [
            Points(ledger, world.clock_ms, pair) for ledger, pair in zip(both, pairs, strict=True)
        ]
        start_ms = world.now_ms
        count_minutes(points[0], world, 5, 0)
        world.now_ms = start_ms
        count_minutes(points[1], world, 9, 0, 1)
        for one in points:
            await one.service.record()
        assert len(await both[0].read(lambda c: uptime_records(c, Days(DAY, DAY)))) == 2
        world.now_ms = after_the_epoch(DAY)
        async with trio.open_nursery() as nursery:
            for one in points:
                nursery.start_soon(one.service.freeze)
        found = [await report(one, RcpQuery()) for one in points]
        assert found[0] == found[1]
        verify_report(found[0], NETWORK)
        assert [score.uptime_minutes for score in found[0].scores] == [9, 9]


async def test_epochs_that_are_not_taken(url: str) -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world) as (ledger,):
        points = Points(ledger, world.clock_ms)
        count_minutes(points, world, 1, 0)
        await points.service.record()
        world.now_ms = after_the_epoch(DAY)
        await points.service.freeze()
        found = await report(points, RcpQuery())
        frozen = open_signed(found.epoch, RcpEpoch, NETWORK)

        def again(scores: tuple[RcpScore, ...] = found.scores, **changes: int) -> FreezeEpoch:
            document = replace(frozen, **changes)  # type: ignore[arg-type]
            return FreezeEpoch(trust.BOOTSTRAP.sign(NETWORK, document), document, scores)

        assert (await ledger.submit(again())).exists
        with pytest.raises(ConflictError, match=f"starts on day {DAY + 1}"):
            await ledger.submit(again(first_day=DAY + 2))
        with pytest.raises(ConflictError):
            await ledger.submit(again(days=3))
        with pytest.raises(ValueRefusedError, match="not the scores"):
            await ledger.submit(again((), first_day=DAY + 1))
        assert (await report(points, RcpQuery())) == found


async def test_frozen_is_frozen(url: str) -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world) as (ledger,):
        points = Points(ledger, world.clock_ms)
        count_minutes(points, world, 1, 0)
        await points.service.record()
        world.now_ms = after_the_epoch(DAY)
        await points.service.freeze()
    engine = create_engine(url)
    for table in ("ledger_rcp_scores", "ledger_rcp_epochs"):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET first_day = 1"):
            with pytest.raises(DBAPIError, match="immutable"), engine.begin() as connection:
                connection.execute(text(statement))
    engine.dispose()


async def test_a_record_that_somebody_changed_does_not_count(url: str) -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world) as (ledger,):
        points = Points(ledger, world.clock_ms)
        count_minutes(points, world, 1, 0)
        await points.service.record()
        (signed,) = await ledger.read(lambda c: uptime_records(c, Days(DAY, DAY)))
        record = open_signed(signed, UptimeRecord, NETWORK)
        forged = replace(signed, body=encode_message(replace(record, issued_ms=1)))
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE ledger_uptime SET signed = :s"), {"s": encode_message(forged)}
            )
        engine.dispose()
        world.now_ms = after_the_epoch(DAY)
        await points.service.freeze()
        assert (await report(points, RcpQuery())).scores == ()


async def test_the_loop_observes_and_records(url: str) -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world) as (ledger,):
        points = Points(ledger, world.clock_ms)
        points.live = [(NODES[0].peer_id, NODE_ACCOUNTS[0])]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(points.service.run)
            with trio.fail_after(30):
                while not await ledger.read(lambda c: uptime_records(c, Days(DAY, DAY))):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_an_epoch_that_does_not_follow_from_the_ledger_is_found(url: str) -> None:
    world = World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world) as (ledger,):
        points = Points(ledger, world.clock_ms)
        count_minutes(points, world, 2, 0, 1)
        await points.service.record()
        world.now_ms = after_the_epoch(DAY)
        await points.service.freeze()
        # A record that comes too late changes nothing.
        late = UptimeRecord(DAY, 0, (), world.now_ms)
        signed = trust.BOOTSTRAP.sign(NETWORK, late)
        assert (await ledger.submit(KeepUptime(signed, late, trust.BOOTSTRAP.peer_id))).exists
        assert await ledger.read(lambda c: list(epoch_problems(c, NETWORK))) == []
        # A lying bootstrap freezes what it likes: signed, but not what the ledger says.
        scores = (RcpScore(NODE_ACCOUNTS[7], 10**6, 10**9, 0),)
        frozen = open_signed((await report(points, RcpQuery())).epoch, RcpEpoch, NETWORK)
        lie = replace(frozen, first_day=DAY + 1, accounts=1, scores_digest=scores_digest(scores))
        await ledger.submit(FreezeEpoch(trust.BOOTSTRAP.sign(NETWORK, lie), lie, scores))
        verify_report(await report(points, RcpQuery()), NETWORK)
        problems = await ledger.read(lambda c: list(epoch_problems(c, NETWORK)))
        assert problems == [f"the epoch of day {DAY + 1}: work and uptime give other scores"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_rcp_scores SET points = points + 1",
        "UPDATE ledger_rcp_scores SET place = place + 10",
        "DELETE FROM ledger_rcp_scores",
        "UPDATE ledger_rcp_epochs SET last_day = last_day + 1",
        "DELETE FROM ledger_uptime",
        "UPDATE ledger_work SET earned = earned + 1",
        "DELETE FROM ledger_usage",
    ],
)
async def test_an_audit_finds_what_was_changed(tmp_path: Path, statement: str) -> None:
    url, world = f"sqlite:///{tmp_path / 'ledger.db'}", World()
    world.now_ms = MIDNIGHT_MS
    async with ledgers(url, world) as (ledger,):
        for operation in world.setup(world.tenant(), 1_000_000):
            await ledger.submit(operation)
        points = Points(ledger, world.clock_ms)
        await work(ledger, world, 0, 300)
        count_minutes(points, world, 2, 1)
        await points.service.record()
        world.now_ms = after_the_epoch(DAY)
        await points.service.freeze()
        report = await ledger.read(lambda c: audit(c, NETWORK, [MINT.public_key]))
        assert report.problems == []
    engine = create_engine(url)
    with engine.begin() as connection:
        triggers = text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for name in list(connection.execute(triggers).scalars()):
            connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text(statement))
        assert audit(connection, NETWORK, [MINT.public_key]).problems
    engine.dispose()
