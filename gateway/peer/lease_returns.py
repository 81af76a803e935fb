"""Owns the way of leases back to the ledger: parts first, the rest at the end, each until answered.

Theory of operation. A lease that closes is looked at whenever a job in it ends. What has no use any
more is sent back under an ID of its own, which is repeated as it is until the ledger answers; the
last return ends the lease, when no job in it waits for the ledger. A lease whose time is over needs
no return: the ledger's sweep gives the rest back. A lease that the gateway never saw granted (the
answer was lost, or it is of an earlier run) may reach the ledger after its return did: "unknown" is
not the last word about it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import trio

from gateway.limits import (
    LEASE_RETURNS_AT_ONCE,
    LEASE_UNKNOWN_PAUSE_S_MAX,
    LEASE_UNKNOWN_PAUSE_S_MIN,
    SETTLE_RETRY_S_MIN,
)
from gateway.peer.journal import SettlementJournal, hold_of
from gateway.peer.lease_rules import LocalLease
from gateway.peer.ledger_port import PASSING_CODES, LedgerPort, ReturnedLease
from p2p.clock import Clock
from p2p.errors import P2PError, RefusedError

log = logging.getLogger(__name__)
ID_BYTES = 16


@dataclass(eq=False, slots=True)
class _Sending:
    """A closing lease, and what of it is on its way."""

    lease: LocalLease
    document: ReturnedLease | None = None
    again_s: float = float("-inf")
    """Not before (trio's time): the ledger does not know the lease so far."""
    pause_s: float = LEASE_UNKNOWN_PAUSE_S_MIN


class LeaseReturns:
    """Gives leases back. Usable while `run` runs."""

    def __init__(
        self,
        ledger: LedgerPort,
        journal: SettlementJournal,
        *,
        clock_ms: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Begin with the leases of an earlier run."""
        self._ledger = ledger
        self._journal = journal
        self._clock_ms = clock_ms
        self._random_bytes = random_bytes
        self._closing: dict[bytes, _Sending] = {}
        self._wake = trio.Event()
        self._ended = trio.Event()
        self._old = self._read_journal()
        for lease in self._old:
            self.look_at(lease)
        if self._old:
            log.info("%d leases of an earlier run go back", len(self._old))

    def _read_journal(self) -> list[LocalLease]:
        jobs: dict[bytes, list[bytes]] = {}
        for capture in self._journal.owed().values():
            if capture is not None:
                hold_id, lease_id = hold_of(capture)
                if lease_id is not None:
                    jobs.setdefault(lease_id, []).append(hold_id)
        return [
            LocalLease(
                lease_id,
                amount=0,
                signed=None,
                issued_ms=0,
                usable_until_ms=0,
                expires_ms=expires_ms,
                used_s=0.0,
                jobs=dict.fromkeys(jobs.get(lease_id, ()), 0),
                closing=True,
            )
            for lease_id, expires_ms in self._journal.leases().items()
        ]

    @property
    def inherited(self) -> list[LocalLease]:
        """The leases of an earlier run that have not gone back."""
        return [lease for lease in self._old if not lease.ended]

    def look_at(self, lease: LocalLease) -> None:
        """Something about a lease has changed."""
        if lease.closing and not lease.ended:
            self._closing.setdefault(lease.lease_id, _Sending(lease))
            self._wake.set()

    @property
    def under_way(self) -> bool:
        """Whether something is left that can go back now."""
        return any(self._next(sending) for sending in self._closing.values())

    async def wait_done(self) -> None:
        """Wait until nothing is left that could go back now."""
        while self.under_way:
            await self._ended.wait()

    async def run(self) -> None:
        """Give back until cancelled."""
        while True:
            pauses = (sending.again_s for sending in self._closing.values())
            now_s = trio.current_time()
            with trio.move_on_at(min((at_s for at_s in pauses if at_s > now_s), default=inf)):
                await self._wake.wait()
            self._wake = trio.Event()
            while ready := [s for s in self._closing.values() if self._next(s)]:
                answers: list[bool] = []
                async with trio.open_nursery() as nursery:
                    for sending in ready[:LEASE_RETURNS_AT_ONCE]:
                        nursery.start_soon(self._send, sending, answers)
                ended, self._ended = self._ended, trio.Event()
                ended.set()
                if not all(answers):
                    await trio.sleep(SETTLE_RETRY_S_MIN)

    def _next(self, sending: _Sending) -> ReturnedLease | None:
        """What is to be sent now: what had no answer again, or what has become free."""
        if sending.again_s > trio.current_time():
            return None
        if sending.document is not None:
            return sending.document
        lease = sending.lease
        found = lease.next_return()
        if found is None:
            return None
        amount, final = found
        return ReturnedLease(
            self._random_bytes(ID_BYTES),
            lease.lease_id,
            amount,
            final,
            lease.failed,
            lease.client_left,
        )

    async def _send(self, sending: _Sending, answers: list[bool]) -> None:
        lease, document = sending.lease, self._next(sending)
        if document is None:
            return
        if lease.expires_ms <= self._clock_ms():
            self._end(lease)  # the ledger's sweep has given it back
            return
        if sending.document is None:
            sending.document = document
            lease.returned += document.amount
            lease.failed -= document.failed
            lease.client_left -= document.client_left
        try:
            await self._ledger.lease_return(document)
        except RefusedError as error:
            if error.code in PASSING_CODES:
                answers.append(False)
                return
            log.info("lease %s: not returned: %s", lease.lease_id.hex(), error)
            if error.code == "hold_unknown" and lease.signed is None:
                sending.again_s = trio.current_time() + sending.pause_s
                sending.pause_s = min(2 * sending.pause_s, LEASE_UNKNOWN_PAUSE_S_MAX)
                return
        except P2PError as error:
            log.info("lease %s: not returned yet: %s", lease.lease_id.hex(), error)
            answers.append(False)
            return
        sending.document = None
        if document.final:
            self._end(lease)

    def _end(self, lease: LocalLease) -> None:
        lease.ended = True
        self._closing.pop(lease.lease_id, None)
        self._journal.lease_ended(lease.lease_id)
