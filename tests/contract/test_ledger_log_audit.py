"""The audit: quiet on a used ledger, and loud about any value that was changed in it."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from ledger.ledger import Ledger
from ledger.operations import ChangeAccountKeys, RotateKey
from ledger.store.audit.report import AuditReport
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine
from p2p.account_messages import AccountKeyChange, ApiKeyRotation
from tests.fakes.claim_world import claim
from tests.fakes.dispute_world import DECIDER, answer, decision, dispute, operator_tenant
from tests.fakes.lease_world import charge_leased, give_back, lease
from tests.fakes.ledger_log import paid_job, running_ledger, sequencer, use
from tests.fakes.ledger_world import (
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    Tenant,
    World,
    key_pair,
)
from tests.fakes.node_invites import admitting, node_invite, node_key
from tests.fakes.opening_world import invite, invited, referred
from tests.fakes.stake_world import stake, unstake
from tests.fakes.subcloud_ledger import SHARED, SHARED_TERMS, a_token, open_one

SOAK = bool(os.environ.get("RESULTITY_SOAK"))
MUTATIONS = 600 if SOAK else 20
MUTATIONS_OF_A_COLUMN = 4 if SOAK else 1
DIRECTORY = {
    "ledger_subclouds",
    *(
        f"ledger_subcloud_{name}"
        for name in (
            *("policies", "names", "requests", "answers", "members", "joins", "evidence"),
            "invite_uses",
        )
    ),
}
NOT_COVERED = {
    # Frozen epochs and uptime are signed documents of bootstraps, checked by `ledger.rcp`.
    "ledger_rcp_epochs",
    "ledger_rcp_scores",
    "ledger_uptime",
    # Signed by others (witnesses, mirrors), each row for itself; nothing is decided by them.
    "ledger_log_cosignatures",
    "ledger_log_alarms",
    # What a bootstrap saw of peers; nobody signs it.
    "ledger_refusals",
    # What gateways say of nodes; it is forgotten, and no money depends on it.
    "ledger_conduct",
    # The directory of subclouds: signed by owners, delegates and nodes, each row for itself.
    *DIRECTORY,
    # Only what Alembic works with.
    "ledger_schema",
}
MINTS = (MINT.public_key,)


def audited(url: str, mints: tuple[bytes, ...] = MINTS) -> AuditReport:
    engine = open_engine(url, writer=False)
    try:
        with engine.begin() as connection:
            return audit(connection, NETWORK, mints, (DECIDER.public_key,))
    finally:
        engine.dispose()


async def claim_pay(ledger: Ledger, world: World, tenant: Tenant) -> None:
    """Claims that were paid, dropped and are open, and one that proves too little pay."""
    paid, open_one, released = (world.hold(tenant, 200, lifetime_ms=900 + n) for n in range(3))
    for hold in (paid, open_one, released):
        await ledger.submit(hold)
    await ledger.submit(claim(world, paid, input_tokens=10, output_tokens=3))
    twice = claim(world, paid, node=NODES[1], attempt=1, input_tokens=10, output_tokens=4)
    await ledger.submit(twice)
    await ledger.submit(claim(world, open_one, output_tokens=5))
    await ledger.submit(world.release(released))
    await ledger.submit(claim(world, released, output_tokens=6))
    world.now_ms += 900
    await ledger.expire_holds(world.now_ms)


async def use_subcloud(ledger: Ledger, world: World, tenant: Tenant) -> None:
    """A job that a token let in, and a stake that came back and one that did not."""
    context = replace(SHARED, token=open_one(uses=2))
    shared = {"terms": SHARED_TERMS, "context": context, "caller_token": a_token(uses=2)}
    hold = world.hold(tenant, 2_000, **shared)  # type: ignore[arg-type]
    for operation in (
        hold,
        world.capture(hold, [world.leg(hold, input_tokens=10, output_tokens=30)]),
        stake(world, tenant, 300),
        unstake(world, tenant),
        stake(world, tenant, 200),
    ):
        await ledger.submit(operation)


async def fill(ledger: Ledger, world: World) -> None:
    """A ledger with one of everything, some of it still waiting for the log."""
    tenant, other = world.tenant(), world.tenant(1, "prod")
    await use(ledger, world, tenant)
    await sequencer(ledger, sources_max=7).catch_up()
    for operation in world.setup(other, 500):
        await ledger.submit(operation)
    added = key_pair(3000)
    change = AccountKeyChange(
        other.account_id, 1, (added.public_key,), (other.keys.public_key,), world.now_ms
    )
    world.now_ms += 5
    await ledger.submit(ChangeAccountKeys(other.keys.sign(NETWORK, change), change))
    rotation = ApiKeyRotation(
        other.account_id, other.api_key.key_id, 1, bytes([9]) * 32, 60_000, world.now_ms
    )
    await ledger.submit(world_hold := world.hold(other, 20))
    await ledger.submit(RotateKey(added.sign(NETWORK, rotation), rotation))
    await ledger.submit(world.release(world_hold))
    await ledger.submit(world.hold(tenant, 7))
    await claim_pay(ledger, world, tenant)
    leases = [lease(world, other, 400), lease(world, tenant, 300)]
    for opened in leases:
        await ledger.submit(opened)
    await ledger.submit(charge_leased(world, leases[0], other, 10))
    await ledger.submit(give_back(world, leases[0], 100, failed=2, client_left=1))
    await ledger.submit(give_back(world, leases[1], final=True))
    await ledger.submit(world.revocation(other, added))
    brought = world.tenant(7, "brought")
    await ledger.submit(invited(brought, invite()))
    await ledger.submit(referred(world, brought, tenant))
    await ledger.submit(admitting(brought, node_key(1), node_invite()))
    await ledger.bind_node(NODES[0].peer_id, NODE_ACCOUNTS[5])
    hold, _ = await paid_job(ledger, world, tenant)
    leased = charge_leased(world, leases[0], other, 20)
    await ledger.submit(leased)
    # Two disputes: one decided (about a lease's charge), one answered and open.
    hold_id = leased.hold.hold_id
    await ledger.submit(dispute(world, other, hold_id, signer=added))
    await ledger.submit(decision(world, hold_id, 15))
    await ledger.submit(dispute(world, tenant, hold))
    operator = operator_tenant(world)
    await ledger.submit(operator.founding)
    await ledger.bind_node(NODES[0].peer_id, operator.account_id)
    paid, _ = await paid_job(ledger, world, tenant)
    await ledger.submit(dispute(world, tenant, paid))
    await ledger.submit(answer(world, operator, paid))
    await use_subcloud(ledger, world, tenant)
    await sequencer(ledger).catch_up()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import trio

    path = tmp_path_factory.mktemp("used") / "ledger.db"

    async def make() -> None:
        world = World()
        async with running_ledger(f"sqlite:///{path}", world) as ledger:
            await fill(ledger, world)
            await ledger.submit(world.grant(world.tenant(), 5))

    trio.run(make)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # It only says how much a start may skip.
        connection.execute("DELETE FROM ledger_meta WHERE name = 'verified_to'")
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
    return path


def columns(path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name not in NOT_COVERED and not name.startswith("sqlite_")
        ]
        return [
            (table, row[1])
            for table in tables
            for row in connection.execute(f"PRAGMA table_info({table})")
        ]


def changed(source: random.Random, value: object) -> object:
    """The value with one bit, digit or letter changed."""
    if value is None:
        return 1
    if isinstance(value, int):
        return value ^ (1 << source.randrange(8))
    if isinstance(value, bytes):
        if not value:
            return b"\0"
        data = bytearray(value)
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        return bytes(data)
    assert isinstance(value, str)
    if not value:
        return "x"
    at = source.randrange(len(value))
    return value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]


def mutate(path: Path, table: str, column: str, source: random.Random) -> str | None:
    """Change one value of a column; None if the database itself refuses all of ten tries."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        keys = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[5]]
        names = ", ".join([*keys, column])
        rows = connection.execute(f"SELECT {names} FROM {table}").fetchall()
        assert rows, f"the used ledger has no row in {table}: give it one"
        for _ in range(10):
            row = source.choice(rows)
            where = " AND ".join(f"{key} IS ?" for key in keys)
            new = changed(source, row[-1])
            try:
                done = connection.execute(
                    f"UPDATE {table} SET {column} = ? WHERE {where}", (new, *row[:-1])
                )
            except sqlite3.IntegrityError:
                continue
            assert done.rowcount == 1
            connection.commit()
            return f"{table}.{column} of {row[:-1]}: {row[-1]!r} -> {new!r}"
        return None
    finally:
        connection.close()


async def test_a_used_ledger_passes(url: str) -> None:
    world = World()
    async with running_ledger(url, world) as ledger:
        assert audited(url).problems == []
        await fill(ledger, world)
        report = audited(url)
        assert report.problems == []
        assert report.checked["transfers"] >= 15
        assert report.checked["leaves"] > report.checked["transfers"]
        assert report.checked["checkpoints"] > 3
        await ledger.submit(world.grant(world.tenant(), 5))
        report = audited(url)
        assert report.problems == []
        assert report.checked["waiting for the log"] == 1


@pytest.mark.timeout(600)
def test_a_changed_value_of_any_column_is_found(used: Path, tmp_path: Path) -> None:
    copy, source = tmp_path / "copy.db", random.Random(7)
    assert audited(f"sqlite:///{used}").problems == []
    missed = []
    for table, column in columns(used):
        for _ in range(MUTATIONS_OF_A_COLUMN):
            shutil.copyfile(used, copy)
            what = mutate(copy, table, column, source)
            if what is not None and not audited(f"sqlite:///{copy}").problems:
                missed.append(what)
    assert missed == [], "cover these columns in ledger/store/audit/whole*.py"


@pytest.mark.timeout(600)
def test_random_changes_are_found(used: Path, tmp_path: Path) -> None:
    copy, source = tmp_path / "copy.db", random.Random(8)
    places = columns(used)
    missed = []
    for _ in range(MUTATIONS):
        shutil.copyfile(used, copy)
        what = mutate(copy, *source.choice(places), source)
        if what is not None and not audited(f"sqlite:///{copy}").problems:
            missed.append(what)
    assert missed == []


def test_a_missing_row_of_any_table_is_found(used: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    # Evidence is forgotten some time after the decision, and mirrors never have it.
    kept = {table for table, _ in columns(used)} - {"ledger_dispute_evidence"}
    for table in sorted(kept):
        shutil.copyfile(used, copy)
        # A claim that paid nothing is in no transfer: nobody but its node can miss it.
        where = "WHERE state = 'paid'" if table == "ledger_claims" else ""
        with sqlite3.connect(copy) as connection:
            keys = ", ".join(
                row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[5]
            )
            connection.execute(
                f"DELETE FROM {table} WHERE ({keys}) IN (SELECT {keys} FROM {table} {where} "
                f"ORDER BY {keys} DESC LIMIT 1)"
            )
        connection.close()
        # Of checkpoints the newest goes: one before it says nothing that the newest does not.
        assert audited(f"sqlite:///{copy}").problems, table


def test_a_grant_by_an_unknown_mint_key_is_found(used: Path) -> None:
    report = audited(f"sqlite:///{used}", mints=(key_pair(99).public_key,))
    assert any("no given network configuration names" in text for text in report.problems)


def test_another_networks_ledger_is_told(used: Path) -> None:
    engine = create_engine(f"sqlite:///{used}")
    with engine.connect() as connection:
        report = audit(connection, NETWORK[:-1] + "0", MINTS)  # type: ignore[arg-type]
    engine.dispose()
    assert report.problem_count > 10
    assert "this is the ledger of network" in report.problems[0]
