"""The trio side of the ledger: starting, stopping, sweeping, refusing to start."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sqlalchemy import create_engine, text

from ledger.errors import (
    InsufficientFundsError,
    IntegrityError,
    LedgerBusyError,
    RequestError,
    StorageError,
)
from ledger.ledger import Ledger
from ledger.limits import QUEUE_OPERATIONS_MAX, SWEEP_HOLDS_MAX
from ledger.store.group import Store
from ledger.store.queries import balance, hold_end, namespace_view, node_account
from ledger.store.writer import Ticket, Writer
from tests.fakes.ledger_world import NETWORK, NODE_ACCOUNTS, NODES, World


def make(path: Path, world: World, **options: float) -> Ledger:
    url = f"sqlite:///{path / 'ledger.db'}"
    return Ledger(url, NETWORK, clock_ms=world.clock_ms, **options)


async def test_what_is_done_is_there_after_a_restart(tmp_path: Path) -> None:
    world = World()
    tenant = world.tenant()
    for start in range(2):
        ledger = make(tmp_path, world)
        async with trio.open_nursery() as nursery:
            await nursery.start(ledger.run)
            for operation in world.setup(tenant, 0):
                await ledger.submit(operation)
            result = await ledger.submit(world.grant(tenant, 1_000))
            assert result.available == 1_000 * (start + 1)
            found = await ledger.read(lambda c: node_account(c, NODES[0].peer_id))
            assert found == NODE_ACCOUNTS[0]
            nursery.cancel_scope.cancel()
        with pytest.raises(StorageError, match="not running"):
            await ledger.submit(world.grant(tenant, 1))
        with pytest.raises(StorageError, match="not running"):
            await ledger.read(lambda c: balance(c, "mint"))


async def test_many_waiting_operations_share_groups_and_get_their_own_outcomes(
    tmp_path: Path,
) -> None:
    world = World()
    tenant, ledger = world.tenant(), make(tmp_path, world)
    granted, refused = [], []

    async def spend(number: int) -> None:
        try:
            granted.append((number, await ledger.submit(world.hold(tenant, 10))))
        except InsufficientFundsError as error:
            refused.append((number, error))

    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for operation in world.setup(tenant, 3_000):
            await ledger.submit(operation)
        async with trio.open_nursery() as tasks:
            for number in range(400):
                tasks.start_soon(spend, number)
        await ledger.check_integrity()
        nursery.cancel_scope.cancel()
    assert (len(granted), len(refused)) == (300, 100)
    assert len({result.transfer_id for _, result in granted}) == 300


async def test_a_cancelled_task_can_ask_again(tmp_path: Path) -> None:
    world = World()
    tenant, ledger = world.tenant(), make(tmp_path, world)
    hold = world.hold(tenant, 10)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for operation in world.setup(tenant, 100):
            await ledger.submit(operation)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ledger.submit(hold)
        result = await ledger.submit(hold)
        assert result.available == 90
        nursery.cancel_scope.cancel()


async def test_the_sweep_ends_every_expired_hold(tmp_path: Path) -> None:
    world = World()
    tenant, ledger = world.tenant(), make(tmp_path, world)
    count = SWEEP_HOLDS_MAX + 30
    holds = [world.hold(tenant, 1, lifetime_ms=1_000) for _ in range(count)]
    late = world.hold(tenant, 5)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for operation in world.setup(tenant, 10_000):
            await ledger.submit(operation)
        async with trio.open_nursery() as tasks:
            for operation in (*holds, late):
                tasks.start_soon(ledger.submit, operation)
        assert await ledger.expire_holds(world.now_ms) == 0
        world.now_ms += 1_000
        assert await ledger.expire_holds(world.now_ms) == count
        assert await ledger.expire_holds(world.now_ms) == 0
        view = await ledger.read(lambda c: namespace_view(c, tenant.path))
        assert view is not None
        assert (view.available, view.held) == (9_995, 5)
        await ledger.check_integrity()
        nursery.cancel_scope.cancel()


async def test_the_sweep_runs_by_itself(tmp_path: Path) -> None:
    world = World()
    tenant, ledger = world.tenant(), make(tmp_path, world, sweep_interval_s=0.01)
    hold = world.hold(tenant, 1, lifetime_ms=1_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for operation in (*world.setup(tenant, 100), hold):
            await ledger.submit(operation)
        world.now_ms += 1_000
        with trio.fail_after(30):
            while True:
                end = await ledger.read(lambda c: hold_end(c, hold.document.hold_id))
                if end is not None and end.state == "expired":
                    break
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_broken_ledger_does_not_start(tmp_path: Path) -> None:
    world = World()
    tenant = world.tenant()
    ledger = make(tmp_path, world)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for operation in world.setup(tenant, 100):
            await ledger.submit(operation)
        nursery.cancel_scope.cancel()
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE ledger_namespaces SET available = 1000000"))
    engine.dispose()
    with pytest.raises(IntegrityError, match="available balance differs"):
        await make(tmp_path, world).run()


async def test_an_unknown_failure_of_one_rule_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ledger import transfer_rules

    world = World()
    tenant, ledger = world.tenant(), make(tmp_path, world)
    real = transfer_rules.hold_mac

    def explode(*arguments: object) -> bytes:
        if arguments[4] == 13:
            raise ZeroDivisionError("a defect")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(transfer_rules, "hold_mac", explode)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for operation in world.setup(tenant, 100):
            await ledger.submit(operation)
        with pytest.raises(StorageError, match="internal error"):
            await ledger.submit(world.hold(tenant, 13))
        await ledger.submit(world.hold(tenant, 14))
        nursery.cancel_scope.cancel()


def test_the_queue_is_bounded() -> None:
    world = World()
    tenant = world.tenant()
    writer: Writer[None] = Writer(
        Store(None),  # type: ignore[arg-type]
        clock_ms=world.clock_ms,
        on_done=lambda tickets: None,
    )
    operation = world.grant(tenant, 1)
    for _ in range(QUEUE_OPERATIONS_MAX):
        writer.put(Ticket(operation, None))
    with pytest.raises(LedgerBusyError):
        writer.put(Ticket(operation, None))
    writer.stop()
    with pytest.raises(StorageError, match="closing"):
        writer.put(Ticket(operation, None))
    assert not issubclass(LedgerBusyError, RequestError)
