"""Owns the ledger as the rest of a process sees it: submit an operation, read, sweep.

Theory of operation. `run` opens and checks the database, starts the writing thread, the sweep and
the scrub (`ledger.watch`). `submit` queues an operation and waits until the group that carries it
is durable; the writing thread wakes the trio side once for each group. A task that is cancelled
while it waits does not know whether its operation was done: it asks again with the same ID.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import trio

from ledger.claim_sweep import ClaimSweep
from ledger.errors import LedgerError, StorageError
from ledger.limits import READERS_MAX, SWEEP_HOLDS_MAX, SWEEP_INTERVAL_S
from ledger.operations import BindNode, ExpireHold, Operation
from ledger.refusals import Refusal, Refusals, is_suspicious
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import expired_holds
from ledger.store.reader import Query, Reader
from ledger.store.refusal_store import add_refusals
from ledger.store.writer import Ticket, Writer
from ledger.watch import Watch
from p2p.ledger_messages import TransferResult
from p2p.types import AccountId, NetworkId, PeerId

log = logging.getLogger(__name__)
T = TypeVar("T")


class Ledger:
    """One process's ledger. Usable while `run` runs, from the trio thread."""

    def __init__(
        self,
        url: str,
        network_id: NetworkId,
        *,
        clock_ms: Callable[[], int],
        sweep_interval_s: float = SWEEP_INTERVAL_S,
    ) -> None:
        """Keep the ledger of a network in a database.

        Args:
            url: `sqlite:///<path>` or `postgresql+psycopg://...`.
            clock_ms: milliseconds since 1970 (called in the writing thread too).
            sweep_interval_s: seconds between two looks for expired holds.
        """
        self._url = url
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._sweep_interval_s = sweep_interval_s
        self._reader: Reader | None = None
        self._writer: Writer[trio.Event] | None = None
        self._watch: Watch | None = None
        self._refusals: Refusals | None = None
        self._claims: ClaimSweep | None = None
        self._beside: Callable[[Query[Any]], Awaitable[Any]] | None = None
        self._reader_limiter = trio.CapacityLimiter(READERS_MAX)

    async def run(self, *, task_status: trio.TaskStatus[Ledger] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; what was queued before is finished first.

        Raises: IntegrityError (the database breaks a rule or is another network's), StorageError.
        """
        engine = open_engine(self._url, writer=True)
        reader = Reader(open_engine(self._url, writer=False))
        try:
            await trio.to_thread.run_sync(prepare, engine, self._network_id)
            self._reader = reader
            self._watch = self._make_watch(Reader(engine))
            await self._watch.check_at_start()
            await self._serve(Store(engine), task_status)
        finally:
            self._writer = self._reader = self._watch = None
            engine.dispose()
            reader.close()

    def _make_watch(self, changer: Reader) -> Watch:
        limiter = trio.CapacityLimiter(1)

        async def write(query: Query[T]) -> T:
            return await trio.to_thread.run_sync(changer.run, query, limiter=limiter)

        async def write_refusals(refusals: list[Refusal]) -> None:
            await write(lambda c: add_refusals(c, refusals))

        self._beside = write
        self._refusals = Refusals(write_refusals)
        self._claims = ClaimSweep(
            read=self.read, write=write, submit=self.submit, clock_ms=self._clock_ms
        )
        return Watch(read=self.read, write=write, clock_ms=self._clock_ms)

    async def _serve(self, store: Store, task_status: trio.TaskStatus[Ledger]) -> None:
        token = trio.lowlevel.current_trio_token()

        def wake(tickets: list[Ticket[trio.Event]]) -> None:
            try:
                token.run_sync_soon(_set_all, tickets)
            except trio.RunFinishedError:
                log.debug("%d ledger operations ended after the program", len(tickets))

        writer = Writer(store, clock_ms=self._clock_ms, on_done=wake)
        async with trio.open_nursery() as nursery:
            # Not abandoned on cancel: the nursery waits until the last group is committed.
            nursery.start_soon(_run_in_thread, writer.run)
            try:
                self._writer = writer
                assert self._watch is not None
                assert self._refusals is not None
                nursery.start_soon(self._watch.run)
                nursery.start_soon(self._refusals.run)
                task_status.started(self)
                await self._sweep_forever()
            finally:
                writer.stop()

    async def submit(self, operation: Operation) -> TransferResult:
        """Do an operation; returns when it is durable.

        Raises: RequestError (it breaks a rule), LedgerBusyError, StorageError (outcome unknown),
            IntegrityError (writes are halted).
        """
        if self._writer is None or self._watch is None:
            raise StorageError("the ledger is not running")
        self._watch.require_writable()
        ticket = Ticket(operation, trio.Event())
        self._writer.put(ticket)
        await ticket.owner.wait()
        outcome = ticket.outcome
        assert outcome is not None
        if isinstance(outcome, LedgerError):
            raise outcome
        return outcome

    async def submit_all(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Do several operations, each judged by itself, in one transaction if they fit into one.

        Returns: each one's result or error, in order; what is not an error is durable.
        Raises: LedgerBusyError, StorageError, IntegrityError (none of them was taken).
        """
        if self._writer is None or self._watch is None:
            raise StorageError("the ledger is not running")
        self._watch.require_writable()
        tickets = [Ticket(operation, trio.Event()) for operation in operations]
        self._writer.put_all(tickets)
        outcomes: list[Outcome] = []
        for ticket in tickets:
            await ticket.owner.wait()
            assert ticket.outcome is not None
            outcomes.append(ticket.outcome)
        return outcomes

    async def bind_node(self, peer_id: PeerId, account_id: AccountId) -> None:
        """Say whose earnings a node's work pays from now on (admission calls this).

        Raises: ValueRefusedError, LedgerBusyError, StorageError.
        """
        await self.submit(BindNode(peer_id, account_id))

    async def read(self, query: Query[T]) -> T:
        """Run a query (`ledger.store.queries`) in a transaction of its own, in a thread.

        Raises: StorageError.
        """
        if self._reader is None:
            raise StorageError("the ledger is not running")
        return await trio.to_thread.run_sync(self._reader.run, query, limiter=self._reader_limiter)

    async def change_beside(self, query: Query[T]) -> T:
        """Change tables that nothing is decided by (alarms, cosignatures), in a transaction.

        Raises: StorageError, and what the query raises.
        """
        if self._beside is None:
            raise StorageError("the ledger is not running")
        found: T = await self._beside(query)
        return found

    async def check_integrity(self) -> None:
        """Check the whole database. Raises: IntegrityError, StorageError."""
        await self.read(check_integrity)

    async def scrub(self) -> None:
        """Check the whole database now, and halt writes if it breaks a rule.

        Raises: IntegrityError, StorageError.
        """
        if self._watch is None:
            raise StorageError("the ledger is not running")
        await self._watch.scrub()

    def note_refusal(self, peer_id: PeerId, error: LedgerError, evidence: bytes) -> None:
        """Keep it against a peer, if what it asked for is what no honest peer asks for.

        Args:
            evidence: the request as the peer signed it.
        """
        if self._refusals is not None and is_suspicious(error):
            self._refusals.note(peer_id, error, evidence, self._clock_ms())

    async def expire_holds(self, now_ms: int) -> int:
        """End the holds whose time is over at `now_ms`; gives how many this process ended.

        Claims of nodes on them are paid first. Several processes may do this at the same time: each
        hold ends once.
        """
        ended = 0
        if self._claims is not None:
            ended += await self._claims.settle(now_ms)
            await self._claims.judge()
        while True:
            due = await self.read(lambda c: expired_holds(c, now_ms, SWEEP_HOLDS_MAX))
            results: list[TransferResult] = []
            async with trio.open_nursery() as nursery:
                for hold_id in due:
                    nursery.start_soon(self._expire_one, hold_id, now_ms, results)
            ended += sum(not result.exists for result in results)
            if len(due) < SWEEP_HOLDS_MAX or not results:
                return ended

    async def _expire_one(self, hold_id: bytes, now_ms: int, results: list[TransferResult]) -> None:
        try:
            results.append(await self.submit(ExpireHold(hold_id, now_ms)))
        except LedgerError as error:
            log.warning("hold %s could not be expired: %s", hold_id.hex(), error)

    async def _sweep_forever(self) -> None:
        while True:
            await trio.sleep(self._sweep_interval_s)
            if self._watch is not None and self._watch.is_halted:
                continue
            try:
                count = await self.expire_holds(self._clock_ms())
            except StorageError as error:
                log.warning("no sweep of expired holds: %s", error)
                continue
            if count:
                log.info("%d holds expired", count)


async def _run_in_thread(work: Callable[[], None]) -> None:
    # A limiter of its own: this thread lives as long as the ledger and takes nobody's place.
    await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))


def _set_all(tickets: list[Ticket[trio.Event]]) -> None:
    for ticket in tickets:
        ticket.owner.set()
