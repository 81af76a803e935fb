"""Owns the measurement of what a step of a loaded model costs, by sequences and by threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import llama_cpp

from node.errors import ModelFileError
from node.limits import MEASURE_S_MAX
from node.runtime.llama.batch import Batch
from node.runtime.llama.library import new_context
from node.runtime.model import Chunk
from node.runtime.pacing import BATCHES, THREADS_BATCH, choose_threads
from node.runtime.remembered_costs import MeasuredCosts

CACHE_POSITIONS = 256
"""Cells of each sequence of the context that is only for measuring (llama.cpp has no fewer)."""
_REPEATS = 3


def measure_costs(
    model: Any, ubatch_tokens: int, threads: Sequence[int], sequences_max: int
) -> MeasuredCosts:
    """Measure steps of more and more sequences, for about a second (blocks).

    A slow model is measured at few sequences only, but always at one; so is one for whose caches
    there is little memory (`sequences_max` of CACHE_POSITIONS each).
    Raises: ModelFileError if the model cannot be computed at all.
    """
    most = max(count for count in BATCHES if count <= max(1, sequences_max))
    context = new_context(
        model,
        slots=most,
        context_tokens=CACHE_POSITIONS,
        batch_tokens=most,
        ubatch_tokens=ubatch_tokens,
        threads=threads[-1],
    )
    try:
        return _Steps(context, most).measure(threads)
    finally:
        llama_cpp.llama_free(context)


class _Steps:
    def __init__(self, context: Any, most: int) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._batch = Batch(most)
        self._most = most
        self._started_s = time.perf_counter()

    def measure(self, threads: Sequence[int]) -> MeasuredCosts:
        self._step_s(1)  # the first one maps the file and makes buffers
        chosen = threads[-1]
        if len(threads) > 1:
            by_threads = {}
            for count in reversed(threads):
                llama_cpp.llama_set_n_threads(self._context, count, count)
                by_threads[count] = self._best_s(min(THREADS_BATCH, self._most))
                if self._late(2):
                    break
            chosen = choose_threads(by_threads)
            llama_cpp.llama_set_n_threads(self._context, chosen, chosen)
        costs_s: dict[int, float] = {}
        for count in BATCHES:
            if count > self._most:
                break
            costs_s[count] = self._best_s(count)
            if self._late(1):
                break
        return MeasuredCosts(chosen, costs_s)

    def _late(self, parts: int) -> bool:
        return time.perf_counter() - self._started_s > MEASURE_S_MAX / parts

    def _best_s(self, sequences: int) -> float:
        """The quickest of some steps: others on this machine can only make one slower."""
        best_s = self._step_s(sequences)
        for _ in range(_REPEATS - 1):
            if self._late(1):
                break
            best_s = min(best_s, self._step_s(sequences))
        return best_s

    def _step_s(self, sequences: int) -> float:
        for sequence in range(sequences):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._batch.fill([Chunk(sequence, 0, (1,), True) for sequence in range(sequences)])
        started_s = time.perf_counter()
        code = llama_cpp.llama_decode(self._context, self._batch.batch)
        llama_cpp.llama_synchronize(self._context)
        if code:
            raise ModelFileError(f"the model failed to compute a step (llama_decode: {code})")
        return time.perf_counter() - started_s
