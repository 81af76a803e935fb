"""Owns the sums of what a model's runtimes did, over restarts and loads."""

from __future__ import annotations

from dataclasses import dataclass, field

from node.runtime_messages import Stats

_NOTHING = Stats(0, 0, 0, 0.0, 0, 0, 0)


@dataclass(slots=True)
class CounterSum:
    """Adds up the counters of runtimes, each of which begins at nothing."""

    loads: int = 0
    steps: int = 0
    prefill_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    _latest: Stats = field(default_factory=lambda: _NOTHING)

    def note(self, stats: Stats) -> None:
        """Take the latest counters of the runtime that is there now."""
        before = self._latest if stats.steps >= self._latest.steps else _NOTHING
        self.steps += stats.steps - before.steps
        self.prefill_tokens += stats.prefill_tokens - before.prefill_tokens
        self.cached_tokens += stats.cached_tokens - before.cached_tokens
        self.output_tokens += stats.output_tokens - before.output_tokens
        self._latest = stats

    def begin(self) -> None:
        """Another runtime was loaded."""
        self.loads += 1
        self._latest = _NOTHING
