"""Schemas whose grammar would follow ever more readings are refused; ordinary ones are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from node.errors import RuntimeRefusedError
from node.runtime.sampling import read_request
from node.runtime.schema_ambiguity import readings_of

MOST = 512


def below(definitions: dict[str, Any], first: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": {"$ref": f"#/$defs/{first}"}},
        "required": ["a"],
        "$defs": definitions,
    }


def levels(width: int, depth: int) -> dict[str, Any]:
    """Arrays of alike alternatives, so many levels deep."""
    definitions: dict[str, Any] = {
        f"d{level}": {
            "anyOf": [
                {"type": "array", "items": {"$ref": f"#/$defs/d{level + 1}"}, "minItems": count + 1}
                for count in range(width)
            ]
        }
        for level in range(depth)
    }
    definitions[f"d{depth}"] = {"type": "string"}
    return below(definitions, "d0")


def kinds(*, told_apart: bool) -> dict[str, Any]:
    """A recursive union of objects, which have a constant that tells them apart or not."""
    alternatives = [
        {
            "type": "object",
            "properties": {
                "kind": {"const": kind} if told_apart else {"type": "string"},
                "left": {"$ref": "#/$defs/e"},
                "right": {"$ref": "#/$defs/e"},
            },
            "required": ["kind", "left", "right"],
        }
        for kind in ("add", "sub", "mul")
    ]
    return below({"e": {"anyOf": [*alternatives, {"type": "number"}]}}, "e")


def test_alike_alternatives_multiply_over_the_levels() -> None:
    assert readings_of(levels(2, 3), MOST) == 8
    assert readings_of(levels(3, 4), MOST) == 81
    assert readings_of(levels(4, 8), MOST) > MOST
    assert readings_of(levels(2, 60), MOST) > MOST


def test_a_recursion_may_not_multiply() -> None:
    assert readings_of(kinds(told_apart=True), MOST) == 1
    assert readings_of(kinds(told_apart=False), MOST) > MOST
    further = {"type": "object", "properties": {"b": {"$ref": "#/$defs/e"}}}
    assert readings_of(below({"e": further}, "e"), MOST) == 1
    further["additionalProperties"] = {"$ref": "#/$defs/e"}
    assert readings_of(below({"e": further}, "e"), MOST) > MOST


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string"},
        {"enum": list(range(MOST))},
        {"type": ["string", "null"]},
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(100)}},
        {"allOf": [{"properties": {"a": {"type": "string"}}}]},
        {"type": "array", "prefixItems": []},
        {"$ref": "#/nowhere"},
        below({"n": {"anyOf": [{"$ref": "#/$defs/n"}]}}, "n"),
    ],
)
def test_ordinary_and_odd_schemas_are_counted(schema: dict[str, Any]) -> None:
    assert 1 <= readings_of(schema, MOST) <= MOST


def test_a_request_with_such_a_schema_is_refused() -> None:
    schema = {"name": "x", "schema": levels(4, 8)}
    fields = {
        "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    with pytest.raises(RuntimeRefusedError, match="alternatives that begin alike"):
        read_request(json.dumps(fields).encode())


def test_a_function_is_forced_once() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    fields = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [tool, tool],
        "tool_choice": "required",
    }
    with pytest.raises(RuntimeRefusedError, match="twice"):
        read_request(json.dumps(fields).encode())
