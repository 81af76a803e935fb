"""Owns the part of the sweep that ends claims: paid at the end of their hold, or judged before.

Theory of operation. Several processes may sweep one database at the same time. A job's claims are
paid by one transfer, whose ID follows from the hold, so that it happens once. A claim whose job was
settled by its gateway meanwhile is compared with what was settled; whoever closes it (one UPDATE
decides) also records the disagreement against the gateway, with the claim as the proof: it carries
the gateway's own signature over what it had counted as delivered.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable

import trio

from ledger.claim_operations import SettleClaims
from ledger.claims import ClaimState
from ledger.errors import LedgerError
from ledger.limits import CLAIMS_PER_STEP_MAX, REFUSAL_REASON_CHARACTERS_MAX
from ledger.refusals import Refusal
from ledger.store.claim_store import SettledClaim, close_claim, due_claims, judge, settled_claims
from ledger.watch import Run
from p2p.errors import P2PError
from p2p.ledger_messages import TransferResult

log = logging.getLogger(__name__)
CLAIM_DISAGREEMENT = "claim_disagreement"
"""The code under which a gateway that underpaid a node stands among the refusals."""


class ClaimSweep:
    """Ends claims in one process's ledger."""

    def __init__(
        self,
        *,
        read: Run,
        write: Run,
        submit: Callable[[SettleClaims], Awaitable[TransferResult]],
        clock_ms: Callable[[], int],
    ) -> None:
        """Read and write in transactions of their own; `submit` is the ledger's."""
        self._read = read
        self._write = write
        self._submit = submit
        self._clock_ms = clock_ms

    async def settle(self, now_ms: int) -> int:
        """Pay the claims on holds whose time is over at `now_ms`; gives for how many jobs.

        Raises: StorageError.
        """
        count = 0
        before: object = None
        while True:
            due = await self._read(lambda c: due_claims(c, now_ms, CLAIMS_PER_STEP_MAX))
            done: list[TransferResult] = []
            async with trio.open_nursery() as nursery:
                for payer_id, hold_id in due:
                    operation = SettleClaims(payer_id, hold_id, now_ms)
                    nursery.start_soon(self._settle_one, operation, done)
            count += sum(not result.exists for result in done)
            if len(due) < CLAIMS_PER_STEP_MAX or not done or due == before:
                return count
            before = due

    async def _settle_one(self, operation: SettleClaims, results: list[TransferResult]) -> None:
        try:
            result = await self._submit(operation)
        except LedgerError as error:
            log.warning("claims on %s could not be settled: %s", operation.hold_id.hex(), error)
            return
        results.append(result)
        if not result.exists:
            amount, name = result.amount, operation.hold_id.hex()
            log.info("hold %s: its gateway did not settle; claims of %d paid", name, amount)

    async def judge(self) -> int:
        """Close the claims on jobs that their gateways have settled; gives how many underpaid.

        Raises: StorageError.
        """
        settled = await self._read(lambda c: settled_claims(c, CLAIMS_PER_STEP_MAX))
        found = 0
        for one in settled:
            state, reason = _judged(one)
            underpaid = state is ClaimState.UNDERPAID
            refusals = [_refusal(one, reason, self._clock_ms())] if underpaid else []
            # Bound here: it runs in a thread, while this loop waits.
            close = functools.partial(close_claim, settled=one, state=state, refusals=refusals)
            if await self._write(close) and underpaid:
                found += 1
                log.warning("gateway %s underpaid a node: %s", one.gateway_id, reason)
        return found


def _judged(one: SettledClaim) -> tuple[ClaimState, str]:
    try:
        return judge(one)
    except P2PError as error:  # a damaged row: the audit names it, the sweep must not stop
        log.error("a claim on %s cannot be read: %s", one.hold_id.hex(), error)
        return ClaimState.DROPPED, ""


def _refusal(one: SettledClaim, reason: str, now_ms: int) -> Refusal:
    text = reason[:REFUSAL_REASON_CHARACTERS_MAX]
    return Refusal(one.gateway_id, CLAIM_DISAGREEMENT, 1, now_ms, now_ms, text, one.signed)
