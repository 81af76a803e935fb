"""Owns the command line that starts a runtime process, and how many threads it gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

from node.limits import CONTEXT_TOKENS_DEFAULT, SLOTS_DEFAULT


def runtime_command(
    model: Path,
    *,
    slots: int = SLOTS_DEFAULT,
    context_tokens: int = CONTEXT_TOKENS_DEFAULT,
    threads: int | None = None,
) -> tuple[str, ...]:
    """Give the command line of a runtime; `threads` None takes all physical cores but one."""
    return (
        *(sys.executable, "-P", "-m", "node.runtime", "--model", str(model)),
        *("--slots", str(slots), "--context", str(context_tokens)),
        *("--threads", str(default_thread_count() if threads is None else threads)),
    )


def default_thread_count() -> int:
    """Give the engine's threads.

    Physical cores - 1, at least 1. More threads than free cores spin.
    """
    cores = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed) - 1)
