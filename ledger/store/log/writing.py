"""Owns writing the log: the outbox beside each group, and a batch of leaves."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, func, select, text

from ledger.book import Book
from ledger.log.batch import LogBatch
from ledger.log.sources import binding_source, record_source
from ledger.operations import AppendLog, Operation
from ledger.store.log.tables import LOG_CHECKPOINTS, LOG_KEYS, LOG_LEAVES, LOG_PENDING, LOG_TILES
from ledger.store.statements import insert_rows, select_rows
from p2p.log_messages import BindingLeaf

_LOG_LOCK = 0x6C6F_6720_6164_6400
"""PostgreSQL advisory lock: one batch at a time is appended."""
_PLACES = {"sqlite": "?", "postgresql": "%s"}


def lock_log(connection: Connection) -> int:
    """Keep other processes from appending until this transaction ends; gives the log's size."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _LOG_LOCK})
    return log_size(connection)


def log_size(connection: Connection) -> int:
    """Give how many leaves the log has."""
    size = connection.execute(select(func.max(LOG_CHECKPOINTS.c.size))).scalar_one_or_none()
    return int(size or 0)


def pending_of(connection: Connection, operations: Iterable[Operation]) -> set[bytes]:
    """Read which sources of the batches among these operations are still in the outbox."""
    sources = {
        source
        for operation in operations
        if isinstance(operation, AppendLog)
        for source in operation.batch.sources
    }
    return {row[0] for row in select_rows(connection, LOG_PENDING, "source", sources)}


def write_pending(connection: Connection, book: Book) -> None:
    """Name the group's account operations and bindings in the outbox (transfers: at their rows)."""
    sources = [record_source(record.digest) for record in book.new_records]
    for peer_id in sorted(book.changed_bindings):
        binding = book.bindings[peer_id]
        leaf = BindingLeaf(binding.peer_id, binding.account_id, binding.bound_ms)
        sources.append(binding_source(leaf))
    enqueue(connection, sources)


def enqueue(connection: Connection, sources: Iterable[bytes]) -> None:
    """Name sources in the outbox."""
    insert_rows(connection, LOG_PENDING, [(source,) for source in sources])


def write_batch(connection: Connection, batch: LogBatch) -> None:
    """Append a batch that the rule has let through (under `lock_log`)."""
    place = _PLACES[connection.dialect.name]
    statement = f"DELETE FROM {LOG_PENDING.name} WHERE source = {place}"  # noqa: S608
    connection.exec_driver_sql(statement, [(source,) for source in batch.sources])
    rows = [
        (batch.base_size + number, leaf.source, leaf.part, leaf.commitment)
        for number, leaf in enumerate(batch.leaves)
    ]
    insert_rows(connection, LOG_LEAVES, rows)
    statement = (
        f"INSERT INTO {LOG_TILES.name} (level, number, hashes) "  # noqa: S608
        f"VALUES ({place}, {place}, {place}) "
        "ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes"
    )
    connection.exec_driver_sql(statement, [(*at, hashes) for at, hashes in batch.tiles])
    insert_rows(connection, LOG_CHECKPOINTS, [(batch.size, batch.note, batch.public_key)])
    statement = (
        f"INSERT INTO {LOG_KEYS.name} (public_key, statement, chain) "  # noqa: S608
        f"VALUES ({place}, {place}, {place}) ON CONFLICT (public_key) DO NOTHING"
    )
    connection.exec_driver_sql(statement, (batch.public_key, batch.statement, batch.chain))
