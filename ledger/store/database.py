"""Owns how the ledger opens its database: engines, durability settings, whose it is.

SQLite: WAL with synchronous=FULL, so that a commit is on disk when it returns; BEGIN IMMEDIATE for
the writer, so that several processes on one file take turns before they read. PostgreSQL: READ
COMMITTED with row locks for the writer, REPEATABLE READ for readers (one snapshot for a statement).
"""

from __future__ import annotations

import logging
import re
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ledger.errors import IntegrityError, LedgerError, StorageError
from ledger.limits import BUSY_TIMEOUT_S, READERS_MAX
from ledger.store.schema import newest_revision, revision_of, upgrade
from ledger.store.tables import META
from p2p.types import NetworkId

log = logging.getLogger(__name__)
_SETUP_LOCK = 0x7265_7375_6C74
"""PostgreSQL advisory lock: one process at a time makes the tables."""
WAL_PAGES_PER_CHECKPOINT = 4000
"""16 MB: a checkpoint copies pages and syncs twice, so do it seldom under load."""
WRITER_CACHE_KB = 2 * 1024
READER_CACHE_KB = 256
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
            return _open_postgresql(url, writer=writer)
    except (ArgumentError, ImportError) as error:
        raise StorageError(f"the ledger's database URL cannot be used: {_plain(error)}") from error
    raise StorageError("the ledger's database URL starts with sqlite:/// or postgresql+psycopg://")


def _open_postgresql(url: str, *, writer: bool) -> Engine:
    level = "READ COMMITTED" if writer else "REPEATABLE READ"
    size = 1 if writer else READERS_MAX
    engine = create_engine(
        url, isolation_level=level, pool_size=size, max_overflow=1, pool_pre_ping=not writer
    )

    @event.listens_for(engine, "connect")
    def keep_to_indexes(connection: Any, record: Any) -> None:
        # The writer looks everything up by key. Its plans are kept: one that was made while a table
        # was small would go on reading the whole of it when it has grown.
        if writer:
            connection.execute("SET enable_seqscan = off")
            connection.commit()

    return engine


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
    """Make or upgrade the tables, and check whose database this is.

    Raises: IntegrityError (another network's ledger, or a newer program's), StorageError.
    """
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _SETUP_LOCK})
                _warn_of_losses(connection)
            prepare_connection(connection, network_id)
    except SQLAlchemyError as error:
        raise StorageError(f"the ledger's database cannot be opened: {_plain(error)}") from error


def _warn_of_losses(connection: Connection) -> None:
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        if connection.execute(text(f"SHOW {setting}")).scalar_one() == "off":
            log.warning("PostgreSQL runs with %s = off: what is acknowledged may be lost", setting)


def prepare_connection(connection: Connection, network_id: NetworkId) -> None:
    """Do what `prepare` does in the caller's transaction. Raises: IntegrityError."""
    if revision_of(connection) is not None:
        _check_network(connection, network_id)
    changed, is_new = upgrade(connection)
    if is_new:
        rows = [{"name": "network_id", "value": network_id}, _VERSION_ROW]
        connection.execute(insert(META), rows)
    if changed:
        connection.execute(
            update(META).where(META.c.name == _VERSION_ROW["name"]).values(value=newest_revision())
        )


_VERSION_ROW = {"name": "schema_version", "value": ""}


def _check_network(connection: Connection, network_id: NetworkId) -> None:
    statement = select(META.c.value).where(META.c.name == "network_id")
    found = connection.execute(statement).scalar_one_or_none()
    if found != network_id:
        raise IntegrityError(f"this is the ledger of network {found}, not of {network_id}")


def as_ledger_error(error: SQLAlchemyError) -> LedgerError:
    """Give our error for a driver's: IntegrityError if what is stored is damaged."""
    origin = getattr(error, "orig", None)
    name = getattr(origin, "sqlite_errorname", None) or getattr(origin, "sqlstate", None) or ""
    if name.startswith(_DAMAGE):
        return IntegrityError(f"the ledger's database is damaged: {_plain(error)}")
    return StorageError(f"the database failed: {_plain(error)}")


_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002")
"""By SQLite's names, and PostgreSQL's for damaged data and damaged indexes."""


def _plain(error: Exception) -> str:
    """One line about a driver's error, without statement, parameters or password."""
    origin = getattr(error, "orig", None) or error
    line = (str(origin).splitlines() or [type(origin).__name__])[0]
    return re.sub(r"://[^@\s]*@", "://***@", line)[:200]


plain_message = _plain
