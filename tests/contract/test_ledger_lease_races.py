"""Leases under concurrency, on both databases: several processes settle one lease at a time."""

from __future__ import annotations

import threading

from sqlalchemy import text

from ledger.operations import Operation
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import namespace_view
from p2p.ledger_messages import TransferResult
from tests.fakes.lease_world import charge_leased, expire, give_back, lease
from tests.fakes.ledger_world import NETWORK, World

WRITERS = 4
AMOUNT = 1_000


def race(url: str, groups: list[list[list[Operation]]], now_ms: int) -> list[Outcome]:
    """Apply each writer's groups, all writers at once; gives all outcomes."""
    found: list[Outcome] = []
    start = threading.Barrier(len(groups))

    def work(own: list[list[Operation]]) -> None:
        engine = open_engine(url, writer=True)
        store = Store(engine)
        start.wait(30)
        for group in own:
            found.extend(store.apply(group, now_ms))
        store.close()
        engine.dispose()

    threads = [threading.Thread(target=work, args=(own,)) for own in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_captures_returns_and_the_sweep_race_for_one_lease(url: str) -> None:
    world = World()
    tenant = world.tenant()
    engine = open_engine(url, writer=True)
    prepare(engine, NETWORK)
    store = Store(engine)
    store.apply(world.setup(tenant, 5_000), world.now_ms)
    opened, overdue = lease(world, tenant, AMOUNT), lease(world, tenant, AMOUNT, lifetime_ms=10)
    store.apply([opened, overdue], world.now_ms)
    store.close()
    world.now_ms += 10
    # Twice as much as the lease has, in charges of 25; one capture is sent by everybody.
    common = charge_leased(world, opened, tenant, 5)
    groups = [
        [
            [common, *(charge_leased(world, opened, tenant, 5) for _ in range(4))],
            [give_back(world, opened, 40), expire(world, overdue)],
            [charge_leased(world, opened, tenant, 5) for _ in range(16)],
            [world.hold(tenant, 700), lease(world, tenant, 600)],
        ]
        for _ in range(WRITERS)
    ]
    outcomes = race(url, groups, world.now_ms)
    ids = [o.transfer_id for o in outcomes if isinstance(o, TransferResult) and not o.exists]
    assert len(set(ids)) == len(ids)
    refused = {getattr(outcome, "code", "") for outcome in outcomes}
    assert refused <= {"", "lease_exhausted", "insufficient_funds"}
    with engine.begin() as connection:
        check_integrity(connection)
        rows = connection.execute(
            text("SELECT maximum, charged, returned, state FROM ledger_holds WHERE is_lease = 1")
        ).all()
        view = namespace_view(connection, tenant.path)
    engine.dispose()
    found = {state: (maximum, charged, returned) for maximum, charged, returned, state in rows}
    assert found["expired"] == (AMOUNT, 0, AMOUNT)
    leases = [tuple(row) for row in rows if row.maximum == AMOUNT and row.state == "open"]
    ((_, charged, returned, _),) = leases
    paid = [
        o for o in outcomes if isinstance(o, TransferResult) and not o.exists and o.amount == 25
    ]
    assert len(paid) * 25 == charged
    assert 0 <= AMOUNT - charged - returned < 40
    assert view is not None
    assert view.available < 600
