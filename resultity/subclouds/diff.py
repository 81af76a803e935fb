"""Owns the comparison of two policies, field by field, in the terms of the policy file. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from p2p.subclouds.policy import SubcloudPolicy
from resultity.subclouds.fields import POLICY, Field, Part, default_of
from resultity.subclouds.kinds import text
from resultity.subclouds.policy_writing import field_lines, policy_content, scalar_text

NAME = text("a name")


def differences(old: SubcloudPolicy, new: SubcloudPolicy) -> list[str]:
    """Give a line for each field that differs; for a list, one for each entry that is new or gone.

    Owner, version and times are not part of a policy file, and not compared.
    """
    return list(_compare(POLICY, policy_content(old), policy_content(new), ""))


def _compare(
    part: Part, old: Mapping[str, Any], new: Mapping[str, Any], path: str
) -> Iterator[str]:
    for field in part.fields:
        before, after = old.get(field.key), new.get(field.key)
        if before == after:
            continue
        name = f"{path}{field.name}"
        if field.many:
            yield from _lists(part, field, before, after, name)
        elif isinstance(field.form, Part):
            if default_of(part, field) is None and (before is None or after is None):
                yield f"{name}: {'added' if before is None else 'removed'}"
            yield from _compare(field.form, before or {}, after or {}, f"{name}.")
        else:
            shown = [_scalar(part, field, value) for value in (before, after)]
            yield f"{name}: {shown[0]} -> {shown[1]}"


def _scalar(part: Part, field: Field, value: Any) -> str:
    if value is None:
        default = default_of(part, field)
        if default in (None, ""):
            return "(none)"
        value = default
    (line,) = field_lines(field, value)
    return line.partition(": ")[2]


def _lists(part: Part, field: Field, old: Any, new: Any, name: str) -> Iterator[str]:
    before = list(old if old is not None else default_of(part, field))
    after = list(new if new is not None else default_of(part, field))
    gone = [item for item in before if item not in after]
    added = [item for item in after if item not in before]
    if isinstance(field.form, Part):
        # An entry that kept its name has changed, it is not another one.
        for item in list(added):
            twin = next((other for other in gone if other["name"] == item["name"]), None)
            if twin is not None and twin["name"]:
                gone.remove(twin)
                added.remove(item)
                label = scalar_text(NAME, item["name"])  # a stranger's text may steer a terminal
                yield from _compare(field.form, twin, item, f"{name}[{label}].")
    yield from (f"{name}: - {_entry(field, item)}" for item in gone)
    yield from (f"{name}: + {_entry(field, item)}" for item in added)
    if not gone and not added and len(before) == len(after) and before != after:
        same = [item for item in before if item in after] == before
        if same and sorted(map(str, before)) == sorted(map(str, after)):
            yield f"{name}: another order"
    elif not gone and not added and len(before) != len(after):
        yield f"{name}: entries that stand there twice"


def _entry(field: Field, item: Any) -> str:
    lines = [line.strip().removeprefix("- ") for line in field_lines(field, [item])]
    text = ", ".join(lines[1:]) if len(lines) > 1 else lines[0].partition(": ")[2].strip("[]")
    return text
