"""Owns how the ledger opens its database: engines, durability settings, tables and triggers.

SQLite: WAL with synchronous=FULL, so that a commit is on disk when it returns; BEGIN IMMEDIATE for
the writer, so that several processes on one file take turns before they read. PostgreSQL: READ
COMMITTED with row locks for the writer, REPEATABLE READ for readers (one snapshot for a statement).
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlmodel import SQLModel

from ledger.errors import IntegrityError, StorageError
from ledger.limits import BUSY_TIMEOUT_S, READERS_MAX
from ledger.store.tables import IMMUTABLE, META, NUMBERS, SCHEMA_VERSION, TABLES
from p2p.types import NetworkId

_SETUP_LOCK = 0x7265_7375_6C74
"""PostgreSQL advisory lock: one process at a time makes the tables."""
WAL_PAGES_PER_CHECKPOINT = 4000
"""16 MB: a checkpoint copies pages and syncs twice, so do it seldom under load."""
WRITER_CACHE_KB = 8 * 1024
READER_CACHE_KB = 1024
"""Each connection has a cache of its own; what readers look at is mostly in the system's."""


def open_engine(url: str, *, writer: bool) -> Engine:
    """Make an engine for the writer, or for readers.

    Args:
        url: `sqlite:///path` or `postgresql+psycopg://...`.
    Raises: StorageError if the URL cannot be used.
    """
    try:
        backend = make_url(url).get_backend_name()
        if backend == "sqlite":
            return _open_sqlite(url, writer=writer)
        if backend == "postgresql":
            level = "READ COMMITTED" if writer else "REPEATABLE READ"
            size = 1 if writer else READERS_MAX
            return create_engine(
                url, isolation_level=level, pool_size=size, max_overflow=1, pool_pre_ping=not writer
            )
    except (ArgumentError, ImportError) as error:
        raise StorageError(f"the ledger's database URL cannot be used: {_plain(error)}") from error
    raise StorageError("the ledger's database URL starts with sqlite:/// or postgresql+psycopg://")


def _open_sqlite(url: str, *, writer: bool) -> Engine:
    size = 1 if writer else READERS_MAX
    engine = create_engine(
        url,
        pool_size=size,
        max_overflow=1,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, record: Any) -> None:
        # The driver's own transaction handling is switched off: BEGIN is ours (below).
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
        cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES_PER_CHECKPOINT}")
        cursor.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KB if writer else READER_CACHE_KB}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


def prepare(engine: Engine, network_id: NetworkId) -> None:
    """Make what is missing of tables and triggers, and check whose database this is.

    Raises: IntegrityError (another network's ledger, or another version), StorageError.
    """
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _SETUP_LOCK})
            is_new = not inspect(connection).has_table(META.name)
            if is_new:
                SQLModel.metadata.create_all(connection, tables=list(TABLES))
                _make_immutable(connection)
                if connection.dialect.name == "postgresql":
                    connection.execute(text(f"CREATE SEQUENCE {NUMBERS} CACHE 1"))
                values = [
                    {"name": "network_id", "value": network_id},
                    {"name": "schema_version", "value": SCHEMA_VERSION},
                ]
                connection.execute(insert(META), values)
            rows = connection.execute(select(META.c.name, META.c.value))
            found: dict[str, str] = {row.name: row.value for row in rows}
    except DBAPIError as error:
        raise StorageError(f"the ledger's database cannot be opened: {_plain(error)}") from error
    if found.get("network_id") != network_id:
        raise IntegrityError(
            f"this is the ledger of network {found.get('network_id')}, not of {network_id}"
        )
    if found.get("schema_version") != SCHEMA_VERSION:
        raise IntegrityError(
            f"this ledger's tables have version {found.get('schema_version')}, "
            f"this program works with {SCHEMA_VERSION}"
        )


def _make_immutable(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        for table in IMMUTABLE:
            for action in ("UPDATE", "DELETE"):
                connection.execute(
                    text(
                        f"CREATE TRIGGER {table.name}_no_{action.lower()} BEFORE {action} "
                        f"ON {table.name} BEGIN "
                        f"SELECT RAISE(ABORT, '{table.name} is immutable'); END"
                    )
                )
        return
    connection.execute(
        text(
            "CREATE OR REPLACE FUNCTION ledger_is_immutable() RETURNS trigger AS $$ BEGIN "
            "RAISE EXCEPTION '% is immutable', TG_TABLE_NAME; END $$ LANGUAGE plpgsql"
        )
    )
    for table in IMMUTABLE:
        connection.execute(
            text(
                f"CREATE TRIGGER {table.name}_immutable BEFORE UPDATE OR DELETE OR TRUNCATE "
                f"ON {table.name} FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable()"
            )
        )


def _plain(error: Exception) -> str:
    """One line about a driver's error, without statement, parameters or password."""
    origin = getattr(error, "orig", None) or error
    line = (str(origin).splitlines() or [type(origin).__name__])[0]
    return re.sub(r"://[^@\s]*@", "://***@", line)[:200]


plain_message = _plain
