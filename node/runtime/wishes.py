"""Owns what the agent asks of a runtime that is to be opened, and the rule of its mode. Pure.

Two modes. `reproducible`: micro-batches of 32 rows and a cache of its own for each sequence; what a
job answers does not depend on what else is computed. `throughput`: micro-batches of 512 rows and
one cache that all sequences share: prompts are read faster, and an answer may differ with the
company it was computed in. `auto` is reproducible on a CPU and throughput on a GPU, where small
micro-batches cost most (and where nothing was measured: docs/explanation/reproducible-answers.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from node.limits import (
    MODES,
    REPRODUCIBLE,
    REPRODUCIBLE_UBATCH_TOKENS,
    THROUGHPUT,
    THROUGHPUT_UBATCH_TOKENS,
)


@dataclass(frozen=True, slots=True)
class EngineWishes:
    """What the operator decided; None leaves it to the runtime, which measures.

    Attributes:
        context_tokens: caps the model's own context.
        mode: `auto`, `reproducible` or `throughput`.
        gpu_layers: layers of the model on GPUs; None: as many as fit.
        cache_bytes_max: memory for the caches of slots that the runtime decides; never more than
            half of what is free.
        remembered: file in which measured step costs are kept, or none.
        model_key: names the model in that file (its digest).
    """

    path: str
    context_tokens: int
    slots: int | None = None
    threads: int | None = None
    mode: str = "auto"
    gpu_layers: int | None = None
    cache_bytes_max: int | None = None
    remembered: str | None = None
    model_key: str = ""


def mode_of(wanted: str, gpu_layers: int) -> str:
    """Give the mode to run in, with so many layers on GPUs."""
    assert wanted in MODES, wanted
    if wanted == "auto":
        return THROUGHPUT if gpu_layers else REPRODUCIBLE
    return wanted


def ubatch_tokens_of(mode: str) -> int:
    """Rows of a micro-batch in a mode."""
    return REPRODUCIBLE_UBATCH_TOKENS if mode == REPRODUCIBLE else THROUGHPUT_UBATCH_TOKENS
