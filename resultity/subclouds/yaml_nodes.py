"""Owns the reading of a YAML file as a bounded tree whose every part knows its line and column.

Theory of operation. ruamel.yaml reads YAML 1.2 (`NO` is a text, not false). Its events are looked
at before a tree is made: the file's size, the number of values and their depth are bounded, and
what a policy file has no use for is refused where it stands: anchors, aliases (a few lines of them
can stand for billions of values), tags, merge keys, directives, a second document. Scalars keep the
text as it was typed, so that `1.10` is not 1.1 and no amount passes through a float. A key that
stands twice is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import MappingNode, ScalarNode
from ruamel.yaml.reader import ReaderError

FILE_BYTES_MAX = 256 * 1024
"""Twice what the canonical form of a policy may have."""
VALUES_MAX = 20_000
DEPTH_MAX = 12
"""A policy file has four levels; far below what Python's recursion bears."""
PROBLEMS_MAX = 100
_TAG_PREFIX = "tag:yaml.org,2002:"


class Problem(NamedTuple):
    """What is wrong at a place (both numbers begin at 1), and what to do."""

    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


class PolicyFileError(Exception):
    """A policy file is wrong. All that was found, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        ordered = sorted(set(problems))
        self.problems = tuple(ordered[:PROBLEMS_MAX])
        lines = [str(problem) for problem in self.problems]
        if len(ordered) > PROBLEMS_MAX:
            lines.append(f"and {len(ordered) - PROBLEMS_MAX} more")
        super().__init__("\n".join(lines))


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it was typed. `kind`: `str`, `int`, `float`, `bool`, `null` or `timestamp`."""

    line: int
    column: int
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    line: int
    column: int
    items: tuple[Tree, ...]


class Entry(NamedTuple):
    """A key of a mapping, with its place and its value."""

    line: int
    column: int
    key: str
    value: Tree


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping."""

    line: int
    column: int
    entries: tuple[Entry, ...]


Tree = Scalar | Items | Entries


def read_tree(text: str) -> Tree:
    """Read a YAML text as a tree. Raises: PolicyFileError."""
    if len(text.encode("utf-8", "replace")) > FILE_BYTES_MAX:
        raise PolicyFileError([Problem(1, 1, f"a policy file has at most {FILE_BYTES_MAX} bytes")])
    try:
        problems = list(_refused(_reader().parse(text)))
        if problems:
            raise PolicyFileError(problems)
        node = _reader().compose(text)
    except MarkedYAMLError as error:
        raise PolicyFileError([_syntax(error)]) from error
    except ReaderError as error:
        place = _place_of(text, error.position)
        message = f"U+{int(error.character):04X} may not stand in a YAML file: remove it"
        raise PolicyFileError([Problem(*place, message)]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise PolicyFileError([Problem(1, 1, f"cannot be read as YAML: {error}"[:200])]) from error
    if node is None:
        raise PolicyFileError([Problem(1, 1, "the file is empty: begin with `name:`")])
    found: list[Problem] = []
    tree = _tree(node, found)
    if found:
        raise PolicyFileError(found)
    return tree


def _reader() -> YAML:
    reader = YAML(typ="rt", pure=True)
    reader.version = (1, 2)
    return reader


def _refused(events: Iterator[Event]) -> Iterator[Problem]:
    depth = values = 0
    for event in events:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, NodeEvent):
            values += 1
            if isinstance(event, AliasEvent) or event.anchor is not None:
                yield Problem(line, column, "anchors (&) and aliases (*) are refused: write it out")
            elif _has_tag(event):
                yield Problem(line, column, "tags (!) are refused: write the value alone")
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            depth += 1
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            depth -= 1
        elif isinstance(event, DocumentStartEvent) and (event.version or event.tags):
            yield Problem(line, column, "directives (%) are refused: remove the line")
        if depth > DEPTH_MAX or values > VALUES_MAX:
            bound = f"{VALUES_MAX} values, {DEPTH_MAX} levels"
            yield Problem(line, column, f"too much for a policy file (at most {bound})")
            return


def _has_tag(event: NodeEvent) -> bool:
    tag = getattr(event, "tag", None)
    if isinstance(event, ScalarEvent):
        return (tag is not None and tag != "!") or (tag == "!" and event.style is None)
    return tag is not None


def _syntax(error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    said = error.problem or str(error)
    if "another document" in said:
        hint = "a policy file is one document: remove the `---`"
    elif "tab" in said or "\\t" in said:
        hint = "indent with spaces, not with tabs"
    elif "mapping values are not allowed" in said:
        hint = "check the indentation, and put a text with `: ` in quotes"
    elif "scanning a quoted scalar" in (error.context or ""):
        hint = "a quotation mark is not closed"
    else:
        hint = "check brackets, quotation marks and indentation"
    return Problem(line, column, f"cannot be read as YAML ({said}): {hint}".replace("\n", " "))


def _place_of(text: str, position: Any) -> tuple[int, int]:
    before = text[: int(position)] if position is not None else ""
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _tree(node: Any, problems: list[Problem]) -> Tree:
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    if isinstance(node, ScalarNode):
        return Scalar(line, column, node.value, _kind(node))
    if not isinstance(node, MappingNode):
        return Items(line, column, tuple(_tree(item, problems) for item in node.value))
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for key, value in node.value:
        place = key.start_mark.line + 1, key.start_mark.column + 1
        if not isinstance(key, ScalarNode):
            problems.append(Problem(*place, "a field's name is a word"))
            continue
        if key.value in seen:
            message = f"`{key.value[:40]}` stands here twice (first in line {seen[key.value]})"
            problems.append(Problem(*place, f"{message}: keep one"))
            continue
        seen[key.value] = place[0]
        tree = _tree(value, problems)
        if isinstance(tree, Scalar) and tree.kind == "null" and not tree.text:
            tree = Scalar(*place, "", "null")  # nothing stands nowhere: its field's place is said
        entries.append(Entry(*place, key.value, tree))
    return Entries(line, column, tuple(entries))


def _kind(node: ScalarNode) -> str:
    tag = str(node.tag)
    return tag.removeprefix(_TAG_PREFIX) if node.style is None else "str"
