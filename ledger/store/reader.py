"""Owns reading beside the writer: one query, one transaction, foreign errors mapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ledger.store.database import as_ledger_error

T = TypeVar("T")
Query = Callable[[Connection], T]
"""Reads what it wants from a connection (`ledger.store.queries`)."""


class Reader:
    """Runs queries on one database; from any thread."""

    def __init__(self, engine: Engine) -> None:
        """Read through this engine (`ledger.store.database.open_engine(writer=False)`)."""
        self._engine = engine

    def run(self, query: Query[T]) -> T:
        """Run a query in a transaction of its own. Raises: StorageError, IntegrityError."""
        try:
            with self._engine.begin() as connection:
                return query(connection)
        except SQLAlchemyError as error:
            raise as_ledger_error(error) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
