"""Owns log lines that strangers can cause: a few at once, then one now and then with a count."""

from __future__ import annotations

import logging

from p2p.token_bucket import TokenBucket

LINES_PER_SECOND = 0.1
LINES_BURST = 10.0


class RareLog:
    """Writes at most LINES_BURST lines at once and LINES_PER_SECOND later; says how many it left
    out."""

    def __init__(
        self, log: logging.Logger, per_second: float = LINES_PER_SECOND, burst: float = LINES_BURST
    ) -> None:
        """Write to this log."""
        self._log = log
        self._per_second, self._burst = per_second, burst
        self._bucket: TokenBucket | None = None
        self._left_out = 0

    def write(self, level: int, now_s: float, text: str, *values: object) -> None:
        """Write a line, or count it. `now_s`: any clock that goes on."""
        if self._bucket is None:
            self._bucket = TokenBucket(self._per_second, self._burst, now_s)
        if not self._bucket.take(now_s):
            self._left_out += 1
            return
        if self._left_out:
            self._log.log(level, "%d lines like the next were left out", self._left_out)
            self._left_out = 0
        self._log.log(level, text, *values)
