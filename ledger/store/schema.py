"""Owns which tables a database has: brings it to the newest revision, or says why it cannot be.

Theory of operation. The revisions of `ledger.store.migrations` are run by Alembic in the caller's
transaction (DDL is transactional on both databases), so that a process that dies in the middle
leaves the old tables. The database remembers its revision in `ledger_schema`; the newest one is
also in `ledger_meta` as `schema_version`, where programs from before the revisions look for "1"
and refuse anything else. A database of those programs has exactly the tables of the first revision.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, create_engine, inspect, text
from sqlmodel import SQLModel

from ledger.errors import IntegrityError

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

VERSION_TABLE = "ledger_schema"
FIRST_REVISION = "0001"
LEGACY_VERSION = "1"
_MIGRATIONS = Path(__file__).parent / "migrations"


def tables() -> MetaData:
    """Give the ledger's tables as the code has them (`ledger/store/**/*tables.py`)."""
    here = Path(__file__).parent
    for path in here.glob("**/*tables.py"):
        parts = path.relative_to(here).with_suffix("").parts
        if parts[0] != _MIGRATIONS.name:
            importlib.import_module(".".join(("ledger.store", *parts)))
    found = MetaData()
    for table in SQLModel.metadata.sorted_tables:
        if table.name.startswith("ledger_"):
            table.to_metadata(found)
    return found


@functools.cache
def newest_revision() -> str:
    """Give the revision that this program works with."""
    return max(_revisions())


@functools.cache
def _revisions() -> frozenset[str]:
    """The revisions by their files' names: Alembic (13 MB) is imported only where there is work."""
    files = (_MIGRATIONS / "versions").glob("m*.py")
    return frozenset(match[1] for file in files if (match := re.match(r"m(\d{4})_", file.name)))


def revision_of(connection: Connection) -> str | None:
    """Give the revision of a database; None if it has no ledger in it.

    Raises: IntegrityError if there is a ledger whose tables have no version.
    """
    inspector = inspect(connection)
    if inspector.has_table(VERSION_TABLE):
        statement = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
        found: str | None = connection.execute(statement).scalar_one_or_none()
        if found is not None:
            return found
    if not inspector.has_table("ledger_meta"):
        return None
    statement = text("SELECT value FROM ledger_meta WHERE name = 'schema_version'")
    version = connection.execute(statement).scalar_one_or_none()
    if version != LEGACY_VERSION:
        raise IntegrityError(f"this ledger's tables have the unknown version {version}")
    return FIRST_REVISION


def make(connection: Connection, revision: str) -> None:
    """Make the tables of a known revision in a database without a ledger (to restore a backup)."""
    from alembic import command

    assert revision_of(connection) is None
    command.upgrade(configuration(connection), revision)


def upgrade(connection: Connection) -> tuple[bool, bool]:
    """Bring a database to the newest revision, in the caller's transaction.

    Returns: whether anything was done, and whether there was no ledger before.
    Raises: IntegrityError if a newer program made these tables.
    """
    found, newest = revision_of(connection), newest_revision()
    if found == newest and inspect(connection).has_table(VERSION_TABLE):
        return False, False
    check_known(found)
    from alembic import command

    config = configuration(connection)
    if found is not None and not inspect(connection).has_table(VERSION_TABLE):
        command.stamp(config, FIRST_REVISION)
    command.upgrade(config, newest)
    if found not in (None, newest):
        log.warning("the ledger's tables were brought from version %s to %s", found, newest)
    return True, found is None


def definition_problems(connection: Connection) -> Iterator[str]:
    """Compare the tables, indexes and triggers of an SQLite file with what the revisions make.

    A damaged definition that SQLite can still read changes no row, only what is enforced. (On
    PostgreSQL definitions are not text in the file.)
    """
    if connection.dialect.name != "sqlite":
        return
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as fresh:
            upgrade(fresh)
            expected = _definitions(fresh)
    finally:
        engine.dispose()
    found = _definitions(connection)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield f"the definition of {name} is not what the revisions make"


def _definitions(connection: Connection) -> dict[str, list[str]]:
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    # The programs from before the revisions wrote their parts in another order.
    return {name: sorted(re.sub(r"[\s\"]+", "", sql).rstrip(")").split(",")) for name, sql in rows}


def check_known(revision: str | None) -> None:
    """Refuse the revision of a newer program. Raises: IntegrityError."""
    if revision is not None and revision not in _revisions():
        raise IntegrityError(
            f"this ledger's tables have version {revision}, and this program knows versions up to "
            f"{newest_revision()}: a newer Resultity has worked with it, install that one"
        )


def configuration(connection: Connection) -> Config:
    """Give what Alembic's commands need to work on this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
