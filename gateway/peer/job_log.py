"""Owns the line that the log has for each job: numbers only, never what was asked or answered."""

from __future__ import annotations

import logging

from gateway.peer.billing import Bill
from gateway.peer.charging import JobOutcome

log = logging.getLogger("gateway.jobs")
_LINE = "job=%s model=%s outcome=%s finish=%s attempts=%d input=%d output=%d charged=%d ms=%d"


def log_job(
    job_id: bytes,
    model: str,
    outcome: JobOutcome,
    finish_reason: str,
    attempts: int,
    bill: Bill | None,
    took_s: float,
) -> None:
    """Log how a job ended; `bill` is None if nobody was found to pay for it."""
    if not log.isEnabledFor(logging.INFO):
        return
    arguments = (
        job_id.hex(),
        model,
        outcome.value,
        finish_reason or "-",
        attempts,
        bill.input_tokens if bill is not None else 0,
        bill.output_tokens if bill is not None else 0,
        bill.amount if bill is not None else 0,
        int(took_s * 1000),
    )
    # Made by hand: logging's search for the caller costs more than the line.
    log.handle(log.makeRecord(log.name, logging.INFO, "", 0, _LINE, arguments, None))
