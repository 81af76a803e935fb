"""Owns what the operator is told of refused offers: how many, of which kind, and the last one."""

from __future__ import annotations

from collections import Counter, deque

RECENT_S = 300.0
RECENT_MAX = 1000
_ASKED_AGAIN = ("needs_voucher",)
"""No refusals: the gateway comes back at once, with what is asked for."""
_ABOUT_THE_REQUEST = ("bad_request", "unsupported", "context_length_exceeded")
"""Their reasons may quote the request."""


class RefusalLog:
    """Counts refusals by code, and remembers those of the last minutes."""

    def __init__(self) -> None:
        """Begin with none. Set `quotes` to False to keep nothing that may quote a request."""
        self.quotes = True
        self.counts: Counter[str] = Counter()
        self.last_reason = ""
        self._recent: deque[tuple[int, str]] = deque(maxlen=RECENT_MAX)

    def note(self, code: str, reason: str, now_ms: int) -> None:
        """An offer was refused."""
        if code in _ASKED_AGAIN:
            return
        self.counts[code] += 1
        quoted = self.quotes or code not in _ABOUT_THE_REQUEST
        self.last_reason = f"{code}: {reason}" if quoted else code
        self._recent.append((now_ms, code))

    def recent(self, now_ms: int) -> Counter[str]:
        """The codes of the last five minutes."""
        first_ms = now_ms - int(RECENT_S * 1000)
        return Counter(code for at_ms, code in self._recent if at_ms >= first_ms)
