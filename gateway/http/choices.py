"""Owns one choice of an answer on its way to the client: its text divided into text and calls, its
logprobs beside that, and the count of its tokens that were written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.http.call_objects import Call
from gateway.http.logprobs import LogprobAligner
from gateway.http.openai_types import ChatRequest
from gateway.http.tool_calls import Piece, ToolCallParser
from gateway.http.written_tokens import TokenCounter
from gateway.jobs import Delta
from p2p.logprob_messages import TokenLogprob


@dataclass(frozen=True, slots=True)
class Part:
    """What the client is told next: pieces, with the logprobs that go with them."""

    pieces: list[Piece]
    logprobs: list[TokenLogprob]


class ChoiceReader:
    """One choice, as it comes from the job."""

    def __init__(self, chat: ChatRequest, index: int) -> None:
        """Begin with nothing."""
        self.index = index
        self.calls_written = 0
        self._counter = TokenCounter()
        functions = chat.callable_functions()
        parallel = chat.parallel_tool_calls is not False
        self._parser = ToolCallParser(functions, parallel=parallel) if functions else None
        self._aligner = LogprobAligner() if chat.logprobs else None
        self._keeps_text = functions or chat.choices > 1
        self._texts: list[str] = []
        self._characters = 0

    @property
    def has_tools(self) -> bool:
        """Whether calls are looked for: it is not known then whether there is any text."""
        return self._parser is not None

    @property
    def has_calls(self) -> bool:
        """Whether calls were found."""
        return self._parser is not None and self._parser.calls > 0

    @property
    def answer_text(self) -> str:
        """The text as the model wrote it (kept where the receipt needs it)."""
        return "".join(self._texts)

    def finish_reason(self, reason: str) -> str:
        """The reason as the client is told it."""
        return "tool_calls" if reason == "stop" and self.has_calls else reason

    def add(self, deltas: Sequence[Delta], *, last: bool) -> Part:
        """Take more of the answer; what is not certain yet is held back."""
        for delta in deltas:
            self._counter.add(len(delta.text), delta.tokens)
            if self._aligner is not None:
                self._aligner.add(delta.logprobs)
        return self._divide("".join(delta.text for delta in deltas), last=last)

    def whole(self, text: str, logprobs: Sequence[TokenLogprob]) -> Part:
        """Take a whole answer."""
        if self._aligner is not None:
            self._aligner.add(logprobs)
        return self._divide(text, last=True)

    def _divide(self, text: str, *, last: bool) -> Part:
        if self._keeps_text:
            self._texts.append(text)
        self._characters += len(text)
        if self._parser is None:
            pieces: list[Piece] = [text] if text else []
        else:
            pieces = self._parser.feed(text)
            if last:
                pieces = pieces + self._parser.finish()
        logprobs: list[TokenLogprob] = []
        if self._aligner is not None and last:
            logprobs = self._aligner.finish(self._characters)
        elif self._aligner is not None and pieces:
            logprobs = self._aligner.take(self._characters - self._held_characters)
        return Part(pieces, logprobs)

    @property
    def _held_characters(self) -> int:
        return 0 if self._parser is None else self._parser.held_characters

    def written(self, *, last: bool) -> int:
        """The tokens whose text has been written now. Those without text yet (half a character)
        count with the text that follows."""
        return self._counter.take_all() if last else self._counter.take(self._held_characters)


def calls_of(pieces: Sequence[Piece]) -> list[Call]:
    """The calls among the pieces of an answer."""
    return [piece for piece in pieces if isinstance(piece, Call)]


def text_of(pieces: Sequence[Piece]) -> str:
    """The text among the pieces of an answer."""
    return "".join(piece for piece in pieces if isinstance(piece, str))
