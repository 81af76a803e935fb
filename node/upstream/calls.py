"""Owns the text of a server's tool calls: from OpenAI's parts to the form that gateways read. Pure.

Gateways find calls in the text of an answer (`gateway.http.tool_calls`), because that is what
models write and what receipts are over. A server that has read its model's calls already gives
them in parts; they are written as text again, in the Hermes form:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

The arguments are passed on as they come, so that a long call does not look like silence. Arguments
that are no JSON object make the call stay text, as they would if a model of our own wrote them.
"""

from __future__ import annotations

import json
from typing import Any

from node.upstream.errors import BrokenAnswerError
from node.upstream.limits import CALLS_MAX

_BEGIN, _END = "<tool_call>\n", "\n</tool_call>"


class CallWriter:
    """Writes the calls of one answer, one after the other."""

    def __init__(self) -> None:
        """Begin without a call."""
        self._open: tuple[int, str] | None = None
        self._has_arguments = False
        self._calls = 0

    @property
    def calls(self) -> int:
        """How many calls were begun."""
        return self._calls

    def feed(self, parts: Any) -> str:
        """The text of what came (`delta.tool_calls`, or `message.tool_calls`).

        Raises: BrokenAnswerError for parts that belong to no call, or that break their form.
        """
        if not isinstance(parts, list):
            raise BrokenAnswerError("has tool calls that are no list")
        return "".join(self._part(part, place) for place, part in enumerate(parts))

    def _part(self, part: Any, place: int) -> str:
        function = part.get("function") if isinstance(part, dict) else None
        if not isinstance(function, dict):
            raise BrokenAnswerError("has a tool call without a function")
        index, call_id = part.get("index", place), part.get("id") or ""
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        if isinstance(arguments, dict):  # as some servers give them
            arguments = json.dumps(arguments, ensure_ascii=False)
        if not (type(index) is int and isinstance(call_id, str) and isinstance(name, str)):
            raise BrokenAnswerError("has a tool call of another form")
        if not isinstance(arguments, str):
            raise BrokenAnswerError("has tool arguments that are no text")
        text = ""
        if self._begins(index, call_id, name):
            text = self.close() + self._begin(index, call_id, name)
        elif self._open is None or index != self._open[0]:
            raise BrokenAnswerError("has parts of a tool call that was not begun")
        if arguments:
            self._has_arguments = True
        return text + arguments

    def _begins(self, index: int, call_id: str, name: str) -> bool:
        """A name begins a call, unless it only repeats that of the call it goes on with."""
        if not name:
            return False
        if self._open is None or index != self._open[0]:
            return True
        return bool(call_id) and call_id != self._open[1]

    def _begin(self, index: int, call_id: str, name: str) -> str:
        self._calls += 1
        if self._calls > CALLS_MAX:
            raise BrokenAnswerError(f"has more than {CALLS_MAX} tool calls")
        self._open = (index, call_id)
        self._has_arguments = False
        before = "\n" if self._calls > 1 else ""
        return f'{before}{_BEGIN}{{"name": {json.dumps(name)}, "arguments": '

    def close(self) -> str:
        """The text that ends the call that is open, if one is."""
        if self._open is None:
            return ""
        self._open = None
        return ("" if self._has_arguments else "{}") + "}" + _END
