"""Owns the ledger's database work: load what a group needs, decide, write it, commit.

Theory of operation. One call of `apply` is one transaction for a whole group. It reads every record
that the group names (with row locks on PostgreSQL, always in the same order: grants, accounts,
holds, keys, namespaces; within each by key, so that processes cannot lock each other out), lets the
pure rules decide one operation after the other in memory, and writes new and changed rows in bulk.
An operation that breaks a rule fails alone. What is returned is durable: the commit has returned.

If PostgreSQL aborts a group (deadlock, two processes inserting one ID) it is done again from the
start: then the winner's rows are seen. If the database refuses a group for a reason that may lie in
one operation, each is tried by itself. If the commit fails (a full disk, a sync that fails, a lost
server), every operation gets StorageError and nothing is acknowledged, whatever became of it: after
a failed sync a second look may find in memory what is not on the disk. Who asks again with the same
ID learns of it by a commit that succeeded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ledger.book import Book
from ledger.conduct import note_conduct
from ledger.errors import LedgerError, RequestError, StorageError
from ledger.limits import GROUP_ATTEMPTS_MAX
from ledger.operations import CaptureHold, CaptureLeased, Operation
from ledger.rules import decide
from ledger.store.database import plain_message
from ledger.store.loading import load_book
from ledger.store.writing import write_book
from p2p.ledger_messages import TransferResult

log = logging.getLogger(__name__)
Outcome = TransferResult | LedgerError

_AGAIN = frozenset({"40001", "40P01", "23505"})
"""PostgreSQL: serialization failure, deadlock, unique violation (another process was first)."""


class _WholeGroupError(Exception):
    """Beginning or committing failed, which does not lie in any one operation."""

    def __init__(self, error: SQLAlchemyError) -> None:
        super().__init__(plain_message(error))


class Store:
    """Applies groups of operations to one database. Used by one thread."""

    def __init__(self, engine: Engine) -> None:
        """Write through this engine (`ledger.store.database.open_engine(writer=True)`)."""
        self._engine = engine
        self._connection: Connection | None = None

    def apply(self, operations: Sequence[Operation], now_ms: int) -> list[Outcome]:
        """Apply a group in one transaction; give each operation's result or error, in order.

        Everything that is not an error is durable when this returns.
        """
        for _ in range(GROUP_ATTEMPTS_MAX):
            try:
                return self._transaction(operations, now_ms)
            except _WholeGroupError as error:
                self.close()
                log.error("no commit of %d operations: %s", len(operations), error)
                return [StorageError(f"the database failed: {error}") for _ in operations]
            except DBAPIError as error:
                self.close()
                if getattr(error.orig, "sqlstate", None) in _AGAIN:
                    continue
                return self._one_by_one(operations, now_ms, error)
            except SQLAlchemyError as error:
                self.close()
                return self._one_by_one(operations, now_ms, error)
            except Exception:
                # A defect in one operation's way to the database must not stop the others, nor end
                # the writer: nothing of the group was written.
                self.close()
                log.exception("a group of %d operations failed", len(operations))
                if len(operations) > 1:
                    return [self.apply([operation], now_ms)[0] for operation in operations]
                return [StorageError("an internal error; it is in the log")]
        if len(operations) > 1:  # one of them may be what fails every time
            return [self.apply([operation], now_ms)[0] for operation in operations]
        return [StorageError("other processes were always faster, try again") for _ in operations]

    def close(self) -> None:
        """Give the connection up; the next group opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except SQLAlchemyError:
                log.debug("a broken connection could not be closed", exc_info=True)

    def _one_by_one(
        self, operations: Sequence[Operation], now_ms: int, error: SQLAlchemyError
    ) -> list[Outcome]:
        reason = plain_message(error)
        log.error("the ledger's database refused %d operations: %s", len(operations), reason)
        if len(operations) == 1 or getattr(error, "connection_invalidated", False):
            return [StorageError(f"the database failed: {reason}") for _ in operations]
        return [self.apply([operation], now_ms)[0] for operation in operations]

    def _transaction(self, operations: Sequence[Operation], now_ms: int) -> list[Outcome]:
        at_work = False
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                at_work = True
                book = load_book(self._connection, operations, now_ms)
                outcomes = [_decide(book, operation, now_ms) for operation in operations]
                write_book(self._connection, book)
                at_work = False
        except SQLAlchemyError as error:
            sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
            if at_work or sqlstate in _AGAIN:
                raise
            raise _WholeGroupError(error) from error
        return outcomes


def _decide(book: Book, operation: Operation, now_ms: int) -> Outcome:
    try:
        change = decide(book, operation, now_ms)
    except RequestError as error:
        return error.with_traceback(None)
    except Exception:
        # Deciding touches nothing, so a defect in one operation's rule must not stop the others.
        log.exception("deciding a %s failed", type(operation).__name__)
        return StorageError("an internal error; it is in the log")
    book.apply(change)
    if isinstance(operation, CaptureHold | CaptureLeased) and change.transfer is not None:
        note_conduct(book, operation, now_ms)
    return change.result
