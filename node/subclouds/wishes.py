"""Owns what the operator told a node about subclouds by commands, as a file in its data folder.

Theory of operation. `resultity node subclouds join|leave|isolate|request` changes the file, under a
lock; a running node looks at it every second, one that is stopped at its next start. What it says
adds to the settings: a name that was left by a command is not joined by a pattern again. Invites
are secrets: the file is its owner's only, and an invite leaves it once it was used.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from node.subclouds.limits import FILE_BYTES_MAX, WISHES_MAX
from node.subclouds.settings import check_name
from p2p.errors import MalformedError
from p2p.files import write_atomically

FOLDER = "subclouds"
EVIDENCE_FOLDER = "evidence"
WISHES_FILE = "wishes.json"
FORMAT = "resultity/node-subcloud-wishes/1"
NOTE_CHARACTERS_MAX = 256
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Wish:
    """A subcloud that the operator named by a command.

    `invite`: its string (a secret), until it was used. `note`: a word to the subcloud's owner.
    """

    invite: str = field(default="", repr=False)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Wishes:
    """All that was told: names (labels or IDs) to join, names to stay out of, one to isolate for.

    `isolate` None: as the settings say; empty: for none, whatever the settings say.
    """

    join: tuple[tuple[str, Wish], ...] = ()
    left: tuple[str, ...] = ()
    isolate: str | None = None

    def wish(self, name: str) -> Wish | None:
        """What was wished of a name."""
        return dict(self.join).get(name)

    def with_join(self, name: str, wish: Wish, also: tuple[str, ...] = ()) -> Wishes:
        """Join it, and stay out of it no more, under `also` its other names.

        Raises: MalformedError.
        """
        join = {**dict(self.join), check_name(name): wish}
        left = tuple(other for other in self.left if other != name and other not in also)
        return replace(self, join=_bounded(join.items()), left=left)

    def with_left(self, *names: str) -> Wishes:
        """Stay out of it, under any of its names; it isolates no more. Raises: MalformedError."""
        left = {*self.left, *(check_name(name) for name in names)}
        isolate = "" if self.isolate in names else self.isolate
        join = tuple((name, wish) for name, wish in self.join if name not in names)
        return Wishes(join, _bounded(sorted(left)), isolate)

    def with_isolate(self, name: str, also: tuple[str, ...] = ()) -> Wishes:
        """Consent to isolation for this one and no other (empty: for none). It is joined, too."""
        if not name:
            return replace(self, isolate="")
        joined = self.with_join(name, self.wish(name) or Wish(), also)
        return replace(joined, isolate=name)


def _bounded(items: Any) -> Any:
    found = tuple(items)
    if len(found) > WISHES_MAX:
        raise MalformedError(f"a node keeps at most {WISHES_MAX} names of subclouds")
    return found


def wishes_path(data_dir: Path) -> Path:
    """Where a node's file is."""
    return data_dir / FOLDER / WISHES_FILE


def read_wishes(path: Path) -> Wishes:
    """Read the file; nothing is wished if there is none. Raises: MalformedError, OSError."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return Wishes()
    if size > FILE_BYTES_MAX:
        raise MalformedError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise MalformedError(f"{path} was written by another version")
        join = tuple(
            (check_name(name), Wish(str(wish.get("invite", "")), str(wish.get("note", ""))))
            for name, wish in content["join"].items()
        )
        left = tuple(check_name(name) for name in content["left"])
        isolate = content["isolate"]
        if isolate:
            check_name(isolate)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedError(f"{path} is damaged: {error!r}") from error
    return Wishes(_bounded(join), _bounded(left), isolate)


@contextlib.contextmanager
def changing_wishes(path: Path) -> Iterator[list[Wishes]]:
    """Give the wishes in a list of one; what is put in their place is written at the end.

    Raises: MalformedError, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        before = read_wishes(path)
        box = [before]
        yield box
        if box[0] != before:
            _write(path, box[0])
    finally:
        os.close(descriptor)


def _write(path: Path, wishes: Wishes) -> None:
    content = {
        "format": FORMAT,
        "join": {name: {"invite": w.invite, "note": w.note} for name, w in wishes.join},
        "left": list(wishes.left),
        "isolate": wishes.isolate,
    }
    write_atomically(path, json.dumps(content, indent=1).encode(), _MODE)


def forget_invite(path: Path, name: str) -> None:
    """Take an invite that was used (or is worth nothing) out of the file."""
    with changing_wishes(path) as box:
        wish = box[0].wish(name)
        if wish is not None and wish.invite:
            box[0] = box[0].with_join(name, replace(wish, invite=""))
