"""The log of a real database, SQLite and PostgreSQL alike: nothing lost, nothing twice, no fork."""

from __future__ import annotations

import pytest
import trio
from sqlalchemy import Connection, func, select

from ledger.errors import ConflictError, NotAuthorizedError, ValueRefusedError
from ledger.log import merkle
from ledger.log.leaves import leaf_data
from ledger.log.notes import log_origin, open_checkpoint
from ledger.log.proofs import verify_opened_leaf, verify_reply
from ledger.operations import AppendLog
from ledger.store.log.proofs import consistency, inclusion_reply
from ledger.store.log.queries import (
    latest_checkpoint,
    leaves_between,
    openings_of,
    salt_secret,
)
from ledger.store.log.sequencer import next_batch
from ledger.store.log.tables import LOG_CHECKPOINTS, LOG_LEAVES, LOG_PENDING
from ledger.store.tables import TRANSFERS
from p2p.codec import encode_message
from p2p.log_messages import AccountLeaf, ConsumerLeg, OperatorLeg
from tests.fakes.ledger_log import LOG_KEY, paid_job, running_ledger, sequencer, signer, use
from tests.fakes.ledger_world import (
    GATEWAY,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    World,
    key_pair,
)


def count(connection: Connection, table: object) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]


def pending(connection: Connection) -> int:
    return count(connection, LOG_PENDING)


async def test_everything_is_logged_once(url: str) -> None:
    world = World()
    async with running_ledger(url, world) as ledger:
        assert await sequencer(ledger).catch_up() == 0
        await use(ledger, world, world.tenant())
        transfers = await ledger.read(lambda c: count(c, TRANSFERS))
        assert await ledger.read(pending) == transfers + 3 + 3
        added = await sequencer(ledger, sources_max=4).catch_up()
        # 3 captures pay two nodes, the gateway and the treasury each.
        assert added == transfers + 3 + 3 + 3 * 4
        assert await ledger.read(pending) == 0
        assert await sequencer(ledger).catch_up() == 0
        rows = (await ledger.read(lambda c: c.execute(select(LOG_LEAVES)).all())) or []
        assert [row.position for row in rows] == list(range(added))
        assert len({(row.source, row.part) for row in rows}) == added
        secret = await ledger.read(salt_secret)
        for row in rows:
            openings = await ledger.read(lambda c, s=row.source: openings_of(c, [s]))
            assert leaf_data(secret, openings[row.source][row.part]) == row.commitment


async def test_checkpoints_are_signed_and_consistent(url: str) -> None:
    world = World()
    async with running_ledger(url, world) as ledger:
        await use(ledger, world, world.tenant())
        await sequencer(ledger, sources_max=3).catch_up()
        rows = await ledger.read(
            lambda c: c.execute(select(LOG_CHECKPOINTS).order_by(LOG_CHECKPOINTS.c.size)).all()
        )
        heads = [open_checkpoint(row.note, log_origin(NETWORK), LOG_KEY.public_key) for row in rows]
        assert [head.size for head in heads] == [row.size for row in rows]
        assert len(heads) > 5
        leaves = await ledger.read(lambda c: leaves_between(c, 0, heads[-1].size))
        assert len(leaves) == heads[-1].size
        for older in heads:
            for newer in heads:
                if older.size > newer.size:
                    continue
                proof = await ledger.read(
                    lambda c, o=older.size, n=newer.size: consistency(c, o, n)
                )
                hashes = [proof[at : at + 32] for at in range(0, len(proof), 32)]
                merkle.verify_consistency(older.size, newer.size, older.root, newer.root, hashes)
        with pytest.raises(ValueRefusedError, match="the log has"):
            await ledger.read(lambda c: consistency(c, 1, heads[-1].size + 1))


async def test_sequencers_in_a_race_do_not_fork_the_log(url: str) -> None:
    world = World()
    async with running_ledger(url, world) as ledger, running_ledger(url, world) as other:
        await use(ledger, world, world.tenant(), jobs=8)
        added = []

        async def work(which: int) -> None:
            one = sequencer([ledger, other][which % 2], sources_max=2)
            added.append(await one.catch_up())

        async with trio.open_nursery() as nursery:
            for which in range(6):
                nursery.start_soon(work, which)
        await sequencer(ledger).catch_up()
        size = await ledger.read(lambda c: count(c, LOG_LEAVES))
        latest = await ledger.read(latest_checkpoint)
        assert latest is not None
        assert latest.size == size
        assert await ledger.read(pending) == 0
        sources = await ledger.read(
            lambda c: c.execute(select(LOG_LEAVES.c.source, LOG_LEAVES.c.part)).all()
        )
        assert len(set(sources)) == size


async def test_a_stale_batch_is_refused_and_changes_nothing(url: str) -> None:
    world = World()
    tenant = world.tenant()
    async with running_ledger(url, world) as ledger:
        await use(ledger, world, tenant)
        stale = await ledger.read(lambda c: next_batch(c, signer(52), 5))
        same = await ledger.read(lambda c: next_batch(c, signer(53), 5))
        assert stale is not None
        assert same is not None
        await ledger.submit(AppendLog(stale))
        for again in (stale, same):
            with pytest.raises(ConflictError):
                await ledger.submit(AppendLog(again))
        # In one group: the first wins, and an honest operation beside them is not disturbed.
        batch = await ledger.read(lambda c: next_batch(c, signer(), 5))
        assert batch is not None
        outcomes: list[str] = []

        async def submit(operation: object) -> None:
            try:
                await ledger.submit(operation)  # type: ignore[arg-type]
                outcomes.append("done")
            except ConflictError:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for operation in (AppendLog(batch), AppendLog(batch), world.grant(tenant, 5)):
                nursery.start_soon(submit, operation)
        assert sorted(outcomes) == ["done", "done", "refused"]
        await sequencer(ledger).catch_up()
        latest = await ledger.read(latest_checkpoint)
        assert latest is not None
        assert latest.size == await ledger.read(lambda c: count(c, LOG_LEAVES))


async def test_who_may_see_which_leaves(url: str) -> None:
    world = World()
    tenant, other = world.tenant(), world.tenant(1)
    async with running_ledger(url, world) as ledger:
        for operation in [*world.setup(tenant, 100_000), other.founding]:
            await ledger.submit(operation)
        hold, _ = await paid_job(ledger, world, tenant)
        subject = hold.document.hold_id

        async def seen_by(key: bytes | None) -> list[object]:
            reply = await ledger.read(lambda c: inclusion_reply(c, subject, key))
            return list(verify_reply(encode_message(reply), NETWORK)[1])

        with pytest.raises(ValueRefusedError, match="not in the log yet"):
            await seen_by(tenant.keys.public_key)
        await sequencer(ledger).catch_up()
        held, charged = await seen_by(tenant.keys.public_key)
        assert isinstance(held, ConsumerLeg)
        assert isinstance(charged, ConsumerLeg)
        assert (held.kind, held.amount, charged.kind) == ("hold", 1_000, "capture")
        assert (held.job_id, held.hold_id) == (charged.job_id, charged.hold_id)
        assert charged.amount == 10 * 2 + 14 * 5
        (earned,) = await seen_by(NODES[1].public_key)
        assert isinstance(earned, OperatorLeg)
        assert earned.account == f"earnings:{NODE_ACCOUNTS[1]}"
        assert earned.amount > 0
        (fee,) = await seen_by(GATEWAY.public_key)
        assert isinstance(fee, OperatorLeg)
        assert fee.account.startswith("fees:")
        assert len(await seen_by(None)) == 6
        for stranger in (other.keys, NODES[2], MINT, key_pair(99)):
            with pytest.raises(NotAuthorizedError, match="no logged transfer"):
                await seen_by(stranger.public_key)
        subject = bytes(16)
        with pytest.raises(NotAuthorizedError, match="no logged transfer"):
            await seen_by(tenant.keys.public_key)
        subject = tenant.founding.signed.digest()
        (leaf,) = await seen_by(tenant.keys.public_key)
        assert isinstance(leaf, AccountLeaf)
        assert leaf.purpose == "account-founding"
        with pytest.raises(NotAuthorizedError):
            await seen_by(other.keys.public_key)


async def test_legs_that_earn_nothing_have_no_leaf_and_shift_none(url: str) -> None:
    world = World()
    tenant = world.tenant()
    async with running_ledger(url, world) as ledger:
        for operation in world.setup(tenant, 100_000):
            await ledger.submit(operation)
        hold = world.hold(tenant, 1_000)
        legs = [
            world.leg(hold, node=NODES[0], attempt=0),
            world.leg(hold, node=NODES[1], attempt=1, input_tokens=10, output_tokens=100),
        ]
        capture = world.capture(hold, legs)
        await ledger.submit(hold)
        await ledger.submit(capture)
        await sequencer(ledger).catch_up()
        reply = await ledger.read(
            lambda c: inclusion_reply(c, capture.document.capture_id, NODES[1].public_key)
        )
        (leg,) = verify_reply(encode_message(reply), NETWORK)[1]
        assert isinstance(leg, OperatorLeg)
        assert leg.evidence == capture.document.legs[1].receipt.digest()
        with pytest.raises(NotAuthorizedError):
            await ledger.read(
                lambda c: inclusion_reply(c, capture.document.capture_id, NODES[0].public_key)
            )


async def test_a_grown_log_still_proves_an_old_leaf(url: str) -> None:
    world = World()
    tenant = world.tenant()
    async with running_ledger(url, world) as ledger:
        await use(ledger, world, tenant, jobs=1)
        first = await ledger.read(lambda c: next_batch(c, signer(), 1000))
        assert first is not None
        await sequencer(ledger).catch_up()
        hold, _ = await paid_job(ledger, world, tenant)
        for _ in range(60):
            await paid_job(ledger, world, tenant)
        await sequencer(ledger, sources_max=50).catch_up()
        reply = await ledger.read(
            lambda c: inclusion_reply(c, hold.document.hold_id, tenant.keys.public_key)
        )
        verified, openings = verify_reply(encode_message(reply), NETWORK)
        assert len(openings) == 2
        assert verified.head.size > 300
        assert verify_opened_leaf(reply.inclusions[0], verified.head) == openings[0]
