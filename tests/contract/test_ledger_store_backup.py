"""Backups: from each database into each, beside a writer, damaged, old, and where they must not."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from ledger.errors import IntegrityError, StorageError
from ledger.operations import CreateKey
from ledger.store import backup as backup_module
from ledger.store.backup import read_backup, restore_backup, write_backup
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import namespace_view
from ledger.store.schema import VERSION_TABLE, newest_revision
from p2p.ledger_messages import TransferResult
from tests.fakes.ledger_databases import PostgresServer
from tests.fakes.ledger_world import NETWORK, Tenant, World

OLD = Path(__file__).parents[1] / "vectors" / "ledger_before_revisions.sql"


class Busy:
    """A ledger with jobs in it, some of them open."""

    def __init__(self, url: str) -> None:
        self.url, self.world = url, World()
        self.tenant: Tenant = self.world.tenant()
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)
        self.store = Store(self.engine)
        self.ok(*self.world.setup(self.tenant, 100_000))
        self.holds = [self.world.hold(self.tenant, 1_000) for _ in range(6)]
        self.ok(*self.holds)
        self.captures = [
            self.world.capture(hold, [self.world.leg(hold, output_tokens=20)])
            for hold in self.holds[:4]
        ]
        self.ok(*self.captures)

    def ok(self, *operations: Any) -> list[TransferResult]:
        outcomes = self.store.apply(operations, self.world.now_ms)
        assert all(isinstance(outcome, TransferResult) for outcome in outcomes), outcomes
        return outcomes  # type: ignore[return-value]

    def close(self) -> None:
        self.store.close()
        self.engine.dispose()


@pytest.fixture
def busy(url: str) -> Iterator[Busy]:
    found = Busy(url)
    yield found
    found.close()


@pytest.fixture(params=["into sqlite", "into postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "into sqlite":
        return f"sqlite:///{tmp_path / 'restored.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


def read(url: str, query: Callable[[Connection], Any]) -> Any:
    engine = open_engine(url, writer=False)
    try:
        with engine.begin() as connection:
            return query(connection)
    finally:
        engine.dispose()


def test_a_ledger_comes_back_and_goes_on(busy: Busy, target: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.backup"
    made = write_backup(busy.url, path)
    assert (made.network_id, made.revision, made.transfers) == (NETWORK, newest_revision(), 11)
    assert read_backup(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.glob("*.backup*")] == [path.name]
    assert list(tmp_path.glob(".*unfinished*")) == []
    busy.ok(busy.world.release(busy.holds[5]))  # after the backup: not in it
    assert restore_backup(path, target) == made
    engine = open_engine(target, writer=True)
    prepare(engine, NETWORK)
    store = Store(engine)
    again = store.apply([*busy.holds, *busy.captures], busy.world.now_ms)
    assert [outcome.exists for outcome in again] == [True] * 10  # type: ignore[union-attr]
    more = [busy.world.hold(busy.tenant, 1_000), busy.world.release(busy.holds[5])]
    assert [outcome.exists for outcome in store.apply(more, busy.world.now_ms)] == [False, False]
    store.close()
    engine.dispose()
    view = read(target, lambda c: namespace_view(c, busy.tenant.path))
    assert (view.available, view.held) == (100_000 - 4 * 100 - 2_000, 2_000)
    read(target, check_integrity)


def test_a_restore_replaces_nothing(busy: Busy, tmp_path: Path) -> None:
    path = tmp_path / "ledger.backup"
    write_backup(busy.url, path)
    with pytest.raises(StorageError, match="a ledger in this database already"):
        restore_backup(path, busy.url)
    with pytest.raises(StorageError, match="never written over"):
        write_backup(busy.url, path)
    read(busy.url, check_integrity)


def test_a_database_without_a_ledger_has_no_backup(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no ledger"):
        write_backup(url, tmp_path / "ledger.backup")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    busy = Busy(f"sqlite:///{tmp_path / 'source.db'}")
    path = tmp_path / "ledger.backup"
    write_backup(busy.url, path)
    busy.close()
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_accounts SET created_ms = created_ms + 1",
        "UPDATE ledger_namespaces SET available = available + 1",
        "DELETE FROM ledger_account_keys",
        "INSERT INTO ledger_meta VALUES ('more', 'x')",
        "DELETE FROM ledger_backup WHERE table_name = 'ledger_entries'",
        f"UPDATE {VERSION_TABLE} SET version_num = '9999'",
    ],
)
def test_a_damaged_backup_is_not_restored(backup: Path, statement: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(backup)
    connection.execute(statement)
    connection.commit()
    connection.close()
    target = tmp_path / "restored.db"
    with pytest.raises(IntegrityError):
        restore_backup(backup, f"sqlite:///{target}")
    assert not target.exists()


def test_any_flipped_bit_in_a_row_is_noticed(backup: Path) -> None:
    """Each byte of a signed request, which no rule of the database looks into."""
    whole = backup.read_bytes()
    connection = sqlite3.connect(backup)
    request = connection.execute("SELECT request FROM ledger_transfers LIMIT 1").fetchone()[0]
    connection.close()
    start = whole.index(request)
    for place in range(start, start + len(request), 29):
        backup.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(IntegrityError, match="damaged: ledger_transfers"):
            read_backup(backup)


def test_what_is_no_backup_is_said_plainly(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    with pytest.raises(StorageError, match="does not exist"):
        read_backup(nothing)
    nothing.write_bytes(b"not a database" * 100)
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_backup(nothing)
    ledger = Busy(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.close()
    with pytest.raises(StorageError, match="not one that `ledger backup` wrote"):
        read_backup(tmp_path / "ledger.db")


def test_an_interrupted_backup_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy(f"sqlite:///{tmp_path / 'source.db'}")
    path = tmp_path / "folder" / "ledger.backup"
    path.parent.mkdir()

    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(backup_module, "_close_file", full)
    with pytest.raises(OSError, match="no space"):
        write_backup(busy.url, path)
    busy.close()
    assert list(path.parent.iterdir()) == []


@pytest.fixture
def old(tmp_path: Path) -> str:
    """A ledger as the program before the revisions left it."""
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript(OLD.read_text())
    connection.close()
    return f"sqlite:///{path}"


def check_old(url: str) -> None:
    engine = open_engine(url, writer=True)
    prepare(engine, NETWORK)
    world = World()
    tenant = world.tenant()
    store = Store(engine)
    # A creation of a key names more than it did then.
    setup = [one for one in world.setup(tenant, 100_000) if not isinstance(one, CreateKey)]
    outcomes = store.apply(setup, world.now_ms)
    assert [getattr(outcome, "exists", outcome) for outcome in outcomes] == [True] * len(setup)
    store.close()
    engine.dispose()
    view = read(url, lambda c: namespace_view(c, tenant.path))
    assert (view.available, view.held) == (100_000 - 450 - 1_000, 1_000)
    read(url, check_integrity)


def test_a_ledger_from_before_the_revisions_is_upgraded(old: str) -> None:
    check_old(old)


def test_a_backup_of_an_old_ledger_is_upgraded_as_it_is_restored(
    old: str, target: str, tmp_path: Path
) -> None:
    made = write_backup(old, tmp_path / "ledger.backup")
    assert made.revision == "0001"
    with create_engine(old).connect() as connection:  # the source stays as it is
        names = connection.execute(text("SELECT name FROM sqlite_master")).scalars().all()
    assert VERSION_TABLE not in names
    restore_backup(tmp_path / "ledger.backup", target)
    check_old(target)
