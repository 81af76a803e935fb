"""Owns what is kept about refused captures: against whom, why, how often, the last one's proof.

Theory of operation. A capture that no honest peer sends (a bad signature, a count above the
receipt, a foreign job, a charge above the hold, an ID used twice) is noted in memory and written
every few seconds, all peers together: somebody who sends many cannot make a durable commit of each.
What was noted and not yet written is lost if the process dies; money never depends on it. There is
one row for each peer and code, and only certified peers can ask, so the table stays small.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from ledger.errors import (
    ChargeError,
    ConflictError,
    HoldClaimedError,
    HoldEndedError,
    HoldForeignError,
    IntegrityError,
    LeaseExhaustedError,
    LedgerError,
    ReceiptError,
    StorageError,
)
from ledger.limits import (
    REFUSAL_EVIDENCE_BYTES_MAX,
    REFUSAL_REASON_CHARACTERS_MAX,
    REFUSAL_WRITE_INTERVAL_S,
    REFUSALS_WAITING_MAX,
)
from p2p.types import PeerId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a peer was refused for, and how often; the last three are about the last time."""

    peer_id: PeerId
    code: str
    times: int
    first_ms: int
    last_ms: int
    reason: str
    evidence: bytes

    def and_then(self, later: Refusal) -> Refusal:
        """Add up with a later one for the same peer and code."""
        return replace(later, times=self.times + later.times, first_ms=self.first_ms)


def is_suspicious(error: LedgerError) -> bool:
    """Tell whether an honest peer would never get this answer to a capture.

    A hold that expired, or that the client's leaving released, is bad luck; capturing a second
    time what was captured is not, because a repetition has the same ID.
    """
    if isinstance(error, HoldEndedError):
        return error.state == "captured"
    suspicious = ReceiptError | ChargeError | HoldForeignError | ConflictError | LeaseExhaustedError
    return isinstance(error, suspicious | HoldClaimedError)


class Refusals:
    """What was noted and is not yet written."""

    def __init__(self, write: Callable[[list[Refusal]], Awaitable[None]]) -> None:
        """Write with this: it adds to what is there."""
        self._write = write
        self._waiting: dict[tuple[str, str], Refusal] = {}

    def note(self, peer_id: PeerId, error: LedgerError, evidence: bytes, now_ms: int) -> None:
        """Note a refusal against a peer.

        Args:
            evidence: the request as the peer signed it.
        """
        reason = str(error)[:REFUSAL_REASON_CHARACTERS_MAX]
        kept = evidence if len(evidence) <= REFUSAL_EVIDENCE_BYTES_MAX else b""
        new = Refusal(peer_id, error.code, 1, now_ms, now_ms, reason, kept)
        key = (peer_id, error.code)
        before = self._waiting.get(key)
        if before is not None:
            self._waiting[key] = before.and_then(new)
            return
        if len(self._waiting) >= REFUSALS_WAITING_MAX:
            return
        self._waiting[key] = new
        log.warning("refused a capture of %s: %s: %s", peer_id, error.code, reason)

    async def run(self) -> None:
        """Write what was noted, every few seconds and a last time at the end."""
        try:
            while True:
                await trio.sleep(REFUSAL_WRITE_INTERVAL_S)
                await self.write_now()
        finally:
            with trio.CancelScope(shield=True):
                await self.write_now()

    async def write_now(self) -> None:
        """Write what was noted; it stays noted if the database fails."""
        taken, self._waiting = self._waiting, {}
        if not taken:
            return
        try:
            await self._write(list(taken.values()))
        except (StorageError, IntegrityError) as error:
            log.warning("%d refusals could not be written: %s", len(taken), error)
            for key, refusal in taken.items():
                later = self._waiting.get(key)
                self._waiting[key] = refusal if later is None else refusal.and_then(later)
