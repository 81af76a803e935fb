"""Owns how often one client may ask for what costs the bootstraps a call."""

from __future__ import annotations

import time
from collections import OrderedDict

from starlette.requests import Request

from gateway.errors import RateLimitError
from gateway.limits import COURIER_BURST, COURIER_CLIENTS_MAX, COURIER_RATE_PER_S
from p2p.token_bucket import TokenBucket


class ClientRates:
    """A token bucket for each client's address; the longest silent one is forgotten first."""

    def __init__(
        self, what: str, per_second: float = COURIER_RATE_PER_S, burst: float = COURIER_BURST
    ) -> None:
        """`what`: of what there are too many, in the refusal."""
        self._what = what
        self._per_second, self._burst = per_second, burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, request: Request) -> str:
        """Count a request, and give its client's address. Raises: RateLimitError."""
        client = request.client.host if request.client is not None else ""
        now_s = time.monotonic()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket(self._per_second, self._burst, now_s)
            if len(self._buckets) > COURIER_CLIENTS_MAX:
                self._buckets.popitem(last=False)
        if not bucket.take(now_s):
            raise RateLimitError(
                f"Too many {self._what} from this address.", retry_after_s=bucket.wait_s()
            )
        return client
