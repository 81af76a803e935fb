"""Owns what the agent learns from the jobs that ended: how long answers are, how fast input is
read."""

from __future__ import annotations

from dataclasses import dataclass

PREFILL_TOKENS_MIN = 64
"""A shorter input is read within one step: that says nothing of the speed."""
WEIGHT = 0.2
"""Of the latest job: about the last ten count."""


@dataclass(slots=True)
class JobPace:
    """Moving means over the jobs of one model; 0: nothing is known yet."""

    output_tokens: float = 0.0
    prefill_tokens_per_s: float = 0.0

    def note_answer(self, output_tokens: int) -> None:
        """A job ended after so many tokens."""
        self.output_tokens = _mean(self.output_tokens, max(1.0, float(output_tokens)))

    def note_prefill(self, input_tokens: int, took_s: float) -> None:
        """A job that did not wait for a slot had its first output so long after it began."""
        if input_tokens >= PREFILL_TOKENS_MIN and took_s > 0:
            self.prefill_tokens_per_s = _mean(self.prefill_tokens_per_s, input_tokens / took_s)

    def prefill_s(self, input_tokens: int) -> float:
        """How long reading so much input will take; 0 if nothing is known."""
        return input_tokens / self.prefill_tokens_per_s if self.prefill_tokens_per_s else 0.0


def _mean(old: float, new: float) -> float:
    return new if not old else old + WEIGHT * (new - old)
