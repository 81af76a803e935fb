"""Owns tool calls as models write them in markup, inside <tool_call>: to JSON. Pure.

    Qwen 3 Coder and 3.5, Nemotron 3   <function=NAME><parameter=KEY>VALUE</parameter></function>
    GLM 4.5 and later                  NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>

Values have no types in markup. The function's parameter schema tells them: a string is taken as it
is written, anything else is read as JSON, and is a string if it is none. Source: the chat templates
of these models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from gateway.http.call_objects import Call, encodes, is_json

_NAME = r"[A-Za-z0-9_-]{1,64}"
_FUNCTION = re.compile(rf"<function=({_NAME})>\s*")
_PARAMETER = re.compile(r"<parameter=([^<>\n]{1,256})>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_FUNCTION_END = re.compile(r"</function>\s*\Z")
_PLAIN_NAME = re.compile(rf"({_NAME})\s*(?=<|\Z)")
_ARGUMENT = re.compile(
    r"<arg_key>([^<>\n]{1,256})</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL
)
_FUNCTION_BEGIN = "<function="


def may_begin_markup(text: str, names: Mapping[str, Any]) -> bool:
    """Whether the beginning of what stands in <tool_call> can still become a call in markup."""
    if text.startswith(_FUNCTION_BEGIN):
        text = text[len(_FUNCTION_BEGIN) :]
        return any(text.startswith(name + ">") or (name + ">").startswith(text) for name in names)
    if _FUNCTION_BEGIN.startswith(text):
        return True
    for name in names:
        rest = text[len(name) :].lstrip()
        if name.startswith(text) or (text.startswith(name) and rest[:1] in ("", "<")):
            return True
    return False


def read_markup(text: str, schemas: Mapping[str, Mapping[str, Any]]) -> Call | None:
    """Read what stands between <tool_call> and </tool_call>; None if it is no call of a function
    in `schemas` (the schemas of their parameters)."""
    begun = _FUNCTION.match(text)
    item, ending = (_PARAMETER, _FUNCTION_END) if begun else (_ARGUMENT, re.compile(r"\Z"))
    begun = begun or _PLAIN_NAME.match(text)
    if begun is None or begun.group(1) not in schemas:
        return None
    name, place = begun.group(1), begun.end()
    properties = schemas[name].get("properties")
    arguments: dict[str, Any] = {}
    while found := item.match(text, place):
        key = found.group(1).strip()
        schema = properties.get(key) if isinstance(properties, dict) else None
        arguments[key] = _value(found.group(2), schema)
        place = found.end()
    if ending.match(text, place) is None or not encodes(text):
        return None
    body = ", ".join(
        f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in arguments.items()
    )
    return Call(name, f"{{{body}}}")


def _value(text: str, schema: Any) -> str:
    """The JSON text of a value."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind != "string" and is_json(text.strip()):
        return text.strip()
    return json.dumps(text, ensure_ascii=False)
