"""Owns a mirror's ledger as its process sees it: it reads, and grows by the log alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.operations import Operation
from ledger.store.database import open_engine
from ledger.store.group import Outcome
from ledger.store.mirror.batch import Batch
from ledger.store.mirror.copy import KnownKeys, MirrorCopy
from ledger.store.reader import Query, Reader
from p2p.ledger_messages import TransferResult
from p2p.mirror_messages import MirrorWelcome
from p2p.types import NetworkId

T = TypeVar("T")


class MirrorReadOnlyError(LedgerError):
    """A mirror takes no operations; the message names who does."""

    code = "mirror_reads_only"


class MirrorLedger(Ledger):
    """A ledger that follows another one's log. Usable while `run` runs, from the trio thread."""

    def __init__(
        self,
        url: str,
        network_id: NetworkId,
        *,
        primary: str,
        keys: Callable[[], KnownKeys],
        clock_ms: Callable[[], int],
    ) -> None:
        """Keep the copy in a database of its own.

        Args:
            primary: the address that operations are refused with.
            keys: gives what counts by the network configuration in force.
        """
        super().__init__(url, network_id, clock_ms=clock_ms)
        self._copy_url = url
        self._copy_network = network_id
        self._primary = primary
        self._keys = keys
        self._copy: MirrorCopy | None = None
        self._copy_limiter = trio.CapacityLimiter(1)

    async def run(self, *, task_status: trio.TaskStatus[Ledger] = trio.TASK_STATUS_IGNORED) -> None:
        """Check the whole copy, then serve until cancelled.

        Raises: IntegrityError (the copy is damaged or another network's), StorageError.
        """
        copy = MirrorCopy(self._copy_url, self._copy_network)
        reader = Reader(open_engine(self._copy_url, writer=False))
        changer = Reader(copy.engine)

        async def write(query: Query[T]) -> T:
            return await trio.to_thread.run_sync(changer.run, query, limiter=self._copy_limiter)

        try:
            await self._in_thread(copy.prepare)
            self._copy, self._reader, self._beside = copy, reader, write
            await self._in_thread(lambda: copy.load(self._keys()))
            task_status.started(self)
            await trio.sleep_forever()
        finally:
            self._copy = self._reader = self._beside = None
            copy.close()
            reader.close()

    async def submit(self, operation: Operation) -> TransferResult:
        """Refuse. Raises: MirrorReadOnlyError."""
        raise self._refusal()

    async def submit_all(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Refuse. Raises: MirrorReadOnlyError."""
        raise self._refusal()

    async def adopt(self, welcome: MirrorWelcome) -> None:
        """Take over what the primary says of its log. Raises: IntegrityError, StorageError."""
        copy = self._running()
        await self._in_thread(lambda: copy.adopt(welcome))

    async def apply(self, batch: Batch) -> bool:
        """Check a batch and grow by it (`MirrorCopy.apply`); False if it waits for a later one.

        Raises: LogWrongError, StorageError, IntegrityError.
        """
        copy, keys = self._running(), self._keys()
        return await self._in_thread(lambda: copy.apply(batch, keys))

    async def give_up(self) -> None:
        """Say that nothing follows the batches that wait. Raises: LogWrongError."""
        await self._in_thread(self._running().give_up)

    @property
    def waits(self) -> bool:
        """Whether batches are held back."""
        return self._copy is not None and self._copy.waits

    async def log_size(self) -> int:
        """Give how many leaves the copy has. Raises: StorageError."""
        return await self._in_thread(self._running().size)

    def _running(self) -> MirrorCopy:
        if self._copy is None:
            raise self._refusal()
        return self._copy

    def _refusal(self) -> MirrorReadOnlyError:
        return MirrorReadOnlyError(
            f"this is a mirror of the ledger, it only reads: ask the bootstrap {self._primary}"
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._copy_limiter)
