"""Owns how long loading takes, and what an offer hears that cannot wait for it. Pure."""

from __future__ import annotations

from node.limits import MODEL_LOAD_BYTES_PER_S, MODEL_LOAD_S_MIN
from p2p.errors import RefusedError


def guessed_load_s(size_bytes: int) -> float:
    """How long a model is thought to load that never was; later the last time counts."""
    return MODEL_LOAD_S_MIN + size_bytes / MODEL_LOAD_BYTES_PER_S


def too_slow(name: str, expected_s: float, wait_s: float) -> RefusedError:
    """The refusal of a job whose deadline leaves less time than loading takes."""
    return RefusedError(
        "deadline",
        f"{name} is not loaded: that takes about {expected_s:.1f} s, the deadline leaves "
        f"{wait_s:.1f} s",
        expected_s,
    )
