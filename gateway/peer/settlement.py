"""Owns settlement: captures and releases reach the ledger, sooner or later, exactly once.

Theory of operation. A capture is signed, written to the journal and sent. If the ledger does not
answer it is sent again, with growing pauses, until the ledger says something final: done, or a
refusal (the hold expired, a receipt is not acceptable). Its ID makes repeating harmless. Each hold
is journalled before it is asked for, and while a job streams the capture that would be owed at
that moment, every two seconds, so that a gateway that is killed settles what it had delivered, and
releases the rest, when it is started again. Captures travel together (`capture_batches`), those out
of leases with the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from gateway.limits import (
    SETTLE_AT_ONCE_MAX,
    SETTLE_BATCH_S,
    SETTLE_RETRY_S_MAX,
    SETTLE_RETRY_S_MIN,
    SETTLE_WAITING_MAX,
)
from gateway.peer.capture_batches import CaptureBatches
from gateway.peer.journal import SettlementJournal
from gateway.peer.ledger_port import PASSING_CODES, LedgerPort
from gateway.peer.observing import NOTHING_OBSERVED, Observations
from ledger.usage import FAILED
from p2p.clock import Clock
from p2p.errors import P2PError, RefusedError
from p2p.lease_messages import LeasedCapture
from p2p.ledger_messages import CaptureLeg, CaptureRequest
from p2p.signing import KeyPair, Signed
from p2p.types import NetworkId

log = logging.getLogger(__name__)


class Settlement:
    """Sends captures and releases; keeps what could not be sent."""

    def __init__(
        self,
        ledger: LedgerPort,
        journal: SettlementJournal,
        key_pair: KeyPair,
        network: NetworkId,
        *,
        clock_ms: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Begin with what the journal says is owed from before."""
        self._ledger = ledger
        self._batches = CaptureBatches(ledger)
        self._journal = journal
        self._key_pair = key_pair
        self._network = network
        self._clock_ms = clock_ms
        self._random_bytes = random_bytes
        self._waiting: dict[bytes, Signed | None] = dict(journal.owed())
        self._wake = trio.Event()
        self._turn_wanted = trio.Event()
        self._turn = trio.Event()
        self._line_waits = trio.Event()
        journal.on_line = lambda: self._line_waits.set()
        self.on_settled: Callable[[bytes], None] = lambda hold_id: None
        """Called with each hold about which the ledger has given its last word."""
        if self._waiting:
            log.info("%d holds of an earlier run are not settled yet", len(self._waiting))

    @property
    def waiting(self) -> int:
        """How many settlements wait for the ledger."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether so many wait that new jobs should be refused."""
        return len(self._waiting) >= SETTLE_WAITING_MAX

    def journal_hold(self, hold_id: bytes) -> None:
        """Note a hold that is about to be asked for."""
        self._journal.held(hold_id)

    def never_held(self, hold_id: bytes) -> None:
        """The ledger refused to hold: there is nothing to settle."""
        self._journal.settled(hold_id)

    def journal_running(
        self,
        hold_id: bytes,
        legs: Sequence[CaptureLeg],
        leased: Signed | None = None,
        observed: Observations = NOTHING_OBSERVED,
    ) -> None:
        """Note what would be captured if the gateway ended now."""
        # Who is there at the next start did not see the answer to its end.
        self._journal.owe(hold_id, self._request(hold_id, legs, FAILED, leased, observed))

    def owe(
        self,
        hold_id: bytes,
        legs: Sequence[CaptureLeg],
        outcome: str = "",
        leased: Signed | None = None,
        observed: Observations = NOTHING_OBSERVED,
    ) -> Signed:
        """Sign and journal the capture by these legs. Returns: what `capture` is to send.

        Args:
            outcome: how the job ended (`ledger.usage.OUTCOMES`), for the payer's statistics.
            leased: the LeasedHold, if the job is paid from a lease.
            observed: how the nodes served.
        """
        signed = self._request(hold_id, legs, outcome, leased, observed)
        self._journal.owe(hold_id, signed)
        return signed

    async def capture(self, hold_id: bytes, signed: Signed) -> None:
        """Settle a hold by what `owe` gave; returns when the ledger answered, or leaves it to
        `run`."""
        if not await self._try(hold_id, signed):
            self._later(hold_id, signed)

    async def release(self, hold_id: bytes, outcome: str = "") -> None:
        """Give a whole hold back; returns when the ledger answered, or leaves it to `run`."""
        if not await self._try(hold_id, None, outcome):
            self._later(hold_id, None)

    async def wait_turn(self) -> None:
        """Wait until finished jobs are settled: those of SETTLE_BATCH_S go together.

        What they say to the ledger and to a node then travels in one frame, which costs the same.
        """
        self._turn_wanted.set()
        await self._turn.wait()

    async def _give_turns(self) -> None:
        while True:
            await self._turn_wanted.wait()
            await trio.sleep(SETTLE_BATCH_S)
            turn, self._turn, self._turn_wanted = self._turn, trio.Event(), trio.Event()
            turn.set()

    async def _write_journal(self) -> None:
        while True:
            await self._line_waits.wait()
            self._line_waits = trio.Event()
            self._journal.flush()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Give turns, and repeat what could not be sent, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_turns)
            nursery.start_soon(self._batches.run)
            nursery.start_soon(self._write_journal)
            task_status.started()
            await self._repeat_for_ever()

    async def _repeat_for_ever(self) -> None:
        pause_s = SETTLE_RETRY_S_MIN
        while True:
            if not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
                pause_s = SETTLE_RETRY_S_MIN
            if await self._repeat():
                pause_s = SETTLE_RETRY_S_MIN
            else:
                await trio.sleep(pause_s)
                pause_s = min(SETTLE_RETRY_S_MAX, pause_s * 2)

    async def _repeat(self) -> bool:
        """Go through what waits, some at once; stop if one gets no answer. True if all got one."""
        answered = True

        async def repeat(hold_id: bytes, signed: Signed | None) -> None:
            nonlocal answered
            if await self._try(hold_id, signed):
                self._waiting.pop(hold_id, None)
            else:
                answered = False

        items = list(self._waiting.items())
        for start in range(0, len(items), SETTLE_AT_ONCE_MAX):
            async with trio.open_nursery() as nursery:
                for item in items[start : start + SETTLE_AT_ONCE_MAX]:
                    nursery.start_soon(repeat, *item)
            if not answered:
                return False
        return True

    def _later(self, hold_id: bytes, signed: Signed | None) -> None:
        if signed is None and self.is_full:
            return  # the hold will expire by itself
        self._waiting[hold_id] = signed
        self._wake.set()

    async def _try(self, hold_id: bytes, signed: Signed | None, outcome: str = "") -> bool:
        """Send once. Returns: whether the ledger has given its last word."""
        try:
            if signed is None:
                await self._ledger.release(hold_id, outcome)
            else:
                await self._batches.send(signed)
        except RefusedError as error:
            if error.code in PASSING_CODES:
                return False
            # A hold that never came to be cannot be released; a refused capture is lost pay.
            level = logging.INFO if signed is None else logging.ERROR
            log.log(level, "hold %s: the ledger refused to settle: %s", hold_id.hex(), error)
        except P2PError as error:
            log.warning("hold %s: not settled yet: %s", hold_id.hex(), error)
            return False
        self._journal.settled(hold_id)
        self.on_settled(hold_id)
        return True

    def _request(
        self,
        hold_id: bytes,
        legs: Sequence[CaptureLeg],
        outcome: str,
        leased: Signed | None,
        observed: Observations,
    ) -> Signed:
        seen, failures = observed.legs, observed.failures
        if leased is not None:
            now_ms = self._clock_ms()
            capture = LeasedCapture(leased, tuple(legs), now_ms, outcome, seen, failures)
            return self._key_pair.sign(self._network, capture)
        request = CaptureRequest(
            capture_id=self._random_bytes(16),
            hold_id=hold_id,
            legs=tuple(legs),
            issued_ms=self._clock_ms(),
            outcome=outcome,
            observed=seen,
            failures=failures,
        )
        return self._key_pair.sign(self._network, request)
