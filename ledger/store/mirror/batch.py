"""Owns a batch of the log with its records, put together from pages, and reading what is in it.

The rows are put into a database in memory that has the ledger's tables, so that they are read by
the very functions that the audit and the log read a ledger with (`logged_transfers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
from sqlalchemy import Connection, Table, create_engine, delete, select
from sqlalchemy.pool import StaticPool
from sqlmodel import SQLModel

from ledger.errors import IntegrityError
from ledger.log.leaves import LoggedTransfer, Opening, record_opening, transfer_openings
from ledger.log.sources import (
    BINDING,
    RECORD,
    TRANSFER,
    binding_of,
    kind_of,
    number_of,
    record_source,
    transfer_source,
)
from ledger.store.log.queries import logged_transfers
from ledger.store.mirror.records import TRANSFER_IDS
from ledger.store.schema import tables
from ledger.store.statements import insert_rows
from ledger.store.tables import RECORDS, TRANSFERS
from p2p.errors import MalformedError
from p2p.log_messages import BindingLeaf, Checkpoint
from p2p.mirror_messages import RecordsPage

BATCH_BYTES_MAX = 128 * 1024 * 1024
"""The largest batch: 2,048 captures of 8 legs are 20 MB, an epoch of 100,000 accounts 10 MB."""


@dataclass(slots=True)
class Batch:
    """A whole batch: leaves from `base_size` on, and the rows behind them by table."""

    base_size: int
    size: int
    checkpoint: Checkpoint
    commitments: tuple[bytes, ...]
    sources: tuple[bytes, ...]
    rows: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = field(default_factory=dict)


class Assembly:
    """Puts the pages of one batch together."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._next: tuple[int, int] = (0, 0)
        self._size_bytes = 0

    def add(self, page: RecordsPage) -> Batch | None:
        """Take the next page; gives the batch when it was the last one.

        Raises: MalformedError if the pages do not fit together.
        """
        if self._batch is None:
            data = page.commitments
            commitments = tuple(data[at : at + 32] for at in range(0, len(data), 32))
            if len(data) % 32 or page.base_size + len(commitments) != page.size or not data:
                raise MalformedError("this page has other leaves than its sizes say")
            self._batch = Batch(
                page.base_size, page.size, page.checkpoint, commitments, page.sources
            )
        batch = self._batch
        if (page.base_size, page.size) != (batch.base_size, batch.size):
            raise MalformedError("these pages are of different batches")
        if (page.source, page.row) != self._next:
            raise MalformedError("a page is missing")
        for part in page.rows:
            self._size_bytes += len(part.rows)
            if self._size_bytes > BATCH_BYTES_MAX:
                raise MalformedError("this batch is too large to be one")
            _add_rows(batch, part.table, part.rows)
        self._next = (page.next_source, page.next_row)
        if self._next != (0, 0) and self._next <= (page.source, page.row):
            raise MalformedError("the pages go in a circle")
        return batch if self._next == (0, 0) else None


def _add_rows(batch: Batch, name: str, packed: bytes) -> None:
    table = None if name == TRANSFER_IDS else table_named(name)
    types = _types_of(table)
    keys = [0] if table is None else _key_places(table)
    try:
        rows = msgpack.unpackb(packed, raw=False, use_list=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedError(f"the rows of {name} cannot be read") from error
    if not isinstance(rows, tuple) or not all(
        isinstance(row, tuple)
        and len(row) == len(types)
        and all(type(value) in wanted for value, wanted in zip(row, types, strict=True))
        for row in rows
    ):
        raise MalformedError(f"the rows of {name} are not rows of this program's tables")
    kept = batch.rows.setdefault(name, {})
    kept.update({tuple(row[place] for place in keys): row for row in rows})


def table_named(name: str) -> Table:
    """Give one of the tables that records come from. Raises: MalformedError."""
    found = SQLModel.metadata.tables.get(name)
    if found is None or not name.startswith("ledger_"):
        raise MalformedError(f"this program has no table {name[:60]!r}")
    return found


def _types_of(table: Table | None) -> list[tuple[type, ...]]:
    """Give what each column may hold."""
    if table is None:
        return [(int,), (bytes,)]
    return [
        (column.type.python_type, type(None)) if column.nullable else (column.type.python_type,)
        for column in table.columns
    ]


def _key_places(table: Table) -> list[int]:
    return [place for place, column in enumerate(table.columns) if column.primary_key]


class Scratch:
    """A database in memory for the rows of one batch at a time. Used by one thread at a time."""

    def __init__(self) -> None:
        tables()  # every file of tables is imported
        self._engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        with self._engine.begin() as connection:
            names = [n for n in SQLModel.metadata.tables if n.startswith("ledger_")]
            found = [SQLModel.metadata.tables[name] for name in names]
            SQLModel.metadata.create_all(connection, tables=found)
        self._filled: list[Table] = []

    def fill(self, batch: Batch) -> Connection:
        """Take the rows of a batch instead of what was there; gives the connection to read them.

        Raises: SQLAlchemyError for rows that no table can hold.
        """
        connection = self._engine.connect()
        for table in self._filled:
            connection.execute(delete(table))
        rows = {name: dict(found) for name, found in batch.rows.items()}
        stubs = rows.pop(TRANSFER_IDS, {})
        whole = rows.setdefault(TRANSFERS.name, {})
        for number, transfer_id in stubs.values():
            whole.setdefault((number,), (number, transfer_id, "", "", None, b"", b"", b"", 0))
        self._filled = [table_named(name) for name in rows]
        for table in self._filled:
            insert_rows(connection, table, list(rows[table.name].values()))
        return connection

    def close(self) -> None:
        """Forget everything."""
        self._engine.dispose()


@dataclass(slots=True)
class Records:
    """The records of a batch as the audit reads them."""

    transfers: list[LoggedTransfer]
    records: list[Any]
    bindings: list[tuple[bytes, BindingLeaf]]
    openings: dict[bytes, list[Opening]]


class RecordMissingError(IntegrityError):
    """The record of a source is not given."""

    def __init__(self, source: bytes) -> None:
        super().__init__(f"the record of leaf source {source.hex()[:40]} is not given")
        self.source = source


def read_records(connection: Connection, sources: Sequence[bytes]) -> Records:
    """Read the records of sources, and make their leaves' openings again.

    Raises: RecordMissingError if the rows of a source are missing, MalformedError if damaged.
    """
    numbers = [number_of(source) for source in sources if kind_of(source) == TRANSFER]
    transfers = logged_transfers(connection, sorted(numbers))
    digests = [source[1:] for source in sources if kind_of(source) == RECORD]
    rows = [
        row
        for at in range(0, len(digests), 500)
        for row in connection.execute(
            select(RECORDS).where(RECORDS.c.digest.in_(digests[at : at + 500]))
        )
    ]
    openings: dict[bytes, list[Opening]] = {
        transfer_source(transfer.number): transfer_openings(transfer) for transfer in transfers
    }
    for row in rows:
        opening = record_opening(row.purpose, row.subject, row.signed, row.at_ms)
        openings[record_source(row.digest)] = [opening]
    bindings = [(s, binding_of(s)) for s in sources if kind_of(s) == BINDING]
    bindings.sort(key=lambda entry: entry[1].bound_ms)
    openings |= {source: [binding] for source, binding in bindings}
    for source in sources:
        if source not in openings:
            raise RecordMissingError(source)
    return Records(transfers, rows, bindings, openings)
