"""Owns the way from token bytes to text: whole characters, stop strings across tokens. Pure.

Text leaves only when it can no longer change: bytes of an unfinished character wait for the rest,
and an ending that may be the beginning of a stop string is held back. What leaves after each
token depends on the tokens alone, so replaying a job's first k tokens leads to the same state and
to the same continuation.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of one sequence's tokens into text (one object for each sequence)."""

    def __init__(self, stop_strings: Sequence[str] = ()) -> None:
        """Make a stream that ends before the first occurrence of any of `stop_strings`."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stop_strings if stop)
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Take the bytes of one token and give the text that is now certain.

        Sets `stopped` when a stop string is complete; what stands before it is returned, nothing
        follows.
        """
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data)
        self._held = ""
        if not self._stops or not text:
            return text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        held_length = max(_overlap(text, stop) for stop in self._stops)
        if held_length:
            self._held = text[-held_length:]
            text = text[:-held_length]
        return text

    def finish(self) -> str:
        """Give what was held back for a stop string that never came.

        Bytes of an unfinished character are dropped: a character is never cut.
        """
        held, self._held = self._held, ""
        self.stopped = True
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
