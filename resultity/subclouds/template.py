"""Owns the files that `subcloud new` writes: every field, explained; or one of the examples. Pure
but for reading the examples, which are part of the package.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from importlib import resources

from resultity.subclouds.fields import CALLERS, POLICY, Field, Part, default_of
from resultity.subclouds.kinds import Kind
from resultity.subclouds.policy_writing import field_lines, scalar_text

EXAMPLES = ("team-model", "eu-only", "healthcare", "high-sla", "multimodal")
CALLERS_BUT_ANYONE = Part(CALLERS.model, CALLERS.fields[1:])
_WIDTH = 98
_SAMPLES = {
    "contact": "somebody@example.org",
    "minimum_quantisation": "Q4_K_M",
    "kind": "RTX",
    "input_max": "0.5",
    "output_max": "1.5",
}
"""What stands commented out where the default is nothing."""
HEAD = """\
# The policy of a subcloud. What is left out has its default; remove a `# ` to set a field.
# Check it with `resultity subcloud check FILE`, publish it with `resultity subcloud publish FILE`.
"""


def template(name: str) -> str:
    """Give a file with every field, commented out but for what a policy needs."""
    return "\n".join([HEAD, *_part(POLICY, "", name)]) + "\n"


def example(which: str, name: str | None) -> str:
    """Give one of the examples, under a name. Raises: KeyError."""
    if which not in EXAMPLES:
        raise KeyError(which)
    text = (resources.files("resultity.subclouds") / "examples" / f"{which}.yaml").read_text(
        "utf-8"
    )
    return text if name is None else re.sub(r"(?m)^name: \S+", f"name: {name}", text, count=1)


def _part(part: Part, indent: str, name: str = "") -> Iterator[str]:
    for field in part.fields:
        if field.name == "ended":
            continue
        explained = f"# {indent}# " if indent else "# "
        yield from textwrap.wrap(
            field.meaning, _WIDTH, initial_indent=explained, subsequent_indent=explained
        )
        if not indent and field.name == "name":
            yield f"name: {name}"
        elif not indent and field.name == "expires":
            yield "expires: 365d"
        elif not indent and field.name == "callers":
            yield from ("callers:", "  anyone: true")
            yield from _part(CALLERS_BUT_ANYONE, "  ")
        else:
            yield from _commented(part, field, indent)
        if not indent:
            yield ""


def _commented(part: Part, field: Field, indent: str) -> Iterator[str]:
    head = f"# {indent}{field.name}:"
    value = default_of(part, field)
    if field.many:
        kind = field.form
        texts = [scalar_text(kind, item) for item in value] if isinstance(kind, Kind) else []
        yield f"{head} [{', '.join(texts)}]"
    elif isinstance(field.form, Part):
        yield head
        yield from _part(field.form, indent + "  ")
    elif value in (None, ""):
        yield f"{head} {_SAMPLES[field.name]}"
    else:
        yield from (f"# {line}" for line in field_lines(field, value, indent))
