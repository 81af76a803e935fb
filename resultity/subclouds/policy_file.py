"""Owns the reading of a policy file: YAML that a person wrote becomes a `SubcloudPolicy`.

Theory of operation. The file says what the owner decides; who the owner is, which network, version
and predecessor it is about come from `Origin` when it is signed, so that a file can be checked
without either. File and policy map one to one: each field of the file is one field of the policy
(`resultity.subclouds.fields`), what the file leaves out has the policy's default, and
`write_policy_file` gives back the file. Everything that is wrong is told at once, each with its
line and column: what is wrong in itself is left out, then the rest is held against the policy's own
rules (`p2p.subclouds.policy`), so that a contradiction elsewhere is found too.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pydantic

from p2p.approved_models import unverified_digest
from p2p.errors import MalformedError
from p2p.subclouds.identity import SubcloudId, subcloud_id
from p2p.subclouds.policy import (
    PolicyConflictsError,
    SubcloudPolicy,
    canonical_json,
    check_policy_size,
)
from p2p.subclouds.records import KnownPolicy
from p2p.types import AccountId, NetworkId
from resultity.subclouds.fields import POLICY, Field, Part, bounds_of
from resultity.subclouds.kinds import Kind, Moment, shortened
from resultity.subclouds.yaml_nodes import (
    PROBLEMS_MAX,
    Entries,
    Entry,
    Items,
    PolicyFileError,
    Problem,
    Scalar,
    Tree,
    read_tree,
)

UNVERIFIED = "unverified"
TIME_MS_MAX = 2**53
NAME_CHARACTERS = 40
Path = tuple[str | int, ...]
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a policy says of itself beside the file: who signs which version of what, and when.

    `identity`: the subcloud, if there is a version before; else the owner founds it.
    """

    network: NetworkId
    owner: AccountId
    issued_ms: int
    version: int = 1
    predecessor_digest: str | None = None
    identity: SubcloudId | None = None

    @classmethod
    def after(cls, known: KnownPolicy, now_ms: int, owner: AccountId | None = None) -> Origin:
        """The version that follows one, by its owner or by who it was handed to."""
        before = known.policy
        return cls(
            NetworkId(before.network_id),
            owner or AccountId(before.owner),
            max(now_ms, before.issued_ms),
            before.version + 1,
            known.digest,
            known.identity,
        )


NOBODY = Origin(NetworkId("unsigned-" + "0" * 32), AccountId("acct-" + "0" * 40), 0)
"""Stands in when a file is checked only."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy file that was read: right in itself."""

    name: str
    _content: dict[str, Any]
    _lifetime: int | Moment
    _places: dict[Path, Place]

    def policy(self, origin: Origin) -> SubcloudPolicy:
        """Make the policy that is signed.

        Raises: PolicyFileError if it does not go with its origin (another subcloud's name, an end
            that is over, more bytes than a policy may have).
        """
        problems = _Problems(self._places)
        policy = _build(self._content, self.name, self._lifetime, origin, problems)
        if policy is None:
            raise PolicyFileError(problems.found)
        try:
            check_policy_size(canonical_json(policy))
        except MalformedError as error:
            raise PolicyFileError([Problem(1, 1, str(error))]) from error
        return policy


def read_policy_file(text: str) -> PolicyFile:
    """Read a policy file. Raises: PolicyFileError with everything that is wrong."""
    tree = read_tree(text)
    reader = _Reader()
    content = reader.part(POLICY, tree, ()) or {}
    problems = _Problems(reader.places, list(reader.problems), reader.failed)
    name = content.pop("subcloud_id", "unnamed")
    lifetime = content.pop("expires_ms", 1000)
    # A date is held against the clock when the policy is made for its origin.
    known_lifetime = 1000 if isinstance(lifetime, Moment) else lifetime
    _build(content, name, known_lifetime, NOBODY, problems)
    if problems.found:
        raise PolicyFileError(problems.found)
    found = PolicyFile(name, content, lifetime, reader.places)
    found.policy(NOBODY)
    return found


class _Reader:
    """Walks a tree along the table of fields; keeps what is right, notes what is not."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.places: dict[Path, Place] = {}
        self.failed: set[str] = set()

    def part(self, part: Part, tree: Tree, path: Path) -> dict[str, Any] | None:
        """Read a mapping; None if it is unusable."""
        if part.short and isinstance(tree, Scalar):
            tree = Entries(
                tree.line, tree.column, (Entry(tree.line, tree.column, part.short, tree),)
            )
        if not isinstance(tree, Entries):
            said = "fields with values (`field: value`)"
            self._note(tree, path, f"expected {said}, not {_shown(tree)}")
            return None
        self.places[path] = tree.line, tree.column
        content: dict[str, Any] = {}
        whole = True
        known = {field.name: field for field in part.fields}
        for entry in tree.entries:
            field = known.get(entry.key)
            if field is None:
                self._unknown(entry, known, path)
                whole = False
                continue
            inner = (*path, field.key)
            self.places[inner] = entry.line, entry.column
            value = self._field(part, field, entry.value, inner)
            if value is not None:
                content[field.key] = value
            whole = whole and value is not None
        given = {entry.key for entry in tree.entries}
        for field in part.fields:
            if field.required and field.name not in given:
                self._note(tree, (*path, field.key), f"`{field.name}` is missing: {_what(field)}")
                whole = False
        # One entry of a list is left out as a whole; of the policy itself, what is right is kept.
        return content if whole or not (path and isinstance(path[-1], int)) else None

    def _field(self, part: Part, field: Field, tree: Tree, path: Path) -> Any:
        if not field.many:
            return self._value(part, field, tree, path)
        if not isinstance(tree, Items):
            self._note(tree, path, f"`{field.name}` is a list: write [a, b], or lines with `- `")
            return None
        bounds = bounds_of(part, field)
        most, count = bounds.items_most, len(tree.items)
        if count < bounds.items_least or (most is not None and count > most):
            limit = f"at least {bounds.items_least}" if count < bounds.items_least else f"{most}"
            self._note(tree, path, f"`{field.name}` has {count} entries: {limit} are possible")
            return None
        values: list[Any] = []
        for item in tree.items:
            value = self._value(part, field, item, (*path, len(values)))
            if value is not None:
                values.append(value)
        return values

    def _value(self, part: Part, field: Field, tree: Tree, path: Path) -> Any:
        self.places[path] = tree.line, tree.column
        if isinstance(field.form, Part):
            return self.part(field.form, tree, path)
        if not isinstance(tree, Scalar):
            self._note(
                tree, path, f"`{field.name}`: expected {field.form.what}, not {_shown(tree)}"
            )
            return None
        try:
            value = _parse(field.form, tree)
            _check_bounds(part, field, field.form, value)
        except ValueError as error:
            self._note(tree, path, f"`{field.name}`: {error}")
            return None
        return value

    def _unknown(self, entry: Entry, known: dict[str, Field], path: Path) -> None:
        # Looking for what was meant costs time: a file of mistakes gets it for the first of them.
        looked = len(entry.key) <= NAME_CHARACTERS and len(self.problems) < PROBLEMS_MAX
        near = difflib.get_close_matches(entry.key, known, 1) if looked else []
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
        message = f"there is no field `{shortened(entry.key)[1:-1]}` here: {hint}"
        self.problems.append(Problem(entry.line, entry.column, message))
        if near:
            self.failed.add(_dotted((*path, known[near[0]].key)))

    def _note(self, tree: Tree, path: Path, message: str) -> None:
        self.problems.append(Problem(tree.line, tree.column, message))
        self.failed.add(_dotted(path))


def _what(field: Field) -> str:
    return f"write {field.form.what}" if isinstance(field.form, Kind) else "write it"


def _shown(tree: Tree) -> str:
    if isinstance(tree, Scalar):
        return "nothing" if tree.kind == "null" else shortened(tree.text)
    return "a list" if isinstance(tree, Items) else "a mapping"


def _parse(kind: Kind, scalar: Scalar) -> Any:
    if scalar.kind == "null":
        raise ValueError(f"expected {kind.what}, not nothing")
    if (scalar.kind == "bool") != kind.flag:
        hint = " (put it in quotation marks)" if scalar.kind == "bool" else ""
        raise ValueError(f"expected {kind.what}, not {shortened(scalar.text)}{hint}")
    try:
        scalar.text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no character: remove it") from None
    return kind.parse(scalar.text)


def _check_bounds(part: Part, field: Field, kind: Kind, value: Any) -> None:
    """Raises: ValueError in the file's terms."""
    if field.special:
        return
    bounds = bounds_of(part, field)
    if bounds.least is not None and value < bounds.least:
        raise ValueError(f"at least {kind.write(bounds.least)}")
    if bounds.most is not None and value > bounds.most:
        raise ValueError(f"at most {kind.write(bounds.most)}")


# --- the policy's own rules ----------------------------------------------------------------------
class _Problems:
    """Collects what the policy's rules say, at the places of the file."""

    def __init__(
        self,
        places: dict[Path, Place],
        found: list[Problem] | None = None,
        failed: set[str] | None = None,
    ) -> None:
        self.found = found if found is not None else []
        self._places = places
        self.failed = failed if failed is not None else set()

    def at(self, path: Path, message: str) -> None:
        while path not in self._places and path:
            path = path[:-1]
        self.found.append(Problem(*self._places.get(path, (1, 1)), message))

    def conflicts(self, error: PolicyConflictsError) -> None:
        for fields, reason in error.conflicts:
            if not any(self._is_affected(field) for field in fields):
                paths = [_path(field) for field in fields]
                given = next((path for path in paths if path in self._places), paths[0])
                self.at(given, reason)

    def _is_affected(self, field: str) -> bool:
        return any(
            f"{field}.".startswith(f"{failed}.") or failed.startswith(f"{field}.")
            for failed in self.failed
            if failed
        )


def _build(
    content: dict[str, Any],
    name: str,
    lifetime: int | Moment,
    origin: Origin,
    problems: _Problems,
) -> SubcloudPolicy | None:
    before = len(problems.found)
    identity = subcloud_id(origin.network, origin.owner, name)
    if origin.identity is not None:
        label = origin.identity.rpartition("-")[0]
        if label != name:
            problems.at(("subcloud_id",), f"the version before is of `{label}`: a name stays")
            return None
        identity = origin.identity
    ends_ms = lifetime.at_ms if isinstance(lifetime, Moment) else origin.issued_ms + lifetime
    if not origin.issued_ms < ends_ms <= TIME_MS_MAX:
        said = "is over already" if ends_ms <= origin.issued_ms else "is too far away"
        problems.at(("expires_ms",), f"`expires`: that {said}: write a time like `365d`")
        ends_ms = origin.issued_ms + 1
    rest = copy.deepcopy(content)
    for own in rest.get("models", {}).get("own", ()):
        if own["digest"] == UNVERIFIED:
            own["digest"] = unverified_digest(origin.network, own["name"]).hex()
    rest |= {
        "network_id": origin.network,
        "subcloud_id": identity,
        "version": origin.version,
        "predecessor_digest": origin.predecessor_digest,
        "issued_ms": origin.issued_ms,
        "expires_ms": ends_ms,
        "owner": origin.owner,
    }
    policy = None
    while policy is None:
        try:
            policy = SubcloudPolicy.model_validate(rest)
        except pydantic.ValidationError as error:
            if not _take_out(rest, error, problems):
                return None
    return policy if len(problems.found) == before else None


def _take_out(rest: dict[str, Any], error: pydantic.ValidationError, problems: _Problems) -> bool:
    """Note what the policy refuses, and remove it; False if that cannot be done."""
    removed = False
    for detail in error.errors(include_url=False, include_input=False):
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, PolicyConflictsError):
            problems.conflicts(cause)
            return False
        path = tuple(detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        problems.at(path, f"`{_file_name(path)}`: {message}")
        problems.failed.add(_dotted(path))
        removed = _remove(rest, path) or removed
    return removed


def _remove(rest: dict[str, Any], path: Path) -> bool:
    holder: Any = rest
    # Within a list, the list goes: the places of what follows would be others.
    list_at = next((n for n, step in enumerate(path) if isinstance(step, int)), len(path))
    path = path[: list_at or len(path)]
    for step in path[:-1]:
        holder = holder.get(step) if isinstance(holder, dict) else None
    if not path or not isinstance(holder, dict):
        return False
    return holder.pop(path[-1], None) is not None


def _file_name(path: Path) -> str:
    """Name a field of the policy as the file has it."""
    part: Part | None = POLICY
    names: list[str] = []
    for step in path:
        if isinstance(step, int) or part is None:
            continue
        field = next((field for field in part.fields if field.key == step), None)
        names.append(field.name if field is not None else str(step))
        part = field.form if field is not None and isinstance(field.form, Part) else None
    return ".".join(names) or "policy"


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _path(dotted: str) -> Path:
    return tuple(_steps(dotted))


def _steps(dotted: str) -> Iterator[str | int]:
    for step in dotted.split("."):
        yield int(step) if step.isdigit() else step
