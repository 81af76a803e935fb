"""Owns the rate limits of API keys: requests and tokens a minute, counted at this gateway.

Theory of operation. The limits stand in the key's record. Each is a bucket that holds a minute's
worth and fills evenly, so that a client may come in a burst but not above its limit for long. A
job's tokens are taken when it is admitted, as many as it can use at most; what it did not use is
given back at its end. A refusal takes nothing. Each gateway counts for itself: what must hold over
all gateways together are the caps of credit, which the ledger judges.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import RateLimitError
from gateway.limits import KEYS_CACHED_MAX
from p2p.ledger_messages import KeyRecord

MINUTE_S = 60.0


class _Bucket:
    """A minute's worth of something, of which one can take and give back."""

    __slots__ = ("level", "limit", "updated_s")

    def __init__(self, limit: int, now_s: float) -> None:
        self.limit = limit
        self.level = float(limit)
        self.updated_s = now_s

    def fill(self, now_s: float) -> None:
        elapsed_s = max(0.0, now_s - self.updated_s)
        self.updated_s = now_s
        self.level = min(float(self.limit), self.level + elapsed_s * self.limit / MINUTE_S)

    def wait_s(self, amount: int) -> float:
        """How long until `amount` is there."""
        return max(0.0, (amount - self.level) * MINUTE_S / self.limit)


@dataclass(slots=True)
class _Key:
    requests: _Bucket | None = None
    tokens: _Bucket | None = None


class KeyRates:
    """Counts what each API key does."""

    def __init__(self, *, now_s: Callable[[], float], keys_max: int = KEYS_CACHED_MAX) -> None:
        """Count for at most `keys_max` keys (the one that was silent longest is forgotten)."""
        self._now_s = now_s
        self._keys_max = keys_max
        self._keys: OrderedDict[str, _Key] = OrderedDict()

    def take(self, record: KeyRecord, tokens: int) -> int:
        """Count a request that can use this many tokens.

        Returns: the tokens that were taken, for `give_back`.
        Raises: RateLimitError that names the limit, how much of it is used, and when it resets.
        """
        limits = record.limits
        if not limits.requests_per_minute and not limits.tokens_per_minute:
            return 0
        now_s = self._now_s()
        key = self._keys.setdefault(record.key_id, _Key())
        self._keys.move_to_end(record.key_id)
        if len(self._keys) > self._keys_max:
            self._keys.popitem(last=False)
        key.requests = _bucket(key.requests, limits.requests_per_minute, now_s)
        key.tokens = _bucket(key.tokens, limits.tokens_per_minute, now_s)
        for bucket, amount, what in ((key.requests, 1, "requests"), (key.tokens, tokens, "tokens")):
            if bucket is not None and bucket.level < amount:
                raise _refusal(bucket, amount, what)
        if key.requests is not None:
            key.requests.level -= 1
        if key.tokens is None:
            return 0
        key.tokens.level -= tokens
        return tokens

    def give_back(self, key_id: str, tokens: int) -> None:
        """Give back tokens that a job did not use."""
        key = self._keys.get(key_id)
        if key is not None and key.tokens is not None and tokens > 0:
            key.tokens.fill(self._now_s())
            key.tokens.level = min(float(key.tokens.limit), key.tokens.level + tokens)


def _bucket(bucket: _Bucket | None, limit: int, now_s: float) -> _Bucket | None:
    if not limit:
        return None
    if bucket is None or bucket.limit != limit:
        return _Bucket(limit, now_s)
    bucket.fill(now_s)
    return bucket


def _refusal(bucket: _Bucket, amount: int, what: str) -> RateLimitError:
    limit, used = bucket.limit, bucket.limit - int(bucket.level)
    if amount > limit:
        return RateLimitError(
            f"This request is too large for this API key's limit on {what} per minute: limit "
            f"{limit}, at most {amount} would be used. Shorten it or lower max_tokens."
        )
    wait_s = bucket.wait_s(amount)
    return RateLimitError(
        f"Rate limit reached for this API key on {what} per minute: limit {limit}, used {used}, "
        f"requested {amount}. Try again in {wait_s:.1f} s; it resets in {bucket.wait_s(limit):.1f} "
        "s.",
        retry_after_s=wait_s,
    )
