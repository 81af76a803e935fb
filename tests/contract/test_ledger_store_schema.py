"""The tables that the revisions make are the tables of the code, on both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from ledger.errors import IntegrityError
from ledger.store.database import open_engine, prepare
from ledger.store.schema import (
    FIRST_REVISION,
    VERSION_TABLE,
    configuration,
    newest_revision,
    revision_of,
    tables,
    upgrade,
)
from ledger.store.tables import IMMUTABLE
from tests.fakes.ledger_world import NETWORK


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    found = open_engine(url, writer=True)
    yield found
    found.dispose()


def described(connection: Connection) -> dict[str, Any]:
    """What a database says about its tables, without the order of columns."""
    inspector, found = inspect(connection), {}
    for name in inspector.get_table_names():
        if name == VERSION_TABLE:
            continue
        columns = {
            column["name"]: (str(column["type"]), column["nullable"])
            for column in inspector.get_columns(name)
        }
        keys = sorted(
            (key["constrained_columns"], key["referred_table"], key["referred_columns"])
            for key in inspector.get_foreign_keys(name)
        )
        checks = sorted(str(check["sqltext"]) for check in inspector.get_check_constraints(name))
        uniques = sorted(u["column_names"] for u in inspector.get_unique_constraints(name))
        indexes = sorted(
            (index["name"], index["column_names"], index["unique"], _where(index))
            for index in inspector.get_indexes(name)
        )
        primary = inspector.get_pk_constraint(name)["constrained_columns"]
        found[name] = (columns, primary, keys, checks, uniques, indexes)
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text("PRAGMA table_list")).all()
        found["without rowid"] = sorted(row.name for row in rows if row.wr)
    return found


def _where(index: Any) -> str:
    options = index.get("dialect_options", {})
    return "".join(str(value) for name, value in options.items() if name.endswith("_where"))


def test_the_revisions_make_the_tables_of_the_code(engine: Engine) -> None:
    prepare(engine, NETWORK)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, tables()) == [], (
            "the tables changed: python tools/make_migration.py <name>"
        )
        by_revisions = described(connection)
        for table in reversed(tables().sorted_tables):
            connection.execute(sa.schema.DropTable(table))
        tables().create_all(connection)
        assert described(connection) == by_revisions


def test_what_is_immutable_has_its_triggers(engine: Engine) -> None:
    prepare(engine, NETWORK)
    statement = (
        "SELECT DISTINCT tbl_name FROM sqlite_master WHERE type = 'trigger'"
        if engine.dialect.name == "sqlite"
        else "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal"
    )
    with engine.begin() as connection:
        guarded = set(connection.execute(text(statement)).scalars())
    assert guarded == {table.name for table in IMMUTABLE}


def test_a_database_from_before_the_revisions_is_upgraded(engine: Engine) -> None:
    with engine.begin() as connection:
        command.upgrade(configuration(connection), FIRST_REVISION)
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        connection.execute(
            text("INSERT INTO ledger_meta VALUES ('network_id', :n), ('schema_version', '1')"),
            {"n": NETWORK},
        )
        connection.execute(text("INSERT INTO ledger_accounts VALUES ('acct-old', 0, 0)"))
    prepare(engine, NETWORK)
    prepare(engine, NETWORK)
    with engine.begin() as connection:
        assert revision_of(connection) == newest_revision()
        version = text("SELECT value FROM ledger_meta WHERE name = 'schema_version'")
        assert connection.execute(version).scalar_one() == newest_revision()
        kept = connection.execute(text("SELECT account_id FROM ledger_accounts")).scalars().all()
        assert kept == ["acct-old"]


def test_a_newer_programs_database_is_refused(engine: Engine) -> None:
    prepare(engine, NETWORK)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(IntegrityError, match="version 9999, and this program knows versions up to"):
        prepare(engine, NETWORK)


def test_tables_of_an_unknown_version_are_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ledger_meta (name VARCHAR, value VARCHAR)"))
        connection.execute(text("INSERT INTO ledger_meta VALUES ('schema_version', '0')"))
    with pytest.raises(IntegrityError, match="unknown version 0"):
        prepare(engine, NETWORK)


def test_an_upgrade_that_fails_leaves_the_old_tables(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(connection: Connection) -> tuple[bool, bool]:
        upgrade(connection)
        raise sa.exc.OperationalError("CREATE", None, OSError("disk full"))

    monkeypatch.setattr("ledger.store.database.upgrade", failing)
    with pytest.raises(Exception, match="disk full"):
        prepare(engine, NETWORK)
    with engine.begin() as connection:
        assert inspect(connection).get_table_names() == []
    monkeypatch.undo()
    prepare(engine, NETWORK)


def test_an_upgrade_does_not_run_for_somebody_elses_ledger(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.upgrade(configuration(connection), FIRST_REVISION)
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        connection.execute(
            text("INSERT INTO ledger_meta VALUES ('network_id', 'other'), ('schema_version', '1')")
        )
    engine.dispose()
    before = _dump(path)
    engine = open_engine(f"sqlite:///{path}", writer=True)
    with pytest.raises(IntegrityError, match="network other"):
        prepare(engine, NETWORK)
    engine.dispose()
    assert _dump(path) == before


def _dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()
