"""Usage in the database: exactly what the transfers say, on both databases, whoever writes."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, select, text

from ledger.errors import StorageError
from ledger.operations import Operation
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from ledger.store.tables import ENTRIES
from ledger.store.usage_check import counter_problems, fill_counters
from ledger.store.usage_queries import usage_report, usage_rows
from ledger.store.usage_tables import USAGE, WORK
from ledger.usage import DAY_MS, day_of
from p2p import usage_messages
from p2p.ledger_messages import TransferResult
from p2p.usage_messages import UsageRequest, UsageRow
from tests.fakes.ledger_world import NETWORK, NODES, START_MS, Tenant, World

DAY = day_of(START_MS)


class Books:
    """A database and some stores on it."""

    def __init__(self, url: str, stores: int = 1) -> None:
        self.engines = [open_engine(url, writer=True) for _ in range(stores)]
        self.stores = [Store(engine) for engine in self.engines]
        for engine in self.engines:
            prepare(engine, NETWORK)
        self.world = World()

    def ok(self, *operations: Operation, store: int = 0) -> None:
        for outcome in self.stores[store].apply(operations, self.world.now_ms):
            assert isinstance(outcome, TransferResult), outcome

    def read(self, query: Callable[[Connection], Any]) -> Any:
        for store in self.stores:
            store.close()
        with self.engines[0].begin() as connection:
            return query(connection)

    def rows(self, tenant: Tenant, **options: Any) -> list[UsageRow]:
        arguments = {"count_max": 1000, **options}
        return self.read(lambda c: usage_rows(c, tenant.path, 0, DAY + 100, **arguments))

    def check_against_transfers(self, tenants: list[Tenant]) -> None:
        """What the counters say is what keys, holds and entries say."""
        for tenant in tenants:
            rows = self.rows(tenant)
            key_id = tenant.api_key.key_id
            spent, ended, captured = self.read(lambda c, key=key_id: _of_key(c, key))
            assert sum(row.charged for row in rows) == spent
            assert sum(row.requests for row in rows) == ended
            assert sum(row.captured for row in rows) == captured
        assert self.read(lambda c: list(counter_problems(c))) == []
        work: Counter[str] = Counter()
        for account, earned in self.read(
            lambda c: c.execute(select(WORK.c.account_id, WORK.c.earned)).all()
        ):
            work[f"earnings:{account}"] += earned
        entries: Counter[str] = Counter()
        for account, amount in self.read(
            lambda c: c.execute(select(ENTRIES.c.account, ENTRIES.c.amount)).all()
        ):
            if account.startswith("earnings:"):
                entries[account] += amount
        assert work == entries

    def close(self) -> None:
        for store in self.stores:
            store.close()
        for engine in self.engines:
            engine.dispose()


def _of_key(connection: Connection, key_id: str) -> tuple[int, int, int]:
    statement = (
        "SELECT COALESCE(SUM(charged), 0), COUNT(*), "
        "COALESCE(SUM(CASE WHEN state = 'captured' THEN 1 ELSE 0 END), 0) "
        "FROM ledger_holds WHERE key_id = :key AND state <> 'open'"
    )
    spent, ended, captured = connection.execute(text(statement), {"key": key_id}).one()
    stored = connection.execute(
        text("SELECT spent FROM ledger_api_keys WHERE key_id = :key"), {"key": key_id}
    ).scalar_one()
    assert stored == spent
    return int(spent), int(ended), int(captured)


@pytest.fixture
def books(url: str) -> Iterator[Books]:
    found = Books(url, stores=3)
    yield found
    found.close()


def test_rows_by_day_key_and_model(books: Books) -> None:
    world, tenant, other = books.world, books.world.tenant(), books.world.tenant(1)
    books.ok(*world.setup(tenant, 100_000), *world.setup(other, 100_000))
    for _ in range(2):
        holds = [world.hold(tenant, 1_000) for _ in range(3)]
        late = world.hold(tenant, 10, lifetime_ms=1)
        books.ok(*holds, late, hold := world.hold(other, 500))
        world.now_ms += 250
        leg = world.leg(holds[0], input_tokens=100, output_tokens=50)
        books.ok(
            world.capture(holds[0], [leg], outcome="complete"),
            world.release(holds[1], outcome="client_left"),
            world.release(holds[2]),
            world.expire(late),
            world.capture(hold, [world.leg(hold, output_tokens=7)]),
        )
        world.now_ms += DAY_MS - 250
    key_id = tenant.api_key.key_id
    assert books.rows(tenant) == [
        UsageRow(day, key_id, "tiny-chat", 4, 1, 1, 2, 100, 50, 450, 250) for day in (DAY, DAY + 1)
    ]
    assert [row.output_tokens for row in books.rows(other)] == [7, 7]
    assert books.rows(tenant, key_id=other.api_key.key_id) == []
    assert books.rows(tenant, after=(DAY, key_id, "tiny-chat")) == books.rows(tenant)[1:]
    assert books.rows(tenant, count_max=1) == books.rows(tenant)[:1]
    books.check_against_transfers([tenant, other])


def test_pages_come_to_an_end(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.store.usage_queries.USAGE_ROWS_MAX", 3)
    assert usage_messages.USAGE_ROWS_MAX == 2000
    world, tenant = books.world, books.world.tenant()
    books.ok(*world.setup(tenant, 100_000))
    for _ in range(8):
        hold = world.hold(tenant, 10)
        books.ok(hold, world.release(hold))
        world.now_ms += DAY_MS
    request = UsageRequest(tenant.account_id, "dev", DAY, DAY + 6, bytes(16), START_MS)
    pages, place = [], (0, "", "")
    while True:
        asked = UsageRequest(
            *(getattr(request, name) for name in request.__slots__[:8]),
            *place,  # the last three fields
        )
        report = books.read(lambda c, asked=asked: usage_report(c, tenant.path, asked))
        pages.append([row.day - DAY for row in report.rows])
        if not report.more:
            break
        place = (report.rows[-1].day, report.rows[-1].key_id, report.rows[-1].model)
    assert pages == [[0, 1, 2], [3, 4, 5], [6]]


def test_several_processes_add_up(books: Books) -> None:
    world = books.world
    tenants = [world.tenant(number) for number in range(4)]
    for tenant in tenants:
        books.ok(*world.setup(tenant, 10_000_000))
    plan = random.Random(5)
    work: list[list[list[Operation]]] = [[], [], []]
    for number in range(90):
        group: list[Operation] = []
        for _ in range(plan.randint(1, 5)):
            hold = world.hold(plan.choice(tenants), 1_000)
            leg = world.leg(
                hold, node=plan.choice(NODES[:3]), input_tokens=plan.randint(0, 9), output_tokens=5
            )
            end = plan.choice([world.capture(hold, [leg]), world.release(hold)])
            group += [hold, end] if plan.random() < 0.9 else [hold]
        work[number % 3].append(group)

    problems: list[object] = []

    def run(store: int) -> None:
        for group in work[store]:
            # Twice, as after lost answers.
            for _ in range(2):
                outcomes = books.stores[store].apply(group, world.now_ms)
                problems.extend(o for o in outcomes if not isinstance(o, TransferResult))

    threads = [threading.Thread(target=run, args=(store,)) for store in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    books.check_against_transfers(tenants)


def test_a_group_that_is_not_committed_counts_nothing(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, tenant = books.world, books.world.tenant()
    hold = world.hold(tenant, 10)
    books.ok(*world.setup(tenant, 1_000), hold)

    with monkeypatch.context() as patch:
        patch.setattr("ledger.store.writing.write_usage", _explode)
        (outcome,) = books.stores[0].apply([world.release(hold)], world.now_ms)
        assert isinstance(outcome, StorageError)
    assert books.rows(tenant) == []
    books.ok(world.release(hold))
    assert [row.requests for row in books.rows(tenant)] == [1]
    assert books.read(lambda c: len(c.execute(select(USAGE)).all())) == 1


def _explode(*arguments: object) -> None:
    raise ZeroDivisionError("a defect")


def used(books: Books) -> Tenant:
    """A tenant with captures by several nodes, releases and an expiry on two days."""
    world, tenant = books.world, books.world.tenant()
    books.ok(*world.setup(tenant, 100_000))
    for _ in range(2):
        holds = [world.hold(tenant, 1_000, lifetime_ms=10_000) for _ in range(4)]
        books.ok(*holds)
        legs = [
            world.leg(holds[0], input_tokens=100, output_tokens=20),
            world.leg(holds[0], node=NODES[1], attempt=1, output_tokens=30),
        ]
        free = world.leg(holds[3], delivery={"input_tokens": 0, "output_tokens": 0})
        books.ok(
            world.capture(holds[0], legs, outcome="failed"),
            world.release(holds[1], outcome="client_left"),
            world.capture(holds[3], [free]),
        )
        world.now_ms += DAY_MS
        books.ok(world.expire(holds[2]))
    return tenant


def test_counters_are_made_again_from_the_transfers(books: Books) -> None:
    tenant = used(books)
    books.check_against_transfers([tenant])
    before = books.rows(tenant)

    def empty_and_fill(connection: Connection) -> None:
        for table in (USAGE, WORK):
            connection.execute(table.delete())
        fill_counters(connection)

    books.read(empty_and_fill)
    assert books.rows(tenant) == before
    books.check_against_transfers([tenant])


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE ledger_usage SET output_tokens = output_tokens + 1", "usage of"),
        ("UPDATE ledger_usage SET model = 'other'", "usage of"),
        ("DELETE FROM ledger_usage", "usage of"),
        ("UPDATE ledger_work SET earned = earned - 1", "work of"),
        ("UPDATE ledger_work SET account_id = 'acct-' || node_id", "work of"),
        ("UPDATE ledger_api_keys SET name = 'harmless'", ""),
    ],
)
def test_changed_counters_are_found(books: Books, statement: str, complaint: str) -> None:
    used(books)
    books.read(lambda c: c.execute(text(statement)))
    problems = books.read(lambda c: list(counter_problems(c)))
    assert all(complaint in problem for problem in problems)
    assert bool(problems) is bool(complaint)
