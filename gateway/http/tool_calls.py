"""Owns the finding of tool calls in a model's text, whole or while it streams. Pure.

Theory of operation. A model calls a tool by writing text in the form that its chat template taught
it. A node hands that text on as it is (its receipt and the consumer's are over the exact text);
the gateway finds the calls in it, by their marks:

    Hermes, Qwen     <tool_call>{"name": ..., "arguments": {...}}</tool_call>
                     or markup in it (`call_markup`)
    Llama 3          <|python_tag|>{"name": ..., "parameters": {...}}; {...}
    Mistral          [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
    Mistral, newer   [TOOL_CALLS]name[ARGS]{...}
    plain            the same objects or such a list, where the answer begins with it

What begins like a call is held back until it is complete, so nothing of a call ever leaves as text
and what is no call (invalid JSON, a function that the request does not have) stays text, word for
word. White space next to a call belongs to it. The result depends on the text alone, never on how
it was divided: every decision is made only when no continuation could change it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.http.call_markup import may_begin_markup, read_markup
from gateway.http.call_objects import (
    PREFIX_CHARACTERS,
    Call,
    may_begin_call,
    object_members,
    read_calls,
)

CALL_CHARACTERS_MAX = 256 * 1024
"""A longer call stays text: so much is held back at most."""
CALL_DEPTH_MAX = 64
LONG_FAILURE_CHARACTERS = 4096
LONG_FAILURES_MAX = 8
"""After so many long texts that only began like calls, the rest is text: each is read twice."""

_HERMES, _HERMES_END = "<tool_call>", "</tool_call>"
_LLAMA, _MISTRAL = "<|python_tag|>", "[TOOL_CALLS]"
_MARKS = (_HERMES, _LLAMA, _MISTRAL)
_MARK_CHARACTERS_MAX = max(map(len, _MARKS))
_MARK = re.compile("|".join(re.escape(mark) for mark in _MARKS))
_WHITE = re.compile(r"\s*")
_NAMED = re.compile(
    r"([A-Za-z0-9_-]{1,64})(?:\[CALL_ID\]([A-Za-z0-9_-]{1,64}))?(?:\[ARGS\])?[ \t\n\r]{0,16}(?=\{)"
)
_NAMED_BEGINNING = re.compile(r"[A-Za-z0-9_-]{1,64}[\[\]A-Za-z0-9_ \t\n\r-]{0,160}\Z")
_STRUCTURE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')


Piece = str | Call
Schemas = Mapping[str, Mapping[str, Any]]


class _Span:
    """Finds where an object or a list ends, without reading any character twice."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self._place = begin
        self._depth = 0
        self._in_string = False

    @property
    def read(self) -> int:
        """How many characters were read."""
        return self._place - self.begin

    def end(self, text: str) -> int | None:
        """Where it ends; None as long as it does not; -1 if it goes too deep."""
        while True:
            pattern = _IN_STRING if self._in_string else _STRUCTURE
            found = pattern.search(text, self._place)
            if found is None:
                self._place = len(text)
                return None
            sign, self._place = found.group(), found.end()
            if sign == "\\":
                if self._place == len(text):
                    self._place -= 1
                    return None
                self._place += 1
            elif sign == '"':
                self._in_string = not self._in_string
            elif sign in "{[":
                self._depth += 1
                if self._depth > CALL_DEPTH_MAX:
                    return -1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return self._place


class _Until:
    """Finds where a marked part ends (like `_Span`)."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self._place = begin

    @property
    def read(self) -> int:
        """How many characters were read."""
        return self._place - self.begin

    def end(self, text: str) -> int | None:
        """Where the ending mark begins; None as long as there is none."""
        found = text.find(_HERMES_END, max(self.begin, self._place - len(_HERMES_END)))
        self._place = len(text) if found < 0 else found
        return None if found < 0 else found


class ToolCallParser:
    """Divides one answer's text into text and calls."""

    def __init__(self, schemas: Schemas, *, parallel: bool = True) -> None:
        """Find calls of these functions (the schemas of their parameters by name). Not `parallel`:
        calls after the first one are dropped."""
        self._schemas = schemas
        self._names = frozenset(schemas)
        self._parallel = parallel
        self._held = ""
        self._white = 0
        """So much of what is held is known to begin it as white space: it is not read again."""
        self._span: _Span | _Until | None = None
        self._long_failures = 0
        self._bare_allowed = True
        self._after_mark: str | None = None
        """After a call: the mark that it had (empty: none). None: not after a call."""
        self.calls = 0

    @property
    def held_characters(self) -> int:
        """How much of the text so far is neither given nor dropped."""
        return len(self._held)

    def feed(self, text: str) -> list[Piece]:
        """Take more text; gives what is certain now."""
        self._held += text
        return self._pieces(final=False)

    def finish(self) -> list[Piece]:
        """The text is over; gives the rest."""
        return self._pieces(final=True)

    def _pieces(self, *, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._held:
            before = (len(self._held), self._after_mark)
            for piece in self._next(final):
                if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                    pieces[-1] += piece
                else:
                    pieces.append(piece)
            if (len(self._held), self._after_mark) == before:
                break
        return pieces

    def _next(self, final: bool) -> list[Piece]:
        """Consume something of the held text, or nothing if more must come first."""
        if self._long_failures >= LONG_FAILURES_MAX:
            return self._take_text(len(self._held))
        if self._after_mark is not None:
            self._pass_gap(self._after_mark, final)
            return []
        white = self._white_length()
        if white == len(self._held):
            return self._take_text(white) if final else []
        mark = next((mark for mark in _MARKS if self._held.startswith(mark, white)), "")
        rest = self._held[white : white + _MARK_CHARACTERS_MAX]
        if not mark and not final and any(mark.startswith(rest) for mark in _MARKS):
            return []
        if mark or (self._bare_allowed and rest[0] in "{["):
            return self._candidate(white, mark, final)
        found = _MARK.search(self._held)
        end = found.start() if found else len(self._held)
        if found is None and not final:
            end -= _overlap(self._held)
        body = self._held[:end].rstrip() if found or not final else self._held
        return self._take_text(len(body))

    def _white_length(self) -> int:
        found = _WHITE.match(self._held, self._white)
        self._white = found.end() if found else self._white
        return self._white

    def _keep(self, begin: int) -> None:
        """Hold on to what follows here; the text before is given or dropped."""
        self._held, self._white, self._span = self._held[begin:], 0, None

    def _take_text(self, length: int) -> list[Piece]:
        text = self._held[:length]
        self._keep(length)
        if text:
            self._bare_allowed = False
            self._after_mark = None
        return [text] if text else []

    def _pass_gap(self, mark: str, final: bool) -> None:
        """Drop what stands between a call and what follows, as soon as it is known."""
        rest = self._held
        place = self._white_length()
        if mark == _HERMES:
            ending = rest[place : place + len(_HERMES_END)]
            if ending != _HERMES_END and _HERMES_END.startswith(ending) and not final:
                return
            if _HERMES_END.startswith(ending):
                # Also one that the answer's limit cut off.
                self._keep(place + len(ending))
                self._after_mark = _HERMES_END
                return
        elif mark in ("", _LLAMA) and rest[place : place + 1] in (";", ","):
            after = place + 1 + _length_of_white(rest[place + 1 : place + PREFIX_CHARACTERS])
            if after == len(rest) and not final:
                return
            if rest.startswith("{", after):
                place = after
        if place < len(rest) or final:
            self._keep(place)
            self._after_mark = None
            self._bare_allowed = mark in ("", _LLAMA)

    def _candidate(self, white: int, mark: str, final: bool) -> list[Piece]:
        """The held text has, after white space, what may be a call."""
        begin = white + len(mark)
        body = begin + _length_of_white(self._held[begin : begin + PREFIX_CHARACTERS])
        name = None
        if mark == _MISTRAL and body < len(self._held) and self._held[body] not in "{[":
            named = _NAMED.match(self._held, body)
            if named is None or named.group(1) not in self._names:
                waits = named is None and not final and _NAMED_BEGINNING.match(self._held, body)
                return [] if waits else self._fail(begin, white)
            name, body = named.group(1), named.end()
        if body >= len(self._held) and not final:
            return []
        head = self._held[body : body + PREFIX_CHARACTERS]
        is_markup = mark == _HERMES and head[:1] not in ("{", "[")
        if not (is_markup or head[:1] == "{" or (head[:1] == "[" and mark in ("", _MISTRAL))):
            return self._fail(begin, white)
        if is_markup and not may_begin_markup(head, self._schemas):
            return self._fail(begin, white)
        if not is_markup and name is None and not may_begin_call(head, self._names):
            return self._fail(begin, white)
        if self._span is None or self._span.begin != body:
            self._span = _Until(body) if is_markup else _Span(body)
        end = self._span.end(self._held)
        if end is None and not final and len(self._held) - body <= CALL_CHARACTERS_MAX:
            return []
        if end is None or not 0 <= end - body <= CALL_CHARACTERS_MAX:
            return self._fail(begin, white, read=self._span.read)
        return self._read(white, mark, name, body, end)

    def _read(self, white: int, mark: str, name: str | None, body: int, end: int) -> list[Piece]:
        text = self._held[body:end]
        calls: list[Call] | None
        if isinstance(self._span, _Until):
            call = read_markup(text, self._schemas)
            calls = None if call is None else [call]
        elif name is not None:
            calls = None if object_members(text) is None else [Call(name, text)]
        else:
            calls = read_calls(text, self._names, marked=bool(mark))
        if calls is None:
            return self._fail(white + len(mark), white, read=len(text))
        self._keep(end)
        self._after_mark = mark
        if not self._parallel:
            calls = calls[: max(0, 1 - self.calls)]
        self.calls += len(calls)
        return list(calls)

    def _fail(self, begin: int, white: int, *, read: int = 0) -> list[Piece]:
        """It is no call: its mark (or its bracket) is text, and what follows is read as text."""
        if read > LONG_FAILURE_CHARACTERS:
            self._long_failures += 1
        return self._take_text(max(begin, white + 1))


def _length_of_white(text: str) -> int:
    found = _WHITE.match(text)
    return found.end() if found else 0


def _overlap(text: str) -> int:
    """How many characters at the end may be the beginning of a mark."""
    for length in range(min(len(text), _MARK_CHARACTERS_MAX - 1), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in _MARKS):
            return length
    return 0
