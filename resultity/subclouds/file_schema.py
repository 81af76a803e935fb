"""Owns what is published about policy files: their JSON schema and the table of their fields.

`python -m resultity.subclouds.file_schema schema > docs/reference/subcloud-policy.schema.json` and
`... fields` (the tables in docs/reference/subcloud-policy.md) write them; tests compare both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from resultity.subclouds.fields import POLICY, Bounds, Field, Part, bounds_of, default_of
from resultity.subclouds.kinds import Kind
from resultity.subclouds.policy_writing import scalar_text

TITLE = "resultity/subcloud-policy-file/1"


def file_schema() -> dict[str, Any]:
    """Give the JSON schema of a policy file as a YAML reader gives it to a validator."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        "description": "A subcloud's policy as its owner writes it (YAML 1.2).",
        **_part_schema(POLICY),
    }


def _part_schema(part: Part) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.name: _field_schema(part, field) for field in part.fields},
    }
    required = [field.name for field in part.fields if field.required]
    return schema | ({"required": required} if required else {})


def _field_schema(part: Part, field: Field) -> dict[str, Any]:
    bounds = bounds_of(part, field)
    if isinstance(field.form, Part):
        schema = _part_schema(field.form)
        if field.form.short:
            short = field.form.field(field.form.short)
            schema = {"anyOf": [_field_schema(field.form, short), schema]}
    else:
        schema = dict(field.form.schema)
        if schema.get("type") in ("integer", "number"):
            limits = {"minimum": bounds.least, "maximum": bounds.most}
            schema |= {name: limit for name, limit in limits.items() if limit is not None}
    if field.many:
        schema = {"type": "array", "items": schema}
        if bounds.items_least:
            schema["minItems"] = bounds.items_least
        if bounds.items_most is not None:
            schema["maxItems"] = bounds.items_most
    return {"description": field.meaning, **schema}


def field_tables() -> str:
    """Give every field of a policy file as Markdown tables, one for each part."""
    return "\n".join(_tables(POLICY, ""))


def _tables(part: Part, path: str) -> Iterator[str]:
    title = f"### `{path}`" if path else "### At the top"
    yield f"{title}\n\n| field | value | default | meaning |\n|---|---|---|---|"
    inner: list[tuple[Part, str]] = []
    for field in part.fields:
        cells = (f"`{field.name}`", _value(part, field), _default(part, field), _cell(field))
        yield f"| {' | '.join(cells)} |"
        if isinstance(field.form, Part):
            inner.append((field.form, f"{path}.{field.name}" if path else field.name))
    yield ""
    for form, name in inner:
        yield from _tables(form, name)


def _cell(field: Field) -> str:
    return field.meaning.replace("|", "\\|")


def _value(part: Part, field: Field) -> str:
    bounds = bounds_of(part, field)
    if isinstance(field.form, Part):
        what = f"fields of `{field.name}`"
        if field.form.short:
            what = f"`{field.form.short}` alone, or {what}"
    else:
        what = field.form.what + _limits(field.form, field, bounds)
    if not field.many:
        return what
    most = f"; at most {bounds.items_most}" if bounds.items_most is not None else ""
    return f"a list{most}: {what}"


def _limits(kind: Kind, field: Field, bounds: Bounds) -> str:
    said = []
    if not field.special and bounds.least:
        said.append(f"at least {kind.write(bounds.least)}")
    if not field.special and bounds.most is not None and bounds.most < 10**9:
        said.append(f"at most {kind.write(bounds.most)}")
    return f"; {', '.join(said)}" if said else ""


def _default(part: Part, field: Field) -> str:
    if field.required:
        return "required"
    value = default_of(part, field)
    if isinstance(field.form, Part) or value in (None, "", ()):
        return "none"
    if field.many:
        return "`[" + ", ".join(scalar_text(field.form, item) for item in value) + "]`"
    return f"`{scalar_text(field.form, value)}`"


def main() -> None:
    """Print the schema or the tables."""
    if sys.argv[1:] == ["schema"]:
        print(json.dumps(file_schema(), indent=1))
    else:
        print(field_tables(), end="")


if __name__ == "__main__":
    main()
