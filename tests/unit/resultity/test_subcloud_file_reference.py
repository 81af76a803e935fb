"""What is published about policy files is made from the table that reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from resultity.subclouds.fields import POLICY, Field, Part, bounds_of
from resultity.subclouds.file_schema import field_tables, file_schema
from resultity.subclouds.kinds import Kind, Moment
from resultity.subclouds.policy_file import read_policy_file
from resultity.subclouds.policy_writing import scalar_text
from resultity.subclouds.template import template
from resultity.subclouds.yaml_nodes import PolicyFileError

REFERENCE = Path(__file__).resolve().parents[3] / "docs/reference"


def test_the_published_schema_is_the_code_s() -> None:
    published = json.loads((REFERENCE / "subcloud-policy.schema.json").read_text())
    assert published == file_schema(), (
        "write it again: python -m resultity.subclouds.file_schema schema "
        "> docs/reference/subcloud-policy.schema.json"
    )


def test_the_reference_has_every_field() -> None:
    page = (REFERENCE / "subcloud-policy.md").read_text()
    assert field_tables().strip() in page, (
        "write the tables again: python -m resultity.subclouds.file_schema fields"
    )
    shown = "\n".join(line[4:] for line in page.splitlines() if line.startswith("    "))
    assert read_policy_file(shown).name == "eu-legal"


def test_the_template_is_a_policy_as_it_is_and_with_everything_set() -> None:
    text = template("eu-legal")
    assert read_policy_file(text).name == "eu-legal"
    lines = [re.sub(r"^# (?=( |\w+:( |$)))", "", line) for line in text.splitlines()]
    everything = "\n".join(lines)
    read_policy_file(everything)
    for name in ("capacity_slots_min: 0", "    kind: RTX", "owner_fee: 0%", "delegate_keys: []"):
        assert f"\n{name}" in everything or f"  {name}" in everything, name


def scalars(part: Part) -> list[tuple[Part, Field, Kind]]:
    found = []
    for field in part.fields:
        if isinstance(field.form, Part):
            found += scalars(field.form)
        else:
            found.append((part, field, field.form))
    return found


@pytest.mark.parametrize(
    ("part", "field", "kind"), scalars(POLICY), ids=lambda value: getattr(value, "name", "-")
)
def test_the_schema_s_pattern_admits_what_the_reader_admits(
    part: Part, field: Field, kind: Kind
) -> None:
    texts = [
        "a", "DE", "NO", "30d", "1.5h", "800ms", "99.5%", "24 GiB", "0.25", "5", "true", "open",
        "chat", "text", "declared", "e" * 64, "unverified", "acct-" + "1" * 40, "2027-01-01", "",
        "10.0.0.0/8", "a" * 16, "x\ny", "none", "finish", "1.0000001", "-1", "1e3", "x" * 501,
    ]  # fmt: skip
    pattern = kind.schema.get("pattern")
    for text in texts:
        try:
            value = kind.parse(text)
        except ValueError:
            admitted = False
        else:
            admitted = True
            if not isinstance(value, Moment):
                assert kind.parse(kind.write(value)) == value
            bounds = bounds_of(part, field)
            assert bounds.most is None or kind.write(bounds.most) or field.special
        if pattern is not None and text != "":
            assert bool(re.search(pattern, text)) >= admitted, (field.name, text)
        if "enum" in kind.schema:
            assert (text in kind.schema["enum"]) == admitted


def test_texts_that_other_readers_misread_are_quoted() -> None:
    kind = next(kind for _, field, kind in scalars(POLICY) if field.name == "contact")
    assert [scalar_text(kind, text) for text in ("NO", "1.10", "a b", "x: y", "ä\x85")] == [
        '"NO"',
        '"1.10"',
        "a b",
        '"x: y"',
        '"ä\\x85"',
    ]


def test_a_policy_that_is_too_large_is_refused_in_a_line() -> None:
    accounts = [f"acct-{number:040x}" for number in range(1000)]
    digests = [f'"{number:064x}"' for number in range(256)]
    names = [f"n{number:099d}" for number in range(256)]
    text = (
        "name: big\nexpires: 1d\ncallers:\n"
        f"  accounts: [{', '.join(accounts)}]\n"
        f"  namespaces: [{', '.join(f'{account}/prod' for account in accounts)}]\n"
        f"models:\n  digests: [{', '.join(digests)}]\n  names: [{', '.join(names)}]\n"
    )
    with pytest.raises(PolicyFileError, match="line 1, column 1: a policy has at most 131072"):
        read_policy_file(text)
