"""Owns the engine's speed as it is now: an average that forgets. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_WINDOW_S = 5.0


@dataclass(slots=True)
class Speed:
    """Output tokens over busy time, with older steps fading out."""

    tokens: float = 0.0
    busy_s: float = 0.0

    def add(self, tokens: int, elapsed_s: float) -> None:
        """Count one step."""
        fade = max(0.0, 1.0 - elapsed_s / _WINDOW_S)
        self.tokens = self.tokens * fade + tokens
        self.busy_s = self.busy_s * fade + elapsed_s

    @property
    def tokens_per_second(self) -> float:
        """Tokens for each second of work; 0 before the first."""
        return self.tokens / self.busy_s if self.busy_s > 0 else 0.0
