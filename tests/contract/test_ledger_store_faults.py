"""Disks and commits that fail: what is not durable is never acknowledged, and nothing is lost."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import Engine, event, text

from ledger.errors import StorageError
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import namespace_view
from p2p.ledger_messages import TransferResult
from tests.fakes.ledger_world import NETWORK, World

ROOT = Path(__file__).parents[2]


class FailingConnection(sqlite3.Connection):
    """SQLite of which one commit fails: before it does anything, or after it did it."""

    fails: ClassVar[list[str]] = []

    def commit(self) -> None:
        fails = FailingConnection.fails.pop() if FailingConnection.fails else ""
        if fails == "before":
            raise sqlite3.OperationalError("disk I/O error")
        super().commit()
        if fails == "after":
            raise sqlite3.OperationalError("disk I/O error")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    found = open_engine(f"sqlite:///{tmp_path / 'ledger.db'}", writer=True)

    @event.listens_for(found, "do_connect")
    def use_failing(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        options["factory"] = FailingConnection

    prepare(found, NETWORK)
    yield found
    found.dispose()


def stored(engine: Engine) -> set[bytes]:
    with engine.begin() as connection:
        check_integrity(connection)
        rows = connection.execute(text("SELECT transfer_id FROM ledger_transfers"))
        return {row.transfer_id for row in rows}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("count", [1, 5])
def test_a_commit_that_fails_acknowledges_nothing(engine: Engine, moment: str, count: int) -> None:
    world, store = World(), Store(engine)
    tenant = world.tenant()
    store.apply(world.setup(tenant, 1_000), world.now_ms)
    holds = [world.hold(tenant, 10) for _ in range(count)]
    for _ in range(2):
        FailingConnection.fails.append(moment)
        outcomes = store.apply(holds, world.now_ms)
        assert all(isinstance(outcome, StorageError) for outcome in outcomes), outcomes
    outcomes = store.apply(holds, world.now_ms)
    for hold, outcome in zip(holds, outcomes, strict=True):
        assert isinstance(outcome, TransferResult)
        assert outcome.exists == (moment == "after")
        assert outcome.transfer_id == hold.document.hold_id
    with engine.begin() as connection:
        view = namespace_view(connection, tenant.path)
    assert view is not None
    assert (view.available, view.held) == (1_000 - 10 * count, 10 * count)
    assert len(stored(engine)) == 1 + count
    store.close()


def test_a_full_disk_acknowledges_nothing_that_is_not_there(tmp_path: Path) -> None:
    """The child's files may not grow beyond a size, as on a full disk; here they may."""
    path = tmp_path / "ledger.db"
    command = [sys.executable, "-m", "tests.fakes.ledger_full_disk", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    acknowledged = {bytes.fromhex(one) for one in told["acknowledged"]}
    failed = {bytes.fromhex(one) for one in told["failed"]}
    assert len(acknowledged) > 10
    assert len(failed) >= 2
    engine = open_engine(f"sqlite:///{path}", writer=True)
    try:
        found = stored(engine)
        assert acknowledged <= found
        assert not failed & acknowledged
        # The disk has room again: work goes on where it stopped.
        world, store = World(), Store(engine)
        tenant = world.tenant()
        hold = world.hold(tenant, 1, hold_id=b"room again, now!")
        (outcome,) = store.apply([hold], world.now_ms)
        assert isinstance(outcome, TransferResult), outcome
        store.close()
        assert stored(engine) == found | {hold.document.hold_id}
    finally:
        engine.dispose()
