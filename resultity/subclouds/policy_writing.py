"""Owns the writing of a policy as the file that makes it: one form, defaults left out. Pure.

A text stands plain only if no YAML reader, of version 1.1 either, takes it for something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from p2p.approved_models import unverified_digest
from p2p.subclouds.identity import label_of
from p2p.subclouds.policy import SubcloudPolicy
from p2p.types import NetworkId
from resultity.subclouds.fields import POLICY, Field, Part, default_of
from resultity.subclouds.kinds import Kind
from resultity.subclouds.policy_file import UNVERIFIED

LINE_CHARACTERS = 100
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@+-]*( [A-Za-z0-9_./@+-]+)*")
_WORDS = frozenset(["true", "false", "yes", "no", "on", "off", "y", "n", "null"])
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def write_policy_file(policy: SubcloudPolicy) -> str:
    """Give the file of a policy; `read_policy_file` makes the same policy of it."""
    return "\n".join(_part(POLICY, policy_content(policy), "")) + "\n"


def policy_content(policy: SubcloudPolicy) -> dict[str, Any]:
    """Give what stands in a policy's file: by the policy's field names, defaults left out."""
    content = policy.model_dump(mode="python", exclude_defaults=False)
    content["subcloud_id"] = label_of(policy.identity)
    content["expires_ms"] = policy.expires_ms - policy.issued_ms
    network = NetworkId(policy.network_id)
    for own in content["models"]["own"]:
        if own["digest"] == unverified_digest(network, own["name"]).hex():
            own["digest"] = UNVERIFIED
    return _without_defaults(POLICY, content)


def _without_defaults(part: Part, content: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for field in part.fields:
        value = content[field.key]
        default = default_of(part, field)
        if isinstance(field.form, Part) and value is not None:
            if field.many:
                value = [_without_defaults(field.form, item) for item in value]
            else:
                value = _without_defaults(field.form, value)
                default = {} if default is not None else None
        elif field.many and value is not None:
            value, default = list(value), list(default)
        if (
            field.required
            or (value != default and value is not None and value != [])
            or (field.many and value == [] and default)
        ):
            kept[field.key] = value
    return kept


def scalar_text(kind: Kind, value: Any) -> str:
    """Write one value as it stands in the file."""
    text = kind.write(value)
    if kind.plain or (_PLAIN.fullmatch(text) and text.lower() not in _WORDS):
        return text
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else (
        f"\\U{code:08x}"
    )  # fmt: skip


def _part(part: Part, content: Mapping[str, Any], indent: str) -> Iterator[str]:
    for field in part.fields:
        if field.key in content:
            yield from field_lines(field, content[field.key], indent)


def field_lines(field: Field, value: Any, indent: str = "") -> Iterator[str]:
    """Write one field with its value."""
    head = f"{indent}{field.name}:"
    if not field.many:
        if isinstance(field.form, Kind):
            yield f"{head} {scalar_text(field.form, value)}"
        elif not value:
            yield f"{head} {{}}"
        else:
            yield head
            yield from _part(field.form, value, indent + "  ")
        return
    texts = [_short(field, item) for item in value]
    line = f"{head} [{', '.join(text or '' for text in texts)}]"
    if all(texts) and len(line) <= LINE_CHARACTERS:
        yield line
        return
    yield head
    for item, text in zip(value, texts, strict=True):
        if text:
            yield f"{indent}  - {text}"
            continue
        assert isinstance(field.form, Part)
        first, *rest = _part(field.form, item, indent + "    ")
        yield f"{indent}  - {first.strip()}"
        yield from rest


def _short(field: Field, item: Any) -> str | None:
    """Write an entry of a list on its line, if it can stand there."""
    if isinstance(field.form, Kind):
        return scalar_text(field.form, item)
    if field.form.short and set(item) == {field.form.short}:
        inner = field.form.field(field.form.short)
        assert isinstance(inner.form, Kind)
        return scalar_text(inner.form, item[field.form.short])
    return None
