"""Owns the way of captures to the ledger: one call carries what is waiting, each is judged alone.

A capture that comes while a call is under way waits for the next one; the first goes at once. A
caller that is cancelled leaves its capture in the batch: sending it again later does no harm.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import trio

from gateway.peer.ledger_port import LedgerPort
from p2p.errors import P2PError, RefusedError
from p2p.lease_messages import CaptureOutcome
from p2p.ledger_messages import TransferResult
from p2p.limits import CAPTURES_PER_BATCH_MAX
from p2p.signing import Signed


@dataclass(eq=False, slots=True)
class _Waiting:
    signed: Signed
    outcome: CaptureOutcome | P2PError | None = None
    done: trio.Event = field(default_factory=trio.Event)


class CaptureBatches:
    """Sends captures together. Usable while `run` runs."""

    def __init__(self, ledger: LedgerPort) -> None:
        """Send to this ledger."""
        self._ledger = ledger
        self._waiting: deque[_Waiting] = deque()
        self._wake = trio.Event()

    async def send(self, signed: Signed) -> TransferResult:
        """Send a capture with others.

        Raises: RefusedError (the ledger's word about this one), or the P2PError of the whole call.
        """
        item = _Waiting(signed)
        self._waiting.append(item)
        self._wake.set()
        await item.done.wait()
        match item.outcome:
            case CaptureOutcome(result=TransferResult() as result):
                return result
            case CaptureOutcome(code=code, reason=reason):
                raise RefusedError(code or "internal", reason)
            case P2PError() as error:
                raise error
            case _:
                raise AssertionError("a capture is done without an outcome")

    async def run(self) -> None:
        """Send what waits until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                count = min(len(self._waiting), CAPTURES_PER_BATCH_MAX)
                await self._send([self._waiting.popleft() for _ in range(count)])

    async def _send(self, items: list[_Waiting]) -> None:
        try:
            outcomes = await self._ledger.captures([item.signed for item in items])
            for item, outcome in zip(items, outcomes, strict=True):
                item.outcome = outcome
        except P2PError as error:
            for item in items:
                item.outcome = error
        for item in items:
            item.done.set()
