"""Owns a wall clock that stands still until a test moves it."""

from __future__ import annotations

START_MS = 1_800_000_000_000


class FakeClock:
    """A `p2p.clock.Clock`: gives `now_ms` when called."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
