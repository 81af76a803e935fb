"""A lease whose rows were changed is noticed; a batch of captures is one transaction."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection

from ledger.errors import IntegrityError, LeaseExhaustedError, LedgerBusyError
from ledger.ledger import Ledger
from ledger.limits import QUEUE_OPERATIONS_MAX
from ledger.operations import Operation
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from ledger.store.lease_queries import leased_of, standing_of
from ledger.store.tail import check_tail
from p2p.ledger_messages import TransferResult
from tests.fakes.lease_world import charge_leased, expire, give_back, lease
from tests.fakes.ledger_world import NETWORK, World


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with leases that are open, charged, given back and expired, and a plain hold."""
    path = tmp_path_factory.mktemp("leases") / "ledger.db"
    world = World()
    tenant = world.tenant()
    engine = open_engine(f"sqlite:///{path}", writer=True)
    prepare(engine, NETWORK)
    store = Store(engine)
    leases = [lease(world, tenant, amount) for amount in (1_000, 900, 800)]
    operations = [*world.setup(tenant, 5_000), *leases, world.hold(tenant, 70)]
    operations += [charge_leased(world, opened, tenant, 20) for opened in leases]
    operations += [give_back(world, leases[0], 50), give_back(world, leases[1], final=True)]
    done = store.apply(operations, world.now_ms)
    world.now_ms += 700_000
    done += store.apply([expire(world, leases[2])], world.now_ms)
    assert all(isinstance(outcome, TransferResult) for outcome in done)
    with engine.begin() as connection:
        standing = standing_of(connection, tenant.api_key.key_id)
        assert standing is not None
        assert [one.left for one in standing.leases] == [850]
        assert (standing.available, standing.used) == (3_780, 1_220)
        assert standing_of(connection, "nobody") is None
        assert leased_of(connection, tenant.path) == 850
    store.close()
    engine.dispose()
    return path


@pytest.fixture
def copy(used: Path, tmp_path: Path) -> Path:
    target = tmp_path / "ledger.db"
    shutil.copyfile(used, target)
    with sqlite3.connect(target) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
    return target


@pytest.fixture
def reading(copy: Path) -> Iterator[Connection]:
    engine = open_engine(f"sqlite:///{copy}", writer=False)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def tamper(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement).rowcount == 1, statement


def first(state: str) -> str:
    return (
        f"number = (SELECT MIN(number) FROM ledger_holds WHERE is_lease = 1 AND state = '{state}')"
    )


IN_TAIL = [
    f"UPDATE ledger_holds SET charged = charged + 1 WHERE {first('open')}",
    f"UPDATE ledger_holds SET returned = returned - 1 WHERE {first('open')}",
    f"UPDATE ledger_holds SET returned = returned - 1 WHERE {first('expired')}",
    f"UPDATE ledger_holds SET charged = maximum, returned = 1 WHERE {first('released')}",
    f"UPDATE ledger_holds SET is_lease = 0 WHERE {first('open')}",
    "UPDATE ledger_holds SET is_lease = 1 WHERE is_lease = 0",
    f"UPDATE ledger_holds SET state = 'captured' WHERE {first('released')}",
    "UPDATE ledger_holds SET returned = 1 WHERE is_lease = 0",
]
ELSEWHERE = [
    # Each balance is right: only the sum over the lease's own transfers tells.
    f"UPDATE ledger_holds SET charged = charged - 5, returned = returned + 5 WHERE {first('open')}",
    "UPDATE ledger_transfers SET hold_number = (SELECT number FROM ledger_holds WHERE "
    f"{first('released')}) WHERE number = (SELECT MAX(number) FROM ledger_transfers "
    "WHERE kind = 'leased_capture')",
]


def test_it_is_quiet_about_what_is_right(reading: Connection) -> None:
    check_integrity(reading)
    check_tail(reading, 0)


@pytest.mark.parametrize("statement", IN_TAIL)
def test_the_tail_check_notices(copy: Path, reading: Connection, statement: str) -> None:
    tamper(copy, statement)
    with pytest.raises(IntegrityError, match="breaks rules that always hold"):
        check_tail(reading, 0)


@pytest.mark.parametrize("statement", [*IN_TAIL, *ELSEWHERE])
def test_the_whole_check_notices(copy: Path, reading: Connection, statement: str) -> None:
    tamper(copy, statement)
    with pytest.raises(IntegrityError, match="breaks rules that always hold"):
        check_integrity(reading)


async def test_a_batch_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    tenant = world.tenant()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", NETWORK, clock_ms=world.clock_ms)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        opened = lease(world, tenant, 1_000)
        for operation in [*world.setup(tenant, 5_000), opened]:
            await ledger.submit(operation)
        groups: list[int] = []
        apply = Store.apply

        def counting(self: Store, operations: Sequence[Operation], now_ms: int) -> list[Outcome]:
            groups.append(len(operations))
            return apply(self, operations, now_ms)

        monkeypatch.setattr(Store, "apply", counting)
        batch = [charge_leased(world, opened, tenant, 10) for _ in range(32)]
        outcomes = await ledger.submit_all(batch)
        assert groups == [32]
        # 20 of 50 fit into 1,000; each of the others is refused by itself.
        assert [isinstance(outcome, TransferResult) for outcome in outcomes] == [True] * 20 + [
            False
        ] * 12
        assert isinstance(outcomes[-1], LeaseExhaustedError)
        assert await ledger.submit_all([]) == []
        with pytest.raises(LedgerBusyError):
            await ledger.submit_all(batch * (QUEUE_OPERATIONS_MAX // 32 + 1))
        nursery.cancel_scope.cancel()
