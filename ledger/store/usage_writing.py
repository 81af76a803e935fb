"""Owns writing usage and work: what a group adds, in the group's own transaction."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Table

from ledger.book import Book
from ledger.store.statements import Values
from ledger.store.usage_tables import USAGE, WORK
from ledger.usage import COUNTS, Counts, UsageKey, WorkKey


def write_usage(connection: Connection, book: Book) -> None:
    """Add what a group's captures, releases and expiries did to the counters.

    Rows are sorted, so that two processes never lock them in different orders.
    """
    write_counters(connection, book.consumed, book.worked)


def write_counters(
    connection: Connection,
    usage: Mapping[UsageKey, Counts],
    work: Mapping[WorkKey, tuple[int, int]],
) -> None:
    """Add to the counters of usage and work."""
    rows = [(*key, *counts.values) for key, counts in sorted(usage.items())]
    _add(connection, USAGE, COUNTS, rows)
    rows = [
        (key.day, key.namespace, key.node_id, key.account_id, legs, earned)
        for key, (legs, earned) in sorted(work.items())
    ]
    _add(connection, WORK, ("legs", "earned"), rows)


def _add(
    connection: Connection, table: Table, counters: tuple[str, ...], rows: Sequence[Values]
) -> None:
    if rows:
        connection.exec_driver_sql(_adding(connection.dialect.name, table, counters), list(rows))


@functools.cache
def _adding(dialect_name: str, table: Table, counters: tuple[str, ...]) -> str:
    # The same words on both databases, but for the mark of a parameter.
    mark = "?" if dialect_name == "sqlite" else "%s"
    names = [column.name for column in table.columns]
    keys = [column.name for column in table.primary_key.columns]
    sums = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in counters)
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608 - names of ours only
        f"VALUES ({', '.join([mark] * len(names))}) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sums}"
    )
