"""Owns backups: every row of a ledger into one file, and back into an empty database of any kind.

Theory of operation. A backup is a SQLite file with the ledger's own tables at the revision of the
database that it was made from, read in one snapshot beside the running writer, and a table more,
`ledger_backup`: for each table the number of rows and their digest. So one format serves SQLite and
PostgreSQL, moves a ledger from one to the other, and can be audited as it is. Restoring reads the
file's digests again before it writes anything, copies into an empty database, compares the digests
of what was written, brings the tables to this program's revision and checks all rules; only then is
it committed. A digest is the sum of the SHA-256 of the rows, because databases sort differently: it
finds damage; it does not stop somebody who wants to deceive (`audit` checks the signatures).

The file has what API keys are checked with: it is made readable for its owner only.
"""

from __future__ import annotations

import hashlib
import operator
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgpack
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from ledger.errors import IntegrityError, StorageError
from ledger.store.database import open_engine, plain_message, prepare_connection
from ledger.store.integrity import check_integrity
from ledger.store.schema import (
    VERSION_TABLE,
    check_known,
    make,
    newest_revision,
    revision_of,
)
from ledger.store.statements import insert_rows
from ledger.store.tables import META, NUMBERS, TRANSFERS
from p2p.types import NetworkId, parse_network_id

BATCH_ROWS = 2_000
"""Rows read and written at once: a few megabytes of memory."""
FILE_MODE = 0o600
_DIGEST_BITS = 256
_MANIFEST = Table(
    "ledger_backup",
    MetaData(),
    Column("table_name", String, primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("digest", String, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup has: whose ledger, the revision of its tables, and how many transfers."""

    network_id: NetworkId
    revision: str
    transfers: int


@dataclass(slots=True)
class _Sum:
    """The number of rows of a table and the sum of their hashes."""

    rows: int = 0
    total: int = 0

    def add(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        order = sorted(range(len(names)), key=lambda place: names[place])
        pick = operator.itemgetter(*order, order[0])  # always a tuple
        pack = msgpack.Packer().pack
        for row in rows:
            digest = hashlib.sha256(pack(pick(row))).digest()
            self.total += int.from_bytes(digest, "big")
        self.rows += len(rows)

    @property
    def digest(self) -> str:
        return f"{self.total % (1 << _DIGEST_BITS):064x}"


def write_backup(url: str, path: Path) -> Backup:
    """Back a ledger up into a new file, beside whoever works with it.

    Raises: StorageError (no ledger there, the file exists, a full disk), IntegrityError (made by a
        newer program).
    """
    if path.exists():
        raise StorageError(f"{path} exists already, and a backup is never written over")
    require_file(url)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with _engine(url, writer=False) as source, _new_file(unfinished) as file:
        with source.begin() as reading, file.begin() as writing:
            revision = revision_of(reading)
            if revision is None:
                raise StorageError("there is no ledger in this database")
            check_known(revision)
            make(writing, revision)
            sums = _copy(reading, writing)
            _MANIFEST.create(writing)
            rows = [
                {"table_name": name, "rows": found.rows, "digest": found.digest}
                for name, found in sums.items()
            ]
            writing.execute(insert(_MANIFEST), rows)
        backup = _verified(file)
        _close_file(file)
        _sync(unfinished)
        os.replace(unfinished, path)
        _sync(path.parent)
    return backup


def restore_backup(path: Path, url: str) -> Backup:
    """Restore a backup into a database without a ledger; all of it or nothing.

    Raises: StorageError (there is a ledger already, the file cannot be read), IntegrityError (the
        backup is damaged, breaks a rule, or was made by a newer program).
    """
    backup = read_backup(path)
    with (
        _read_only(path) as file,
        _engine(url, writer=True) as target,
        file.begin() as reading,
        target.begin() as writing,
    ):
        if revision_of(writing) is not None:
            raise StorageError(
                "there is a ledger in this database already, and a restore replaces nothing: "
                "move it away first"
            )
        make(writing, backup.revision)
        _compare(_manifest(reading), _copy(reading, writing))
        _restart_numbers(writing)
        prepare_connection(writing, backup.network_id)
        check_integrity(writing)
    return backup


def read_backup(path: Path) -> Backup:
    """Check a backup's digests and rules. Raises: IntegrityError, StorageError."""
    with _read_only(path) as file:
        return _verified(file)


def _verified(file: Engine) -> Backup:
    with file.begin() as connection:
        revision = revision_of(connection)
        if revision is None:
            raise StorageError("this file is no backup of a ledger")
        check_known(revision)
        if not inspect(connection).has_table(_MANIFEST.name):
            raise StorageError("this file is a ledger, but not one that `ledger backup` wrote")
        found: dict[str, _Sum] = {}
        for table in _tables(connection):
            found[table.name] = _Sum()
            for rows in _batches(connection, table):
                found[table.name].add(table.columns.keys(), rows)
        _compare(_manifest(connection), found)
        if revision == newest_revision():  # the rules are about the newest tables
            check_integrity(connection)
        network = connection.execute(select(META.c.value).where(META.c.name == "network_id"))
        return Backup(parse_network_id(network.scalar_one()), revision, found[TRANSFERS.name].rows)


def _manifest(connection: Connection) -> dict[str, tuple[int, str]]:
    return {row.table_name: (row.rows, row.digest) for row in connection.execute(select(_MANIFEST))}


def _compare(expected: dict[str, tuple[int, str]], found: dict[str, _Sum]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        is_so = found.get(name, _Sum())
        if expected.get(name) != (is_so.rows, is_so.digest):
            raise IntegrityError(
                f"this backup is damaged: {name} is not as it was when the backup was made"
            )


def _copy(reading: Connection, writing: Connection) -> dict[str, _Sum]:
    """Copy every row of the ledger's tables; the other side has the same tables, empty."""
    # What a revision itself puts in belongs to the new database that this one is not.
    writing.execute(delete(META))
    sums: dict[str, _Sum] = {}
    for table in _tables(reading):
        sums[table.name] = _Sum()
        for rows in _batches(reading, table):
            names = table.columns.keys()
            sums[table.name].add(names, rows)
            insert_rows(writing, table, rows)
    return sums


def _tables(connection: Connection) -> list[Table]:
    """The ledger's tables as they are in a database, parents before children."""
    metadata = MetaData()
    metadata.reflect(
        connection,
        only=lambda name, _: (
            name.startswith("ledger_") and name not in (VERSION_TABLE, _MANIFEST.name)
        ),
    )
    return list(metadata.sorted_tables)


def _batches(connection: Connection, table: Table) -> Iterator[list[tuple[Any, ...]]]:
    statement = select(table).execution_options(yield_per=BATCH_ROWS)
    for rows in connection.execute(statement).partitions():
        yield [tuple(row) for row in rows]


def _restart_numbers(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        last = connection.execute(select(func.max(TRANSFERS.c.number))).scalar_one()
        if last is not None:
            connection.execute(text("SELECT setval(:name, :last)"), {"name": NUMBERS, "last": last})


@contextmanager
def _engine(url: str, *, writer: bool) -> Iterator[Engine]:
    engine = open_engine(url, writer=writer)
    try:
        yield engine
    except SQLAlchemyError as error:
        raise StorageError(f"the database failed: {plain_message(error)}") from error
    finally:
        engine.dispose()


@contextmanager
def _new_file(path: Path) -> Iterator[Engine]:
    try:
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be written to: {error.strerror}") from error
    try:
        with _engine(f"sqlite:///{path}", writer=True) as engine:
            yield engine
    finally:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(name).unlink(missing_ok=True)


def _close_file(engine: Engine) -> None:
    """Make one file of it: no write-ahead log beside it, all of it on disk."""
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA journal_mode=DELETE")
        cursor.close()
    engine.dispose()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_file(url: str) -> None:
    """Refuse the URL of a SQLite file that is not there: opening would make it. Raises:
    StorageError."""
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        raise StorageError(f"there is no ledger: {path} does not exist")


@contextmanager
def _read_only(path: Path) -> Iterator[Engine]:
    """Open a backup without changing so much as the files beside it."""
    if not path.is_file():
        raise StorageError(f"there is no backup: {path} does not exist")
    source = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(source, uri=True, isolation_level=None, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    try:
        yield engine
    except SQLAlchemyError as error:
        raise IntegrityError(f"{path} cannot be read: {plain_message(error)}") from error
    finally:
        engine.dispose()
