"""Owns the token bucket: how often something may happen. Pure, the time is an argument."""

from __future__ import annotations


class TokenBucket:
    """Allows `rate_per_s` on average and `burst` at once."""

    __slots__ = ("_burst", "_rate_per_s", "_tokens", "_updated_s")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        """Start full."""
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._updated_s = now_s

    def take(self, now_s: float, amount: float = 1.0) -> bool:
        """Take tokens if there are enough; False (and nothing taken) if not."""
        elapsed_s = max(0.0, now_s - self._updated_s)
        self._tokens = min(self._burst, self._tokens + elapsed_s * self._rate_per_s)
        self._updated_s = now_s
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def wait_s(self, amount: float = 1.0) -> float:
        """How long until `amount` tokens will be there, counted from the last `take`."""
        return max(0.0, (amount - self._tokens) / self._rate_per_s)
