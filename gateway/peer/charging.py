"""Owns the charging table of DOMAIN.md: what of a job's output is chargeable, attempt by attempt.
Pure.

| outcome                    | streaming                | not streaming                            |
|----------------------------|--------------------------|------------------------------------------|
| complete                   | input + output           | input + output                           |
| client leaves or cancels   | input + what was written | input + what was generated up to then    |
| node lost, continued       | input once + written     | complete answer; each node its own part  |
| failed after output began  | input + what was written | nothing                                  |
| failed or refused before   | nothing                  | nothing                                  |

Input is charged once, with the first attempt that has something chargeable. A complete answer
without any output is charged its input. Whatever ended without a chargeable token otherwise is
charged nothing."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class JobOutcome(enum.StrEnum):
    """How a job ended."""

    COMPLETE = "complete"
    CLIENT_LEFT = "client_left"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Produced:
    """What one attempt produced and the gateway took over, in the order of the attempts."""

    attempt: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Charged:
    """What one attempt is paid for; `cached_input_tokens` of the input cost less."""

    attempt: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


def chargeable(
    outcome: JobOutcome, *, streaming: bool, produced: Sequence[Produced], written_tokens: int
) -> tuple[Charged, ...]:
    """Say what each attempt may charge; attempts with nothing to charge are left out.

    Args:
        produced: the attempts in order; their outputs follow each other without a gap.
        written_tokens: tokens of the whole job that were written to the client (streaming only).
    """
    delivered = _delivered_tokens(outcome, streaming, produced, written_tokens)
    charged: list[Charged] = []
    for part in produced:
        own = min(part.output_tokens, delivered)
        delivered -= own
        if own:
            charged.append(_charged(part, own, with_input=not charged))
    if not charged and outcome is JobOutcome.COMPLETE and produced:
        charged.append(_charged(produced[-1], 0, with_input=True))
    return tuple(charged)


def _charged(part: Produced, output_tokens: int, *, with_input: bool) -> Charged:
    if not with_input:
        return Charged(part.attempt, 0, output_tokens)
    return Charged(part.attempt, part.input_tokens, output_tokens, part.cached_input_tokens)


def _delivered_tokens(
    outcome: JobOutcome, streaming: bool, produced: Sequence[Produced], written_tokens: int
) -> int:
    generated = sum(part.output_tokens for part in produced)
    if streaming:
        return min(written_tokens, generated)
    return 0 if outcome is JobOutcome.FAILED else generated
