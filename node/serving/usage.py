"""Owns what one model used of this machine: memory now, and counters over all its runtimes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

from node.agent.runtime_port import ModelCounters
from node.limits import MEMORY_MEASURE_INTERVAL_S
from node.runtime_process import RuntimeProcess
from node.serving.counting import CounterSum
from node.serving.memory import measured_bytes


@dataclass(slots=True)
class ModelUsage:
    """Memory and counters of one model.

    `expected_bytes`: what a load will take: the estimate, or more if more was measured. Never less:
    what a runtime has reserved and not touched yet, it will. `held_bytes`: what counts as taken
    now.
    """

    expected_bytes: int = 0
    held_bytes: int = 0
    _restarts: int = 0
    _measured_at_s: float = -math.inf
    _sums: CounterSum = field(default_factory=CounterSum)

    def expect(self, estimate_bytes: int) -> None:
        """Take an estimate for the next load."""
        self.expected_bytes = max(self.expected_bytes, estimate_bytes)

    def begin(self) -> None:
        """A runtime is there."""
        self._measured_at_s = -math.inf
        self._sums.begin()

    def end(self, process: RuntimeProcess) -> None:
        """It is gone for good."""
        self._restarts += process.restarts

    async def measure(self, process: RuntimeProcess) -> None:
        """Take a runtime's counters, and now and then its memory."""
        self._sums.note(process.stats)
        now_s = trio.current_time()
        if process.pid is None or now_s - self._measured_at_s < MEMORY_MEASURE_INTERVAL_S:
            return
        self._measured_at_s = now_s
        self.expect(await trio.to_thread.run_sync(measured_bytes, process.pid))
        self.held_bytes = self.expected_bytes

    def counters(self, process: RuntimeProcess | None) -> ModelCounters:
        """What was counted, and what is held; `process`: the one that is there."""
        sums = self._sums
        return ModelCounters(
            restarts=self._restarts + (process.restarts if process else 0),
            loads=sums.loads,
            steps=sums.steps,
            prefill_tokens=sums.prefill_tokens,
            cached_tokens=sums.cached_tokens,
            output_tokens=sums.output_tokens,
            memory_bytes=self.held_bytes,
        )
