"""Owns the logprobs of an answer in OpenAI's form, each beside the text that it belongs to.

Source: OpenAI API reference, "Chat completion object", `choices[].logprobs`.

Theory of operation. Text lags behind the tokens that make it: bytes of an unfinished character
wait for the rest, and what may begin a stop string or a tool call is held back. A token's bytes
say where in the text it begins: they are decoded as the node decodes them. Its entry leaves with
the text that has its first character; a token that adds no character leaves with the text that
follows, or at the end. Tokens of a stop string have no text in the answer, and no entry.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from p2p.logprob_messages import TokenLogprob, TopLogprob

_TOKENS_PER_TURN = 32


class LogprobAligner:
    """Says which tokens' entries go with the text so far (one object for each choice)."""

    def __init__(self) -> None:
        """Begin before the first token."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()

    def add(self, entries: Iterable[TokenLogprob]) -> None:
        """Take the entries of further tokens."""
        for entry in entries:
            self._waiting.append((self._characters, entry))
            self._characters += len(self._decoder.decode(entry.data))

    def take(self, characters: int) -> list[TokenLogprob]:
        """Give the entries that go with the first `characters` of the text, each once."""
        taken = []
        while self._waiting and self._waiting[0][0] < characters:
            taken.append(self._waiting.popleft()[1])
        return taken

    def finish(self, characters: int) -> list[TokenLogprob]:
        """The text ended after so many characters: give the rest, without a stop string's."""
        taken = self.take(characters)
        if self._characters <= characters:
            taken += [entry for _, entry in self._waiting]
        self._waiting.clear()
        return taken


def logprobs_json(entries: Sequence[TokenLogprob]) -> bytes:
    """The `logprobs` of a chunk as JSON; null without entries."""
    if not entries:
        return b"null"
    content = [_entry(entry) for entry in entries]
    return json.dumps({"content": content, "refusal": None}, ensure_ascii=False).encode()


async def logprobs_in_turns(entries: Sequence[TokenLogprob]) -> bytes:
    """The same, for a whole answer: others get a turn in between (20 alternatives for each of 3,000
    tokens take half a second)."""
    parts = []
    for begin in range(0, len(entries), _TOKENS_PER_TURN):
        some = [_entry(entry) for entry in entries[begin : begin + _TOKENS_PER_TURN]]
        parts.append(json.dumps(some, ensure_ascii=False).encode()[1:-1])
        await asyncio.sleep(0)
    return b'{"content": [' + b", ".join(parts) + b'], "refusal": null}'


def _entry(entry: TokenLogprob) -> dict[str, Any]:
    return {**_token(entry), "top_logprobs": [_token(other) for other in entry.top]}


def _token(token: TokenLogprob | TopLogprob) -> dict[str, Any]:
    # A part of a character is no text: `bytes` has what it is.
    text = token.data.decode("utf-8", "replace")
    return {"token": text, "logprob": token.logprob, "bytes": list(token.data)}
