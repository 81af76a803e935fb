"""Owns the counts of one answer while it comes, and of how fast answers come. Pure.

The rules are those of `p2p.unverified_usage`, which the gateway checks.
"""

from __future__ import annotations

from node.upstream.answers import Usage
from node.upstream.errors import BrokenAnswerError
from node.upstream.limits import TEXT_BYTES_PER_TOKEN_MAX, TEXT_BYTES_SLACK
from p2p.unverified_usage import counted_input, counted_output, counted_piece, least_input

_PACE_WINDOW_S = 30.0


class AnswerCounts:
    """Counts one answer."""

    def __init__(self, *, input_bytes: int, input_bound: int, output_tokens_max: int) -> None:
        """Bound what may be counted."""
        self._input_bound = input_bound
        self._output_tokens_max = output_tokens_max
        self._text_bytes = 0
        self._usage: Usage | None = None
        self.tokens = 0
        self.input_tokens = least_input(input_bytes, input_bound)

    @property
    def full(self) -> bool:
        """Whether no more text may come: the offer pays for no more tokens."""
        return self.tokens >= self._output_tokens_max

    def add(self, text: str) -> int:
        """Count a piece of text; give its tokens. Raises: BrokenAnswerError (too much text)."""
        size = len(text.encode())
        self._text_bytes += size
        new = min(counted_piece(size), self._output_tokens_max - self.tokens)
        self.tokens += new
        if self._text_bytes > self.tokens * TEXT_BYTES_PER_TOKEN_MAX + TEXT_BYTES_SLACK:
            raise BrokenAnswerError("has more text than its tokens can make")
        return new

    def finish(self, usage: Usage | None) -> int:
        """Take the server's word, as far as it is believed; give the tokens that are new."""
        inputs, outputs = (usage.input_tokens, usage.output_tokens) if usage else (None, None)
        self.input_tokens = counted_input(self.input_tokens, inputs, self._input_bound)
        counted = self.tokens
        self.tokens = counted_output(counted, outputs, self._text_bytes, self._output_tokens_max)
        return self.tokens - counted


class PaceMeter:
    """Measures the tokens a second of all answers together, over the time when there were any."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._tokens = 0.0
        self._busy_s = 0.0
        self._running = 0
        self._since_s = 0.0

    def change(self, change: int, now_s: float) -> None:
        """An answer began (+1) or ended (-1)."""
        self._pass_time(now_s)
        self._running += change

    def add(self, tokens: int) -> None:
        """Tokens came."""
        self._tokens += tokens

    def rate(self, now_s: float) -> float:
        """Tokens a second lately; 0 if nothing is known."""
        self._pass_time(now_s)
        return self._tokens / self._busy_s if self._busy_s > 0.1 else 0.0

    def _pass_time(self, now_s: float) -> None:
        if self._running:
            self._busy_s += max(0.0, now_s - self._since_s)
        self._since_s = now_s
        while self._busy_s > _PACE_WINDOW_S:
            self._busy_s /= 2
            self._tokens /= 2
