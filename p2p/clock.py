"""Owns the wall clock as an argument: everything that needs the time of day is given a `Clock`."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Gives milliseconds since 1970 (UTC)."""


def system_clock_ms() -> int:
    """The time of day, in milliseconds since 1970 (UTC)."""
    return time.time_ns() // 1_000_000
