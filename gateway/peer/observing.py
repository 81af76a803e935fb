"""Owns what a gateway tells the ledger of how the nodes served a job. Pure.

Theory of operation (`p2p.conduct_messages`). Each attempt that is paid gets what was measured of
it. Those that came to nothing through the node's fault are named beside, with the node's Accept as
proof that it had taken the job. What is the client's, the gateway's or the network configuration's
fault is nobody's failure: a client that left, a deadline of the job, a refusal for a stated rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.peer.attempt import Attempt, Ending
from gateway.peer.billing import Bill
from p2p.conduct_messages import (
    FAILURES_PER_CAPTURE_MAX,
    MEASURED_MS_MAX,
    FailedAttempt,
    LegObservation,
)

FAULTY_REFUSALS = ("runtime",)
"""Refusals that say that the node cannot do what it offers; all others name a rule."""


@dataclass(frozen=True, slots=True)
class Observations:
    """What goes with a capture: one observation for each leg, and the failures beside."""

    legs: tuple[LegObservation, ...] = ()
    failures: tuple[FailedAttempt, ...] = ()


NOTHING_OBSERVED = Observations()


def observe(bill: Bill, attempts: Sequence[Attempt]) -> Observations:
    """Say how the nodes of a job served, in the order of the bill's parts."""
    by_number = {attempt.offer.attempt: attempt for attempt in attempts}
    paid = [part.attempt for part in bill.parts]
    failures = [
        FailedAttempt(attempt.node_id, _code(attempt), attempt.accepted)
        for number, attempt in by_number.items()
        if number not in paid and _at_fault(attempt)
    ]
    return Observations(
        tuple(_leg(by_number[number]) for number in paid),
        tuple(failures[:FAILURES_PER_CAPTURE_MAX]),
    )


def _leg(attempt: Attempt) -> LegObservation:
    first_s = attempt.first_output_s
    if first_s is None:
        return LegObservation(0, 0, _at_fault(attempt))
    return LegObservation(
        max(1, _milliseconds(first_s - attempt.paid_s)),
        _milliseconds(attempt.last_output_s - first_s),
        _at_fault(attempt),
    )


def _milliseconds(seconds: float) -> int:
    return min(MEASURED_MS_MAX, max(0, round(seconds * 1000)))


def _at_fault(attempt: Attempt) -> bool:
    if attempt.blameless:
        return False
    if attempt.refusal is not None:
        return attempt.refusal.code in FAULTY_REFUSALS
    return attempt.ending in (Ending.FAILED, Ending.LOST)


def _code(attempt: Attempt) -> str:
    if attempt.refusal is not None:
        return attempt.refusal.code[:32]
    return Ending.FAILED.value if attempt.ending is None else attempt.ending.value
