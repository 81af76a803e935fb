"""Owns the reading of an upstream's answer, streamed or whole: text, why it ended, its usage. Pure.

Source: OpenAI API reference, "Chat completion chunk object" and "Chat completion object", and what
vLLM, llama-server, Ollama and LM Studio make of them. What a reasoning model thought comes in a
field of its own (`reasoning_content`, `reasoning`); it is passed on between <think> and </think>,
as a model of our own would have written it, but left out where the answer must be JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from node.upstream.calls import CallWriter
from node.upstream.errors import BrokenAnswerError, UpstreamError, refused
from p2p.limits import TOKENS_MAX

_FINISHES = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "function_call": "stop",
    "content_filter": "stop",
    "eos": "stop",
}
"""Our outcomes; the gateway finds the calls by itself."""
_THINK, _THINK_END = "<think>\n", "\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server says about its tokens."""

    input_tokens: int
    output_tokens: int


class AnswerReader:
    """Reads one answer, chunk by chunk; a whole answer is one chunk."""

    def __init__(self, *, with_thoughts: bool = True) -> None:
        """`with_thoughts`: pass on what the model thought."""
        self.finish: str | None = None
        self.usage: Usage | None = None
        self._with_thoughts = with_thoughts
        self._thinks = False
        self._calls = CallWriter()

    def feed(self, event: str) -> str:
        """The new text of one event (JSON). Raises: BrokenAnswerError, UpstreamError."""
        try:
            chunk = json.loads(event)
        except (ValueError, RecursionError) as error:
            raise BrokenAnswerError("holds something that is no JSON") from error
        if not isinstance(chunk, dict):
            raise BrokenAnswerError("holds something that is no object")
        if chunk.get("error"):
            raise _reported(chunk)
        self.usage = _usage(chunk.get("usage")) or self.usage
        choices = chunk.get("choices")
        if choices is None:
            return ""
        if not isinstance(choices, list):
            raise BrokenAnswerError("has choices that are no list")
        return "".join(self._choice(choice) for choice in choices)

    def _choice(self, choice: Any) -> str:
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            return ""  # of several choices, which were not asked for, the first counts
        delta = choice.get("delta", choice.get("message"))
        text = self._delta(delta) if isinstance(delta, dict) else ""
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            if finish not in _FINISHES:
                raise UpstreamError("failed", "the server ended the answer with an error")
            self.finish = _FINISHES[finish]
            text += self._end_of_thoughts() + self._calls.close()
        return _encodable(text)

    def _delta(self, delta: dict[str, Any]) -> str:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        content, calls = delta.get("content"), delta.get("tool_calls")
        text = ""
        if isinstance(thought, str) and thought and self._with_thoughts:
            text += ("" if self._thinks else _THINK) + thought
            self._thinks = True
        if content is not None and not isinstance(content, str):
            raise BrokenAnswerError("has content that is no text")
        if content:
            text += self._end_of_thoughts() + self._calls.close() + content
        if calls:
            text += self._end_of_thoughts() + self._calls.feed(calls)
        return text

    def _end_of_thoughts(self) -> str:
        thinks, self._thinks = self._thinks, False
        return _THINK_END if thinks else ""


def _usage(value: Any) -> Usage | None:
    """A usage that can be one; any other is as good as none."""
    if not isinstance(value, dict):
        return None
    inputs, outputs = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    return None if inputs is None or outputs is None else Usage(inputs, outputs)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= TOKENS_MAX else None


def _encodable(text: str) -> str:
    """JSON can spell half a character, which is no text."""
    return text.encode("utf-8", "replace").decode()


def _reported(chunk: dict[str, Any]) -> UpstreamError:
    """An error that came in the place of an answer, with status 200."""
    error = chunk["error"]
    status = error.get("code") if isinstance(error, dict) else None
    if type(status) is int and 400 <= status < 600:
        return refused(status, chunk)
    return UpstreamError("failed", "the server ended the answer with an error", sick=True)
