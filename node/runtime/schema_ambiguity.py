"""Owns how many ways of reading an answer a JSON schema leaves open at once. Pure.

Theory of operation. llama.cpp's grammar follows all readings of the text so far side by side: after
`[[[[`, a schema with four alternatives of arrays in each of eight levels has 4**8 of them, and a
step takes minutes, for everybody in the batch, until the runtime is taken for dead. So readings are
counted before a grammar is made. Alternatives that begin differently (an array and an object, or
objects whose first required property has another name or another constant) are told apart at once;
those that begin alike add up, and so multiply over the levels. References are counted in rounds,
each with what the round before found: what grows without end shows itself within a few.
The cases and their order are those of llama.cpp's converter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

ANYTHING = ""
"""An object that may begin with any property."""
ROUNDS_MORE = 16
"""After each reference was counted once: a number that doubles has grown 65,536 times."""
Beginning = tuple[str, str, str]
"""Of a value: its kind, an object's first property, and that property's constant."""


def readings_of(schema: Mapping[str, Any], most: int) -> int:
    """Count the readings that may be open at once; what is above `most` is not counted further.

    The schema has no more levels than a caller's recursion can take (`sampling._check_schema`).
    """
    references = _references(schema)
    known: dict[str, Counter[Beginning]] = {
        reference: Counter({("", ANYTHING, ""): 1}) for reference in references
    }
    for _ in range(len(references) + ROUNDS_MORE):
        found = {
            reference: _beginnings(target, known, most) for reference, target in references.items()
        }
        if found == known or any(_most(each) > most for each in found.values()):
            known = found
            break
        known = found
    # A reference that nobody follows counts too: nothing sensible has one.
    return max(_most(_beginnings(schema, known, most)), *map(_most, known.values()), 1)


def _references(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What the schema refers to, as far as it can be found."""
    found: dict[str, Any] = {}
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, Mapping):
            reference = node.get("$ref")
            if isinstance(reference, str) and reference not in found:
                found[reference] = _target(schema, reference)
            waiting.extend(node.values())
    return found


def _target(schema: Any, reference: str) -> Any:
    for name in reference.split("#")[-1].split("/")[1:]:
        schema = schema.get(name) if isinstance(schema, Mapping) else None
    return schema


def _beginnings(
    node: Any, known: Mapping[str, Counter[Beginning]], most: int
) -> Counter[Beginning]:
    """How many readings there are after each beginning of a value."""
    if not isinstance(node, Mapping):
        return Counter({("", ANYTHING, ""): 1})
    if isinstance(node.get("$ref"), str):
        return known[node["$ref"]]
    alternatives = node.get("oneOf") or node.get("anyOf")
    if isinstance(alternatives, list):
        total: Counter[Beginning] = Counter()
        for alternative in alternatives:
            total.update(_beginnings(alternative, known, most))
        return Counter({key: min(count, most + 1) for key, count in total.items()})
    kind = node.get("type")
    if isinstance(kind, list):
        return Counter({(str(each), ANYTHING, ""): 1 for each in kind})
    if "const" in node:
        return Counter({("constant", ANYTHING, ""): 1})
    if isinstance(node.get("enum"), list):
        return Counter({("constant", ANYTHING, ""): max(1, len(node["enum"]))})

    def inner(part: Any) -> int:
        return _most(_beginnings(part, known, most))

    properties = node.get("properties")
    if isinstance(properties, Mapping) or isinstance(node.get("additionalProperties"), Mapping):
        named = properties if isinstance(properties, Mapping) else {}
        # A further property may have the name of one of these.
        readings = max((inner(part) for part in named.values()), default=0)
        further = node.get("additionalProperties")
        readings += inner(further) if further not in (None, False) else 0
        return Counter({("object", *_first(node, named)): min(max(1, readings), most + 1)})
    if isinstance(node.get("allOf"), list):
        parts = [_parts_of(part) for part in node["allOf"]]
        readings = sum(inner(part) for several in parts for part in several)
        return Counter({("object", ANYTHING, ""): min(max(1, readings), most + 1)})
    items = node.get("items") or node.get("prefixItems")
    if isinstance(items, list):
        return Counter({("array", ANYTHING, ""): max(map(inner, items), default=1)})
    if items:
        return Counter({("array", ANYTHING, ""): inner(items)})
    return Counter({(str(kind or ""), ANYTHING, ""): 1})


def _parts_of(node: Any) -> list[Any]:
    """The parts of a part of `allOf`, which the converter makes into one object."""
    parts = node.get("anyOf") if isinstance(node, Mapping) else None
    return parts if isinstance(parts, list) else [node]


def _first(node: Mapping[str, Any], named: Mapping[str, Any]) -> tuple[str, str]:
    """The property that an object begins with, and its constant; required ones come first."""
    required = node.get("required")
    if not isinstance(required, list):
        return ANYTHING, ""
    for name, part in named.items():
        if name in required:
            values = part.get("enum") if isinstance(part, Mapping) else None
            if isinstance(part, Mapping) and "const" in part:
                values = [part["const"]]
            one = isinstance(values, list) and len(values) == 1
            return f"={name}", repr(values[0]) if one and values else ""
    return ANYTHING, ""


def _most(beginnings: Counter[Beginning]) -> int:
    """How many readings are open after the beginning that leaves most of them open."""
    anything = sum(count for (kind, _, _), count in beginnings.items() if kind == "")
    best = 0
    for kind in {kind for kind, _, _ in beginnings}:
        of_kind = {key[1:]: count for key, count in beginnings.items() if key[0] == kind}
        any_first = sum(count for (first, _), count in of_kind.items() if first == ANYTHING)
        named = 0
        for first in {first for first, _ in of_kind if first != ANYTHING}:
            group = {value: n for (name, value), n in of_kind.items() if name == first}
            named = max(
                named, group.get("", 0) + max((n for v, n in group.items() if v), default=0)
            )
        best = max(best, any_first + named + (anything if kind else 0))
    return max(best, 1)
