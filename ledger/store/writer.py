"""Owns the one thread that writes: it groups what is waiting and tells when a group is durable.

Theory of operation. Operations wait in a bounded queue. Whenever the thread is free it takes all of
them (up to GROUP_OPERATIONS_MAX) and applies them in one transaction: an idle ledger commits at
once, a busy one commits what came in during the last commit. Nobody waits on purpose, and nothing
is told to anybody before the commit has returned. `on_done` is called in this thread, once for each
group.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ledger.errors import LedgerBusyError, StorageError
from ledger.limits import GROUP_OPERATIONS_MAX, QUEUE_OPERATIONS_MAX
from ledger.operations import Operation
from ledger.store.group import Outcome, Store

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class Ticket(Generic[T]):
    """An operation that waits, its outcome (None until known), and what its owner waits on."""

    operation: Operation
    owner: T
    outcome: Outcome | None = None


class Writer(Generic[T]):
    """The queue and the loop of the writing thread."""

    def __init__(
        self,
        store: Store,
        *,
        clock_ms: Callable[[], int],
        on_done: Callable[[list[Ticket[T]]], None],
    ) -> None:
        """Apply to `store` at the times of `clock_ms`; report each finished group to `on_done`."""
        self._store = store
        self._clock_ms = clock_ms
        self._on_done = on_done
        self._waiting: deque[Ticket[T]] = deque()
        self._condition = threading.Condition()
        self._stopping = False

    def put(self, ticket: Ticket[T]) -> None:
        """Queue an operation (from any thread).

        Raises: LedgerBusyError if too many are waiting, StorageError if the ledger is closing.
        """
        with self._condition:
            if self._stopping:
                raise StorageError("the ledger is closing")
            if len(self._waiting) >= QUEUE_OPERATIONS_MAX:
                raise LedgerBusyError(f"{QUEUE_OPERATIONS_MAX} ledger operations are waiting")
            self._waiting.append(ticket)
            if len(self._waiting) == 1:
                self._condition.notify()

    def put_all(self, tickets: Sequence[Ticket[T]]) -> None:
        """Queue several operations next to each other: all of them, or none. Raises: as `put`."""
        with self._condition:
            if self._stopping:
                raise StorageError("the ledger is closing")
            if len(self._waiting) + len(tickets) > QUEUE_OPERATIONS_MAX:
                raise LedgerBusyError(f"{QUEUE_OPERATIONS_MAX} ledger operations are waiting")
            self._waiting.extend(tickets)
            self._condition.notify()

    def stop(self) -> None:
        """Take no more; `run` returns when everything that waits is done."""
        with self._condition:
            self._stopping = True
            self._condition.notify()

    def run(self) -> None:
        """Write until `stop` (call this in a thread of its own)."""
        try:
            while group := self._take():
                operations = [ticket.operation for ticket in group]
                outcomes = self._store.apply(operations, self._clock_ms())
                for ticket, outcome in zip(group, outcomes, strict=True):
                    ticket.outcome = outcome
                self._on_done(group)
        finally:
            self._store.close()
            self._fail_all()

    def _take(self) -> list[Ticket[T]]:
        with self._condition:
            while not self._waiting and not self._stopping:
                self._condition.wait()
            count = min(len(self._waiting), GROUP_OPERATIONS_MAX)
            return [self._waiting.popleft() for _ in range(count)]

    def _fail_all(self) -> None:
        """Leave nobody waiting if the loop ended by a defect."""
        with self._condition:
            self._stopping = True
            rest = list(self._waiting)
            self._waiting.clear()
        if rest:
            for ticket in rest:
                ticket.outcome = StorageError("the ledger has stopped")
            self._on_done(rest)
