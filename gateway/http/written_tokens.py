"""Owns the count of the tokens whose text has been written to a streaming client. Pure."""

from __future__ import annotations

from collections import deque


class TokenCounter:
    """Says which tokens' text has been written, while the end of the text may be held back."""

    def __init__(self) -> None:
        self._characters = 0
        self._without_text = 0
        self._waiting: deque[tuple[int, int]] = deque()

    def add(self, characters: int, tokens: int) -> None:
        """So many tokens came with so much text; none: they count with the text that follows."""
        self._without_text += tokens
        if characters:
            self._characters += characters
            self._waiting.append((self._characters, self._without_text))
            self._without_text = 0

    def take(self, held_characters: int) -> int:
        """Give the tokens whose text is not held, each once."""
        tokens = 0
        while self._waiting and self._waiting[0][0] <= self._characters - held_characters:
            tokens += self._waiting.popleft()[1]
        return tokens

    def take_all(self) -> int:
        """Give all tokens that were not given yet."""
        tokens, self._without_text = self._without_text, 0
        return tokens + self.take(0)
