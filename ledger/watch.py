"""Owns the watch over a ledger's database: the check at a start, the scrub, and halting writes.

Theory of operation. A start checks what was written since the last verified point, or everything if
there is none. While the ledger works, the tail is checked every minute, which moves the point and
keeps the next start short, and every hour the scrub checks every rule over the whole database, one
rule in a transaction at a time so that nobody waits for it. If a rule is broken, writes are halted:
every operation is refused with the IntegrityError that names the rule, the point is taken away, and
the next start checks everything and does not begin. Reading goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import trio

from ledger.errors import IntegrityError, StorageError
from ledger.limits import SCRUB_INTERVAL_S, SCRUB_PAUSE_S, TAIL_INTERVAL_S
from ledger.store.integrity import check_integrity, explain, integrity_steps
from ledger.store.reader import Query
from ledger.store.tail import check_tail, next_point, remember_point, verified_to

log = logging.getLogger(__name__)
T = TypeVar("T")


class Run(Protocol):
    """Runs a query in a transaction of its own, in a thread."""

    def __call__(self, query: Query[T]) -> Awaitable[T]:
        """Raises: StorageError."""


class Watch:
    """Whether one process may write to its ledger."""

    def __init__(self, *, read: Run, write: Run, clock_ms: Callable[[], int]) -> None:
        """Watch a database.

        Args:
            read: reads beside the writer.
            write: changes the verified point.
            clock_ms: milliseconds since 1970.
        """
        self._read = read
        self._write = write
        self._clock_ms = clock_ms
        self._halted: IntegrityError | None = None

    @property
    def is_halted(self) -> bool:
        """Whether writes were halted."""
        return self._halted is not None

    def require_writable(self) -> None:
        """Refuse if writes are halted. Raises: IntegrityError."""
        if self._halted is not None:
            raise IntegrityError(str(self._halted))

    async def check_at_start(self) -> None:
        """Check the tail, or everything if nothing was verified yet.

        Raises: IntegrityError (the point is taken away), StorageError.
        """
        after = await self._read(verified_to)
        if after is None:
            point = await self._next_point()
            await self._read(check_integrity)
            await self._write(lambda c: remember_point(c, point))
            return
        try:
            await self._read(lambda c: check_tail(c, after))
        except IntegrityError:
            await self._forget_point()
            raise

    async def run(self) -> None:
        """Check the tail every minute and everything every hour; return when writes were halted."""
        scrub_at = trio.current_time() + SCRUB_INTERVAL_S
        while not self.is_halted:
            await trio.sleep(TAIL_INTERVAL_S)
            is_due = trio.current_time() >= scrub_at
            if is_due:
                scrub_at = trio.current_time() + SCRUB_INTERVAL_S
            try:
                await (self.scrub() if is_due else self.check_tail())
            except IntegrityError as error:
                log.critical("%s", error)
            except StorageError as error:
                log.warning("the database could not be checked: %s", error)

    async def check_tail(self) -> None:
        """Check what was written since the verified point and move it, or halt writes.

        Raises: IntegrityError, StorageError.
        """
        after = await self._read(verified_to)
        if after is None:  # another process found a broken rule, or a restore brought none
            await self.scrub()
            return
        point = await self._next_point()
        try:
            await self._read(lambda c: check_tail(c, after))
        except IntegrityError as error:
            self._halted = error
            await self._forget_point()
            raise
        if point > after:
            await self._write(lambda c: remember_point(c, point))

    async def scrub(self) -> None:
        """Check every rule over the whole database, and halt writes if one is broken.

        Raises: IntegrityError, StorageError.
        """
        point = await self._next_point()
        problems: list[str] = []
        try:
            for step in integrity_steps():
                found = await self._read(step)
                problems += [found] if found else []
                await trio.sleep(SCRUB_PAUSE_S)
            explain(problems)
        except IntegrityError as error:
            self._halted = error
            await self._forget_point()
            raise
        await self._write(lambda c: remember_point(c, point))

    async def _next_point(self) -> int:
        now_ms = self._clock_ms()
        return await self._read(lambda c: next_point(c, now_ms))

    async def _forget_point(self) -> None:
        try:
            await self._write(lambda c: remember_point(c, None))
        except StorageError as error:
            log.warning("the verified point could not be taken away: %s", error)
