"""Owns the objects of tool calls as models write them: JSON that names a function. Pure.

The forms: `{"name": ..., "arguments": {...}}`, Llama's `"parameters"` for the arguments, OpenAI's
own `{"type": "function", "function": {...}}`, the arguments also as JSON text in a string. Source:
the chat templates of Qwen 2.5, Hermes 2 Pro, Llama 3.1 and 3.2, Mistral 7B v0.3 and Nemo.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

PREFIX_CHARACTERS = 512
"""So much of an object's beginning says whether it can be a call."""
_KEYS = ("name", "arguments", "parameters", "type", "function", "id")
_WHITE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `arguments` is the JSON text of an object, as the model wrote it."""

    name: str
    arguments: str


class _NotAConstant(ValueError):
    """NaN and infinities are Python's, not JSON's."""


def _refuse_constant(name: str) -> None:
    raise _NotAConstant(name)


_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_refuse_constant)


def object_members(text: str) -> dict[str, str] | None:
    """The members of a JSON object, each value as it is written; None if it is no JSON object."""
    members: dict[str, str] = {}
    try:
        if not text.startswith("{"):
            return None
        place = _skip(text, 1)
        while text[place] != "}" or members:
            key, place = _DECODER.raw_decode(text, place)
            place = _skip(text, place)
            if not isinstance(key, str) or text[place] != ":":
                return None
            begin = _skip(text, place + 1)
            _, place = _DECODER.raw_decode(text, begin)
            members[key] = text[begin:place]
            place = _skip(text, place)
            if text[place] == "}":
                break
            if text[place] != ",":
                return None
            place = _skip(text, place + 1)
        return members if place == len(text) - 1 else None
    except (ValueError, IndexError, RecursionError):
        return None


def _skip(text: str, place: int) -> int:
    found = _WHITE.match(text, place)
    return found.end() if found else place


def read_call(text: str, names: frozenset[str], *, marked: bool = True) -> Call | None:
    """Read one call's object; None if it is none of a function in `names`.

    Without a mark around it, it must have arguments and nothing that calls do not have.
    """
    members = object_members(text)
    if members is None or (not marked and not members.keys() <= set(_KEYS)):
        return None
    if "name" not in members and "function" in members:
        members = object_members(members["function"])
        if members is None:
            return None
    name = members.get("name", "")
    raw = members.get("arguments", members.get("parameters"))
    if raw is None and marked:
        raw = "{}"
    if not name.startswith('"') or raw is None or (name := str(_DECODER.decode(name))) not in names:
        return None
    if raw.startswith('"'):
        raw = str(_DECODER.decode(raw)).strip()
        if object_members(raw) is None or not encodes(raw):
            return None
    return Call(name, raw) if raw.startswith("{") else None


def is_json(text: str) -> bool:
    """Whether a text is one JSON value."""
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def encodes(text: str) -> bool:
    """Whether a text has no half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_calls(text: str, names: frozenset[str], *, marked: bool = True) -> list[Call] | None:
    """Read an object, or a list of objects, all of which must be calls."""
    if not text.startswith("["):
        call = read_call(text, names, marked=marked)
        return None if call is None else [call]
    calls = []
    place = _skip(text, 1)
    try:
        while True:
            _, end = _DECODER.raw_decode(text, place)
            call = read_call(text[place:end], names, marked=marked)
            if call is None:
                return None
            calls.append(call)
            place = _skip(text, end)
            if text[place] == "]":
                return calls if place == len(text) - 1 else None
            if text[place] != ",":
                return None
            place = _skip(text, place + 1)
    except (ValueError, IndexError, RecursionError):
        return None


def may_begin_call(text: str, names: frozenset[str]) -> bool:
    """Whether the beginning of an object or a list can still become a call: its first key and,
    if that is the name, the name."""
    rest = text[:PREFIX_CHARACTERS]
    if rest.startswith("["):
        rest = rest[_skip(rest, 1) :]
    if not rest:
        return True
    rest = rest[_skip(rest, 1) :] if rest.startswith("{") else "-"
    for expected in (_KEYS, (":",), tuple(names)):
        quoted = expected != (":",)
        words = [f'"{word}"' if quoted else word for word in expected]
        found = next((word for word in words if rest.startswith(word)), None)
        if found is None:
            return any(word.startswith(rest) for word in words)
        if quoted and found != '"name"':
            return True
        rest = rest[len(found) :]
        rest = rest[_skip(rest, 0) :]
    return True
