"""Owns the text of the writer's statements: compiled once from the tables, run with plain tuples.

SQLAlchemy's own path costs about 120 microseconds for each statement and 8 for each row, more than
everything else a transfer needs. So each statement is compiled once for its database and given to
the driver as text with positional parameters; connections, transactions and the mapping of errors
stay SQLAlchemy's.

SQLite takes a statement for each row without a way over a wire. PostgreSQL gets one statement for
all rows, each column as one array (`unnest`): a third of the time of a statement for each row
(measured), and one plan for every number of rows. `ledger.store.database` keeps its planner to
indexes on the writer's connection.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    Select,
    Table,
    any_,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.expression import ClauseElement

from ledger.store.tables import HOLDS, TRANSFERS

Values = tuple[Any, ...]
_IsWanted = Callable[[Any], Any]
"""Gives the condition that a column is one of the keys that are asked for."""
_ByDialect = Callable[[_IsWanted], Select[Any]]


def insert_rows(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows: tuples of all columns in the table's order."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_insert(table), list(rows))
    else:
        connection.exec_driver_sql(_array_insert(table), as_arrays(rows))


def update_rows(
    connection: Connection, table: Table, key: str, columns: Values, rows: Sequence[Values]
) -> None:
    """Update rows: tuples of the columns' new values, and the key (each once) last."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_update(table, key, columns), list(rows))
    else:
        connection.exec_driver_sql(_array_update(table, key, columns), as_arrays(rows))


def as_arrays(rows: Sequence[Values]) -> Values:
    """Turn rows into one list for each column, as `unnested` takes them."""
    return tuple(map(list, zip(*rows, strict=True)))


def unnested(columns: Sequence[Column[Any]]) -> str:
    """Give the PostgreSQL function that makes rows out of one array for each of these columns."""
    return f"unnest({', '.join(f'%b::{_array_type(column)}' for column in columns)})"


def _array_type(column: Column[Any]) -> str:
    # By kind: a table that was read from a SQLite file has SQLite's names of types.
    if isinstance(column.type, LargeBinary):
        return "bytea[]"
    return "bigint[]" if isinstance(column.type, Integer) else "varchar[]"


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
    return _select(connection, _holds_by_id, hold_ids)


def select_past(connection: Connection, transfer_ids: Collection[bytes]) -> Sequence[Any]:
    """Read ID, content and result of the transfers that exist among these."""
    return _select(connection, _past_by_id, transfer_ids)


_IDS = "ids"


def _select(connection: Connection, statement: _ByDialect, keys: Collection[Any]) -> Sequence[Any]:
    if not keys:
        return ()
    values = list(keys)
    if connection.dialect.name == "postgresql":
        return connection.exec_driver_sql(_array_select(statement), (values,)).all()
    # A power of two of places, filled up with the last key: few statements to compile and keep.
    places = 1 << (len(values) - 1).bit_length()
    values += values[-1:] * (places - len(values))
    return connection.exec_driver_sql(_places_select(statement, places), tuple(values)).all()


@functools.cache
def _by_key(table: Table, key: str, *, lock: bool) -> _ByDialect:
    column = table.c[key]

    def make(is_wanted: _IsWanted) -> Select[Any]:
        statement = select(table).where(is_wanted(column)).order_by(column)
        # NO KEY UPDATE: foreign keys of other processes' rows may still point here.
        return statement.with_for_update(key_share=True) if lock else statement

    return make


def _holds_by_id(is_wanted: _IsWanted) -> Select[Any]:
    return (
        select(HOLDS, TRANSFERS.c.transfer_id)
        .join(TRANSFERS, TRANSFERS.c.number == HOLDS.c.number)
        .where(is_wanted(TRANSFERS.c.transfer_id))
        .order_by(HOLDS.c.number)
        .with_for_update(key_share=True, of=HOLDS)
    )


def _past_by_id(is_wanted: _IsWanted) -> Select[Any]:
    columns = (TRANSFERS.c.transfer_id, TRANSFERS.c.content, TRANSFERS.c.result)
    return select(*columns).where(is_wanted(TRANSFERS.c.transfer_id))


@functools.cache
def _places_select(statement: _ByDialect, places: int) -> str:
    wanted: Any = bindparam(_IDS, expanding=True)
    made = statement(lambda column: column.in_(wanted)).params({_IDS: [b""] * places})
    return _text("sqlite", made, render_postcompile=True)


@functools.cache
def _array_select(statement: _ByDialect) -> str:
    made = statement(lambda column: column == any_(bindparam(_IDS, type_=ARRAY(column.type))))
    return _text("postgresql", made).replace("%s", "%b")


@functools.cache
def _insert(table: Table) -> str:
    values: dict[str, Any] = {column.name: bindparam(column.name) for column in table.columns}
    return _text("sqlite", insert(table).values(values))


@functools.cache
def _array_insert(table: Table) -> str:
    columns = list(table.columns)
    names = ", ".join(column.name for column in columns)
    return f"INSERT INTO {table.name} ({names}) SELECT * FROM {unnested(columns)}"  # noqa: S608


@functools.cache
def _update(table: Table, key: str, columns: Values) -> str:
    # Ordered: the parameters are positional, and `values` would go by the table's order.
    values: list[tuple[Any, Any]] = [
        (table.c[column], bindparam(f"new_{column}")) for column in columns
    ]
    statement = update(table).where(table.c[key] == bindparam("the_key")).ordered_values(*values)
    return _text("sqlite", statement)


@functools.cache
def _array_update(table: Table, key: str, columns: Values) -> str:
    names = (*columns, key)
    changes = ", ".join(f"{name} = changed.{name}" for name in columns)
    rows = f"{unnested([table.c[name] for name in names])} AS changed({', '.join(names)})"
    return (
        f"UPDATE {table.name} SET {changes} FROM {rows} "  # noqa: S608 - names of ours only
        f"WHERE {table.name}.{key} = changed.{key}"
    )


def _text(dialect_name: str, statement: ClauseElement, **options: Any) -> str:
    compiled = statement.compile(dialect=_dialect(dialect_name), compile_kwargs=options)
    return str(compiled)


@functools.cache
def _dialect(name: str) -> Dialect:
    # Both drivers take positional parameters: `?` for SQLite, `%s` for psycopg.
    if name == "sqlite":
        return SQLiteDialect_pysqlite(paramstyle="qmark")
    return PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]
