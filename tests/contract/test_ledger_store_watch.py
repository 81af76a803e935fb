"""The watch over a database: what a start notices, what only the scrub does, and halted writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sqlalchemy import create_engine, text

from ledger import watch
from ledger.errors import IntegrityError, StorageError
from ledger.ledger import Ledger
from ledger.store.queries import namespace_view
from ledger.store.tail import OVERLAP_MS, verified_to
from tests.fakes.ledger_world import NETWORK, Tenant, World


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SCRUB_PAUSE_S", 0.0)


class Kept:
    """A ledger that is started, stopped and tampered with."""

    def __init__(self, url: str) -> None:
        self.url, self.world = url, World()
        self.tenant: Tenant = self.world.tenant()

    def ledger(self) -> Ledger:
        return Ledger(self.url, NETWORK, clock_ms=self.world.clock_ms)

    async def work(self, jobs: int = 2, *, scrub: bool = False) -> None:
        ledger = self.ledger()
        async with trio.open_nursery() as nursery:
            await nursery.start(ledger.run)
            for operation in self.world.setup(self.tenant, 10_000):
                await ledger.submit(operation)
            for _ in range(jobs):
                hold = self.world.hold(self.tenant, 100)
                await ledger.submit(hold)
                legs = [self.world.leg(hold, output_tokens=4)]
                await ledger.submit(self.world.capture(hold, legs))
            if scrub:
                self.world.now_ms += OVERLAP_MS + 1
                await ledger.scrub()
            nursery.cancel_scope.cancel()

    async def start(self) -> int | None:
        """Start and stop; gives the verified point."""
        ledger = self.ledger()
        async with trio.open_nursery() as nursery:
            await nursery.start(ledger.run)
            point = await ledger.read(verified_to)
            nursery.cancel_scope.cancel()
        return point

    async def refused(self) -> str:
        with pytest.RaisesGroup(IntegrityError, flatten_subgroups=True, allow_unwrapped=True) as e:
            await self.start()
        group = e.value
        return str(group.exceptions[0] if isinstance(group, BaseExceptionGroup) else group)

    def tamper(self, statement: str) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                for name in list(connection.execute(text(triggers)).scalars()):
                    connection.execute(text(f"DROP TRIGGER {name}"))
            else:
                connection.execute(text("SET session_replication_role = replica"))
            assert connection.execute(text(statement)).rowcount > 0
        engine.dispose()


@pytest.fixture
def kept(url: str) -> Kept:
    return Kept(url)


OLD = (
    "UPDATE ledger_entries SET amount = amount + 1 WHERE account = 'treasury' "
    "AND transfer = (SELECT MIN(number) FROM ledger_transfers WHERE kind = 'capture')"
)
LAST = "(SELECT MAX(number) FROM ledger_transfers WHERE kind = 'hold')"


async def test_a_scrub_moves_the_verified_point(kept: Kept) -> None:
    await kept.work()
    first = await kept.start()
    assert first == 0  # the first start verified an empty ledger, the second its tail
    await kept.work(scrub=True)
    second = await kept.start()
    assert second is not None
    assert second > 4


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE ledger_entries SET amount = amount + 1 WHERE transfer = {LAST} AND position = 0",
        f"DELETE FROM ledger_entries WHERE transfer = {LAST} AND position = 0",
        "UPDATE ledger_namespaces SET available = available + 1",
        "UPDATE ledger_namespaces SET held = held + 1",
        f"UPDATE ledger_holds SET state = 'released' WHERE number = {LAST}",
        f"UPDATE ledger_holds SET state = 'open' WHERE number = {LAST}",
        f"DELETE FROM ledger_holds WHERE number = {LAST}",
    ],
)
async def test_a_start_notices_a_change_of_the_tail(kept: Kept, statement: str) -> None:
    await kept.work(scrub=True)
    await kept.work()
    kept.tamper(statement)
    assert "breaks rules that always hold" in await kept.refused()
    assert "breaks rules that always hold" in await kept.refused()


async def test_what_is_older_stops_writes_when_the_scrub_comes_to_it(kept: Kept) -> None:
    await kept.work(scrub=True)
    await kept.work()
    kept.tamper(OLD)
    ledger = kept.ledger()
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        await ledger.submit(kept.world.hold(kept.tenant, 1))
        with pytest.raises(IntegrityError, match="do not add up"):
            await ledger.scrub()
        with pytest.raises(IntegrityError, match="do not add up"):
            await ledger.submit(kept.world.hold(kept.tenant, 1))
        view = await ledger.read(lambda c: namespace_view(c, kept.tenant.path))
        assert view is not None  # reading goes on
        nursery.cancel_scope.cancel()
    assert "do not add up" in await kept.refused()


async def test_the_scrub_comes_by_itself(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept.work(scrub=True)
    kept.tamper(OLD)
    monkeypatch.setattr(watch, "SCRUB_INTERVAL_S", 0.0)
    monkeypatch.setattr(watch, "TAIL_INTERVAL_S", 0.01)
    ledger = kept.ledger()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(ledger.run)
            while True:
                try:
                    await ledger.submit(kept.world.hold(kept.tenant, 0))
                except IntegrityError:
                    break
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_the_tail_is_checked_by_itself(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept.work()
    monkeypatch.setattr(watch, "TAIL_INTERVAL_S", 0.01)
    ledger = kept.ledger()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(ledger.run)
            assert await ledger.read(verified_to) == 0
            kept.world.now_ms += OVERLAP_MS + 1
            while not await ledger.read(verified_to):
                await trio.sleep(0.01)
            await ledger.submit(kept.world.hold(kept.tenant, 0))
            kept.tamper("UPDATE ledger_namespaces SET available = available + 1")
            while True:
                try:
                    await ledger.submit(kept.world.hold(kept.tenant, 0))
                except IntegrityError:
                    break
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert "available balance differs" in await kept.refused()


async def test_a_repaired_ledger_starts_again(kept: Kept) -> None:
    await kept.work(scrub=True)
    await kept.work()
    kept.tamper("UPDATE ledger_namespaces SET held = held + 1")
    await kept.refused()
    kept.tamper("UPDATE ledger_namespaces SET held = held - 1")
    assert await kept.start() is not None


async def test_a_damaged_file_halts_writes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    kept = Kept(f"sqlite:///{path}")
    await kept.work(jobs=60, scrub=True)
    ledger = kept.ledger()
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        with path.open("r+b") as file:  # somebody or something writes into the middle of it
            file.seek(path.stat().st_size // 8)
            file.write(b"\xff" * (path.stat().st_size // 2))
        with pytest.raises(IntegrityError, match="damaged"):
            await ledger.scrub()
        with pytest.raises(IntegrityError, match="damaged"):
            await ledger.submit(kept.world.hold(kept.tenant, 1))
        nursery.cancel_scope.cancel()


async def test_a_database_that_is_gone_halts_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = kept.ledger()
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)

        def gone(connection: object) -> None:
            raise StorageError("the server is away")

        monkeypatch.setattr(watch, "integrity_steps", lambda: [gone])
        with pytest.raises(StorageError):
            await ledger.scrub()
        for operation in kept.world.setup(kept.tenant, 10):
            await ledger.submit(operation)
        nursery.cancel_scope.cancel()
