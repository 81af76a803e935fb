"""Owns a payment provider for trying things out: it signs, repeats, reorders and tries again.

It behaves as real providers do: each attempt is signed anew, whatever is not answered with 2xx is
sent again with growing pauses, and nobody promises order or that an event comes once.
"""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from resultity.errors import SettingsError
from resultity.payments.signed_webhook import SUCCEEDED, signature_header

ATTEMPTS = 10
PAUSE_S_MIN, PAUSE_S_MAX = 0.5, 30.0
TIMEOUT_S = 30.0
_DELIVERIES_AT_ONCE = 4
_ANSWER_BYTES_MAX = 65_536
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Post = Callable[[str, bytes, Mapping[str, str]], tuple[int, bytes]]
"""Sends a body with headers to a URL: (status, answer); status 0 if nobody answered."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the delivery of one copy of an event ended."""

    event_id: str
    status: int
    attempts: int
    answer: str

    @property
    def taken(self) -> bool:
        """Whether it was answered as a success."""
        return 200 <= self.status < 300


def event_body(
    event_id: str, account_id: str, namespace: str, amount: int, reference: str = ""
) -> bytes:
    """Give the body of an event: a payment of so many microcredits that succeeded."""
    event: dict[str, Any] = {
        "id": event_id,
        "type": SUCCEEDED,
        "account": account_id,
        "namespace": namespace,
        "amount_microcredits": amount,
    }
    if reference:
        event["reference"] = reference
    return json.dumps(event).encode()


class PracticeProvider:
    """Delivers events to one URL."""

    def __init__(
        self,
        url: str,
        secrets: Sequence[bytes],
        *,
        clock_s: Callable[[], int],
        sleep: Callable[[float], None],
        attempts: int = ATTEMPTS,
        randomness: random.Random | None = None,
        post: Post | None = None,
    ) -> None:
        """Sign with `secrets`; `clock_s` gives seconds since 1970. Raises: SettingsError."""
        if urlsplit(url).scheme not in ("http", "https"):
            raise SettingsError(f"not a webhook's URL: {url[:200]!r}")
        self._url = url
        self._secrets = secrets
        self._clock_s = clock_s
        self._sleep = sleep
        self._attempts = attempts
        self._random = randomness or random.Random()
        self._post = post or post_webhook

    def deliver_all(self, events: Mapping[str, bytes], copies: int) -> list[Delivery]:
        """Deliver `copies` of each event (by its ID), in any order and some at the same time."""
        queue = [(event_id, body) for event_id, body in events.items() for _ in range(copies)]
        self._random.shuffle(queue)
        with ThreadPoolExecutor(_DELIVERIES_AT_ONCE) as threads:
            return list(threads.map(lambda one: self.deliver(*one), queue))

    def deliver(self, event_id: str, body: bytes) -> Delivery:
        """Deliver one copy: again until it is taken or refused for good."""
        status, answer, pause_s = 0, b"", PAUSE_S_MIN
        for attempt in range(1, self._attempts + 1):
            header = signature_header(self._secrets, self._clock_s(), body)
            headers = {"Content-Type": "application/json", "Webhook-Signature": header}
            status, answer = self._post(self._url, body, headers)
            if status and status < 500 and status != 429:
                break
            if attempt < self._attempts:
                self._sleep(pause_s * self._random.uniform(0.5, 1.0))
                pause_s = min(PAUSE_S_MAX, pause_s * 2)
        return Delivery(event_id, status, attempt, answer.decode("utf-8", "replace"))


def post_webhook(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Send a webhook (as `Post`)."""
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    try:
        with _DIRECT.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(_ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_ANSWER_BYTES_MAX)
    except (OSError, ValueError) as error:
        return 0, str(getattr(error, "reason", error)).encode()
