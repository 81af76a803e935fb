"""Owns the text of the writer's statements: compiled once from the tables, run with plain tuples.

SQLAlchemy's own path costs about 120 microseconds for each statement and 8 for each row, more than
everything else a transfer needs. So each statement is compiled once for its database and given to
the driver as text with positional parameters; connections, transactions and the mapping of errors
stay SQLAlchemy's.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Table, bindparam, insert, select, update
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.expression import ClauseElement

from ledger.store.tables import HOLDS, TRANSFERS

Values = tuple[Any, ...]


def insert_rows(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows: tuples of all columns in the table's order."""
    if rows:
        connection.exec_driver_sql(_insert(connection.dialect.name, table), list(rows))


def update_rows(
    connection: Connection, table: Table, key: str, columns: Values, rows: Sequence[Values]
) -> None:
    """Update rows: tuples of the columns' new values, and the key last."""
    if rows:
        connection.exec_driver_sql(
            _update(connection.dialect.name, table, key, columns), list(rows)
        )


def select_rows(
    connection: Connection, table: Table, key: str, keys: Collection[Any], *, lock: bool = False
) -> Sequence[Any]:
    """Read the rows with these keys, all columns in the table's order, sorted by key.

    Args:
        lock: keep others from changing them until this transaction ends (PostgreSQL; SQLite's
            writer has the whole file anyway).
    """
    return _select(connection, _by_key(table, key, lock=lock), keys)


def select_holds(connection: Connection, hold_ids: Collection[bytes]) -> Sequence[Any]:
    """Read and lock holds by their IDs: the hold's columns, then its ID."""
    return _select(connection, _holds_by_id(), hold_ids)


def select_past(connection: Connection, transfer_ids: Collection[bytes]) -> Sequence[Any]:
    """Read ID, content and result of the transfers that exist among these."""
    return _select(connection, _past_by_id(), transfer_ids)


_IDS = "ids"


def _select(connection: Connection, statement: Select[Any], keys: Collection[Any]) -> Sequence[Any]:
    if not keys:
        return ()
    # A power of two of places, filled up with the last key: few statements to compile and keep.
    values = list(keys)
    places = 1 << (len(values) - 1).bit_length()
    values += values[-1:] * (places - len(values))
    text = _select_text(connection.dialect.name, statement, places)
    return connection.exec_driver_sql(text, tuple(values)).all()


@functools.cache
def _by_key(table: Table, key: str, *, lock: bool) -> Select[Any]:
    column = table.c[key]
    statement = select(table).where(column.in_(_places())).order_by(column)
    # NO KEY UPDATE: foreign keys of other processes' rows may still point here.
    return statement.with_for_update(key_share=True) if lock else statement


@functools.cache
def _holds_by_id() -> Select[Any]:
    return (
        select(HOLDS, TRANSFERS.c.transfer_id)
        .join(TRANSFERS, TRANSFERS.c.number == HOLDS.c.number)
        .where(TRANSFERS.c.transfer_id.in_(_places()))
        .order_by(HOLDS.c.number)
        .with_for_update(key_share=True, of=HOLDS)
    )


@functools.cache
def _past_by_id() -> Select[Any]:
    columns = (TRANSFERS.c.transfer_id, TRANSFERS.c.content, TRANSFERS.c.result)
    return select(*columns).where(TRANSFERS.c.transfer_id.in_(_places()))


def _places() -> Any:
    return bindparam(_IDS, expanding=True)


@functools.cache
def _select_text(dialect_name: str, statement: Select[Any], places: int) -> str:
    return _text(dialect_name, statement.params({_IDS: [b""] * places}), render_postcompile=True)


@functools.cache
def _insert(dialect_name: str, table: Table) -> str:
    values: dict[str, Any] = {column.name: bindparam(column.name) for column in table.columns}
    return _text(dialect_name, insert(table).values(values))


@functools.cache
def _update(dialect_name: str, table: Table, key: str, columns: Values) -> str:
    # Ordered: the parameters are positional, and `values` would go by the table's order.
    values: list[tuple[Any, Any]] = [
        (table.c[column], bindparam(f"new_{column}")) for column in columns
    ]
    statement = update(table).where(table.c[key] == bindparam("the_key")).ordered_values(*values)
    return _text(dialect_name, statement)


def _text(dialect_name: str, statement: ClauseElement, **options: Any) -> str:
    compiled = statement.compile(dialect=_dialect(dialect_name), compile_kwargs=options)
    return str(compiled)


@functools.cache
def _dialect(name: str) -> Dialect:
    # Both drivers take positional parameters: `?` for SQLite, `%s` for psycopg.
    if name == "sqlite":
        return SQLiteDialect_pysqlite(paramstyle="qmark")
    return PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]
