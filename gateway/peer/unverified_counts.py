"""Owns what a gateway believes of the counts of an unverified model's node. Pure.

The rules are those of `p2p.unverified_usage`: the node states its counts by them, and what breaks
them ends the attempt.
"""

from __future__ import annotations

from p2p.errors import UntrustedError
from p2p.unverified_usage import output_allowed


class UnverifiedCounts:
    """The counts of one attempt."""

    def __init__(self) -> None:
        """Nothing was accepted yet."""
        self._text_bytes = 0
        self._accepted = 0
        self._stated = 0

    def accept(self, input_tokens: int) -> None:
        """The node accepted with this bound on its input."""
        self._accepted = input_tokens

    def take_output(self, token_ids: tuple[int, ...], text: str, tokens: int) -> None:
        """Output came, with which there are `tokens` in all. Raises: UntrustedError."""
        self._text_bytes += len(text.encode("utf-8", "replace"))
        if not output_allowed(token_ids, tokens, self._text_bytes):
            raise UntrustedError("more tokens than the text has bytes, or tokens with IDs")

    def take_input(self, input_tokens: int) -> bool:
        """Whether a receipt may state so much input: it rises, to what was accepted at most."""
        if not self._stated <= input_tokens <= self._accepted:
            return False
        self._stated = input_tokens
        return True
