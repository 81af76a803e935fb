"""The store on SQLite and on PostgreSQL: the same suite, one database for each test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError

from ledger.errors import (
    ConflictError,
    HoldEndedError,
    InsufficientFundsError,
    IntegrityError,
    LedgerError,
    StorageError,
)
from ledger.operations import Operation
from ledger.records import HoldState
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import (
    balance,
    earnings_view,
    expired_holds,
    hold_end,
    key_view,
    namespace_view,
)
from p2p.ledger_messages import TransferResult
from p2p.types import NetworkId
from tests.fakes.ledger_world import (
    GATEWAY_ACCOUNT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    Tenant,
    World,
)


class Bench:
    """A database with one tenant, and stores on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.world = World()
        self.tenant: Tenant = self.world.tenant()
        self.engines: list[sqlalchemy.Engine] = []
        self.store = self.open()

    def open(self) -> Store:
        engine = open_engine(self.url, writer=True)
        self.engines.append(engine)
        prepare(engine, NETWORK)
        return Store(engine)

    def do(self, *operations: Operation) -> list[Outcome]:
        return self.store.apply(operations, self.world.now_ms)

    def ok(self, *operations: Operation) -> list[TransferResult]:
        found = []
        for outcome in self.do(*operations):
            assert isinstance(outcome, TransferResult), outcome
            found.append(outcome)
        return found

    def read(self, query: Callable):
        engine = open_engine(self.url, writer=False)
        try:
            with engine.begin() as connection:
                return query(connection)
        finally:
            engine.dispose()

    def check(self) -> None:
        self.read(check_integrity)

    def tamper(self, statement: str) -> None:
        """Change the database behind the ledger's back (its triggers switched off)."""
        engine = create_engine(self.url)
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                for name in list(connection.execute(text(triggers)).scalars()):
                    connection.execute(text(f"DROP TRIGGER {name}"))
            else:
                connection.execute(text("SET session_replication_role = replica"))
            connection.execute(text(statement))
        engine.dispose()

    def close(self) -> None:
        self.store.close()
        for engine in self.engines:
            engine.dispose()


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    found = Bench(url)
    yield found
    found.close()


def test_a_jobs_money_from_grant_to_earnings(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    bench.ok(*world.setup(tenant, 100_000))
    hold = world.hold(tenant, 1_000)
    (held,) = bench.ok(hold)
    assert held == TransferResult(hold.document.hold_id, 1_000, 99_000, False)
    assert bench.read(lambda c: hold_end(c, hold.document.hold_id)).state is HoldState.OPEN
    legs = [
        world.leg(hold, input_tokens=100, output_tokens=20),
        world.leg(hold, node=NODES[1], attempt=1, output_tokens=30),
    ]
    (captured,) = bench.ok(world.capture(hold, legs))
    assert (captured.amount, captured.available) == (450, 99_550)
    assert bench.read(lambda c: hold_end(c, hold.document.hold_id)).charged == 450
    view = bench.read(lambda c: namespace_view(c, tenant.path))
    assert (view.available, view.held, view.granted, len(view.grants)) == (99_550, 0, 100_000, 1)
    assert bench.read(lambda c: balance(c, "mint")) == -100_000
    assert bench.read(lambda c: balance(c, "treasury")) == 22
    earned = bench.read(lambda c: earnings_view(c, NODE_ACCOUNTS[1], 0))
    assert (earned.earned, earned.fees, earned.legs) == (136, 0, 1)
    assert bench.read(lambda c: earnings_view(c, GATEWAY_ACCOUNT, 0)).fees == 22
    assert bench.read(lambda c: key_view(c, tenant.api_key.key_id)).available == 99_550
    bench.check()


def test_one_bad_operation_fails_alone(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    bench.ok(*world.setup(tenant, 1_000))
    good, bad, last = (world.hold(tenant, amount) for amount in (600, 500, 400))
    outcomes = bench.do(good, bad, world.release(bad), last)
    assert isinstance(outcomes[0], TransferResult)
    assert isinstance(outcomes[1], InsufficientFundsError)
    assert outcomes[2].code == "hold_unknown"
    assert outcomes[3].available == 0
    bench.check()


def test_everything_can_happen_in_one_group(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    hold, other = world.hold(tenant, 500), world.hold(tenant, 500)
    capture = world.capture(hold, [world.leg(hold, output_tokens=10)])
    outcomes = bench.do(
        *world.setup(tenant, 1_000),
        hold,
        hold,
        other,
        capture,
        capture,
        world.release(hold),
        world.release(other),
        world.revocation(tenant),
        world.hold(tenant, 1),
    )
    assert [getattr(o, "exists", o) for o in outcomes[7:12]] == [False, True, False, False, True]
    assert isinstance(outcomes[12], HoldEndedError)
    assert outcomes[13].available == 950
    assert outcomes[15].code == "key_revoked"
    bench.check()


def test_repetitions_survive_a_new_process(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    setup = world.setup(tenant, 1_000)
    hold = world.hold(tenant, 500)
    capture = world.capture(hold, [world.leg(hold, output_tokens=10)])
    first = bench.ok(*setup, hold, capture)
    bench.store = bench.open()
    again = bench.ok(*setup, hold, capture)
    assert [result.exists for result in again] == [True] * len(again)
    assert again[-2:] == [replace(result, exists=True) for result in first[-2:]]
    (conflict,) = bench.do(world.grant(tenant, 5, grant_id=hold.document.hold_id))
    assert isinstance(conflict, ConflictError)
    bench.check()


def test_expired_holds_are_found_and_ended(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    bench.ok(*world.setup(tenant, 1_000))
    holds = [world.hold(tenant, 10, lifetime_ms=1_000 * (n + 1)) for n in range(4)]
    bench.ok(*holds)
    bench.ok(world.release(holds[0]))
    world.now_ms += 3_000
    due = bench.read(lambda c: expired_holds(c, world.now_ms, 10))
    assert due == [hold.document.hold_id for hold in holds[1:3]]
    bench.ok(world.expire(holds[1]), world.expire(holds[2]))
    assert bench.read(lambda c: expired_holds(c, world.now_ms, 10)) == []
    assert bench.ok(world.expire(holds[1]))[0].exists
    assert bench.read(lambda c: namespace_view(c, tenant.path)).held == 10
    bench.check()


def test_history_cannot_be_changed(bench: Bench) -> None:
    bench.ok(*bench.world.setup(bench.tenant, 1_000))
    for statement in (
        "UPDATE ledger_entries SET amount = 0",
        "DELETE FROM ledger_entries",
        "UPDATE ledger_transfers SET kind = 'hold'",
        "DELETE FROM ledger_grants",
        "DELETE FROM ledger_records",
    ):
        with pytest.raises(DBAPIError, match="immutable"), bench.engines[0].begin() as connection:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET amount = amount + 1 WHERE account = 'treasury'",
        "UPDATE ledger_namespaces SET available = available + 1",
        "UPDATE ledger_namespaces SET held = held + 1",
        "UPDATE ledger_api_keys SET spent = spent + 1",
        "UPDATE ledger_holds SET state = 'open'",
        "UPDATE ledger_holds SET state = 'released' WHERE state = 'captured'",
        "UPDATE ledger_holds SET maximum = maximum + 1",
        "DELETE FROM ledger_grants",
        "UPDATE ledger_grants SET amount = amount + 1",
        "DELETE FROM ledger_entries",
    ],
)
def test_a_database_that_breaks_a_rule_is_recognized(bench: Bench, statement: str) -> None:
    world, tenant = bench.world, bench.tenant
    bench.ok(*world.setup(tenant, 1_000))
    hold, still_open = world.hold(tenant, 500), world.hold(tenant, 5)
    bench.ok(hold, world.capture(hold, [world.leg(hold, output_tokens=50)]), still_open)
    bench.check()
    bench.store.close()
    bench.tamper(statement)
    with pytest.raises(IntegrityError, match="breaks rules"):
        bench.check()


def test_another_networks_database_is_refused(bench: Bench) -> None:
    bench.store.close()
    engine = open_engine(bench.url, writer=True)
    with pytest.raises(IntegrityError, match="not of"):
        prepare(engine, NetworkId("other-" + "0" * 32))
    engine.dispose()


def test_what_is_not_committed_is_not_acknowledged(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    bench.ok(*world.setup(tenant, 1_000))
    failing = True

    @event.listens_for(bench.engines[0], "commit")
    def fail(connection: sqlalchemy.Connection) -> None:
        if failing:
            raise sqlalchemy.exc.OperationalError("COMMIT", None, OSError("disk full"))

    hold = world.hold(tenant, 10)
    outcomes = bench.do(hold, world.hold(tenant, 20))
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)
    failing = False
    assert not bench.ok(hold)[0].exists
    assert bench.read(lambda c: namespace_view(c, tenant.path)).held == 10
    bench.check()


STORES, HOLDS_EACH, COVERED = 4, 24, 30


def test_overspend_race_of_several_processes_on_one_database(bench: Bench) -> None:
    """Four writers at once on a balance that covers exactly 30 of 96 holds."""
    world, tenant = bench.world, bench.tenant
    bench.ok(*world.setup(tenant, COVERED * 100))
    stores = [bench.open() for _ in range(STORES)]
    work = [[world.hold(tenant, 100) for _ in range(HOLDS_EACH)] for _ in stores]
    outcomes: list[Outcome] = []
    start = threading.Barrier(STORES)

    def run(store: Store, holds: list[Operation]) -> None:
        start.wait()
        for first in range(0, HOLDS_EACH, 3):
            outcomes.extend(store.apply(holds[first : first + 3], world.now_ms))
        store.close()

    threads = [threading.Thread(target=run, args=pair) for pair in zip(stores, work, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    admitted = [outcome for outcome in outcomes if isinstance(outcome, TransferResult)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, LedgerError)]
    assert len(admitted) == COVERED
    assert all(isinstance(error, InsufficientFundsError) for error in refused)
    assert len(refused) == STORES * HOLDS_EACH - COVERED
    bench.check()


def test_the_same_question_to_several_processes_has_one_effect(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    bench.ok(*world.setup(tenant, 100_000))
    holds = [world.hold(tenant, 100) for _ in range(12)]
    captures = [world.capture(hold, [world.leg(hold, output_tokens=4)]) for hold in holds]
    sweeps = [world.expire(hold) for hold in holds]
    for round_of in (holds, [*captures, *sweeps]):
        stores = [bench.open() for _ in range(3)]
        outcomes: list[Outcome] = []

        def run(store: Store, turn: int, operations=round_of, found=outcomes) -> None:
            step = 5
            for first in range(0, len(operations), step):
                group = operations[first : first + step]
                found.extend(store.apply(group if turn % 2 else group[::-1], world.now_ms))
            store.close()

        threads = [
            threading.Thread(target=run, args=(store, turn)) for turn, store in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        first_ones = [o for o in outcomes if isinstance(o, TransferResult) and not o.exists]
        assert len(first_ones) == 12
        assert not [o for o in outcomes if isinstance(o, StorageError)]
    assert bench.read(lambda c: namespace_view(c, tenant.path)).available == 100_000 - 12 * 20
    bench.check()


def test_a_database_that_cannot_be_used_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="starts with sqlite"):
        open_engine("mysql://nobody", writer=True)
    with pytest.raises(StorageError, match="cannot be used"):
        open_engine("nonsense", writer=True)
    engine = open_engine(f"sqlite:///{tmp_path / 'missing' / 'x.db'}", writer=True)
    with pytest.raises(StorageError, match="unable to open"):
        prepare(engine, NETWORK)
    engine.dispose()
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database" * 1000)
    engine = open_engine(f"sqlite:///{damaged}", writer=True)
    with pytest.raises(StorageError, match="not a database"):
        prepare(engine, NETWORK)
    engine.dispose()
