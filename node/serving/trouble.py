"""Owns what went wrong with a model, and when it is tried again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from node.limits import MODEL_RETRY_S_MAX, MODEL_RETRY_S_MIN


@dataclass(slots=True)
class Trouble:
    """The last failure; it stays until a proof succeeds. Empty: there is none."""

    reason: str = ""
    retry_at_s: float = 0.0
    _times: int = 0

    def note(self, reason: str, now_s: float) -> None:
        """It failed (again): the pause doubles."""
        self.reason = reason
        self._times += 1
        doublings = min(self._times - 1, 32)
        self.retry_at_s = now_s + min(MODEL_RETRY_S_MIN * 2**doublings, MODEL_RETRY_S_MAX)

    def later(self, now_s: float) -> None:
        """It could not be tried again just now."""
        self.retry_at_s = now_s + MODEL_RETRY_S_MIN

    def clear(self) -> None:
        """It works, or it is another file now."""
        self.reason, self.retry_at_s, self._times = "", 0.0, 0
