"""Owns writing usage and work: what a group adds, in the group's own transaction."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Table

from ledger.book import Book
from ledger.store.conduct_tables import SUBCLOUD_USAGE, SUBCLOUD_WORK
from ledger.store.statements import Values, as_arrays, unnested
from ledger.store.usage_tables import USAGE, WORK
from ledger.subcloud_usage import usage_by_subcloud
from ledger.usage import COUNTS, SUBCLOUD_COUNTS, Counts, UsageKey, WorkKey, by_key, by_node


def write_usage(connection: Connection, book: Book) -> None:
    """Add what a group's captures, releases and expiries did to the counters.

    Rows are sorted, so that two processes never lock them in different orders.
    """
    write_counters(connection, book.consumed, book.worked)
    write_subcloud_counters(connection, book.consumed, book.worked)


def write_counters(
    connection: Connection,
    usage: Mapping[UsageKey, Counts],
    work: Mapping[WorkKey, tuple[int, int]],
    counters: tuple[str, ...] = COUNTS,
) -> None:
    """Add to the counters of usage and work.

    Args: counters: the first of `COUNTS`, as many as the table has (an old revision's has fewer).
    """
    width = len(counters)
    rows = [(*key[:4], *counts.values[:width]) for key, counts in sorted(by_key(usage).items())]
    add_counters(connection, USAGE, counters, rows)
    rows = [
        (key.day, key.namespace, key.node_id, key.account_id, legs, earned)
        for key, (legs, earned) in sorted(by_node(work).items())
    ]
    add_counters(connection, WORK, ("legs", "earned"), rows)


def write_subcloud_counters(
    connection: Connection,
    usage: Mapping[UsageKey, Counts],
    work: Mapping[WorkKey, tuple[int, int]],
) -> None:
    """Add to the counters of subclouds, for their owners; jobs of the global pool have none."""
    rows = [(*key, *counts.values) for key, counts in sorted(usage_by_subcloud(usage).items())]
    add_counters(connection, SUBCLOUD_USAGE, SUBCLOUD_COUNTS, rows)
    rows = [
        (key.subcloud_id, key.day, key.node_id, key.account_id, key.namespace, legs, earned)
        for key, (legs, earned) in sorted(work.items())
        if key.subcloud_id
    ]
    add_counters(connection, SUBCLOUD_WORK, ("legs", "earned"), rows)


def add_counters(
    connection: Connection, table: Table, counters: tuple[str, ...], rows: Sequence[Values]
) -> None:
    """Add rows (keys, then counters, in the table's order) to what is there.

    Each key comes once; rows are sorted, so that two processes never lock them in different orders.
    """
    if not rows:
        return
    columns = [c for c in table.columns if c.primary_key or c.name in counters]
    names = tuple(column.name for column in columns)
    if connection.dialect.name == "sqlite":
        source = f"VALUES ({', '.join('?' * len(names))})"
        connection.exec_driver_sql(_adding(table, names, counters, source), list(rows))
    else:
        source = f"SELECT * FROM {unnested(columns)}"  # noqa: S608 - names of ours only
        connection.exec_driver_sql(_adding(table, names, counters, source), as_arrays(rows))


@functools.cache
def _adding(table: Table, names: tuple[str, ...], counters: tuple[str, ...], source: str) -> str:
    keys = [column.name for column in table.primary_key.columns]
    sums = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in counters)
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) {source} "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sums}"
    )
