"""Owns how the values of a criterion are shown to people: the policy's units are for machines."""

from __future__ import annotations

import datetime
from typing import Any

SHARES = frozenset({"uptime", "reputation_min", "share"})
SIZES = frozenset({"memory", "memory_bytes", "memory_bytes_min"})
TIMES = frozenset({"cooldown", "suspension"})
SUFFIXES = {"first_output": " ms", "speed": " tokens/s"}
SHARE_POINTS = 100
GIB = 2**30


def value_text(name: str, value: Any) -> str:
    """Give a value of the criterion (or of the field of one) called `name` in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number_text(name, value)
    if isinstance(value, list | tuple):
        parts = [value_text(name, item) for item in value if item not in ([], (), "", None)]
        return " ".join(parts) or "none"
    if isinstance(value, dict):
        parts = [f"{field}={value_text(field, item)}" for field, item in value.items() if item]
        return " ".join(parts) or "none"
    return "none" if value is None else str(value)


def _number_text(name: str, value: float) -> str:
    if name in SHARES:
        return f"{value / SHARE_POINTS:g}%"
    if name in SIZES:
        return f"{value / GIB:.4g} GiB"
    if name in TIMES:
        return f"until {moment_text(value)}"
    return f"{value:g}{SUFFIXES.get(name, '')}" if value < 10**6 else str(value)


def moment_text(moment_ms: float) -> str:
    """Give a time (milliseconds since 1970) to the minute."""
    try:
        return (
            f"{datetime.datetime.fromtimestamp(moment_ms / 1000, datetime.UTC):%Y-%m-%d %H:%M} UTC"
        )
    except (ValueError, OverflowError, OSError):
        return f"{moment_ms:.0f} ms since 1970"
