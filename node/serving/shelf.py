"""Owns what serving needs of wherever model files are kept, and the shelf that has one file."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from node.agent.runtime_port import ModelState
from node.errors import ModelFileError
from node.model_file import ModelFile, read_model_file


class FileFacts(Protocol):
    """What is known of a model file that was read whole (`ModelFile` and the store's have it)."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def size_bytes(self) -> int: ...  # noqa: D102
    @property
    def digest(self) -> bytes: ...  # noqa: D102
    @property
    def model_id(self) -> bytes: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def context_tokens(self) -> int: ...  # noqa: D102
    @property
    def quantisation(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class FileWitness:
    """What `stat` says of a file; as long as it stays the same, so has the content.

    `changed_ns` is the change time, which, unlike the time of modification, nobody can set back.
    """

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


def witness_of(path: Path) -> FileWitness:
    """Look at a file. Raises: ModelFileError."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    return FileWitness(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@dataclass(frozen=True, slots=True)
class ShelfModel:
    """One model file that is kept, and whether the operator lets it be served.

    `state`: FAILED and ARCHIVED are never loaded, everything else may be; `reason` says why.
    """

    file: FileFacts
    state: ModelState = ModelState.PENDING
    reason: str = ""


class ModelShelf(Protocol):
    """Where model files are kept. All calls block; `verify_unchanged` may read a whole file."""

    def changed_token(self) -> bytes:
        """Differs whenever something was added, changed or removed; takes microseconds."""
        ...

    def models(self) -> tuple[ShelfModel, ...]:
        """Everything that is kept now."""
        ...

    def verify_unchanged(self, model: ShelfModel) -> ShelfModel:
        """Look before a load whether a file is still the one that was verified.

        Raises: ModelFileError if it is not (the shelf then remembers that), or is gone.
        """
        ...

    def note(self, model: ShelfModel, state: ModelState, reason: str) -> None:
        """Remember what a node found out. Never raises."""
        ...


class OneFileShelf:
    """The one file of `--model`: read whole once, and again only if it looks changed."""

    def __init__(self, path: Path) -> None:
        """Read the file (about 1 GB a second). Raises: ModelFileError."""
        self._path = path
        self._witness = witness_of(path)
        self.file: ModelFile = read_model_file(path)
        if witness_of(path) != self._witness:
            raise ModelFileError(f"{path} was changed while it was read")
        self._changed: FileWitness | None = None

    def changed_token(self) -> bytes:
        """It stays one file."""
        return b"1"

    def models(self) -> tuple[ShelfModel, ...]:
        """Give the one file."""
        return (ShelfModel(self.file),)

    def verify_unchanged(self, model: ShelfModel) -> ShelfModel:
        """Compare what `stat` says, and the digest if that differs. Raises: ModelFileError."""
        witness = witness_of(self._path)
        if witness == self._witness:
            return model
        if witness != self._changed:
            self._changed = witness
            digest = read_model_file(self._path).digest
            if witness_of(self._path) == witness and digest == self.file.digest:
                self._witness, self._changed = witness, None
                return dataclasses.replace(model, file=self.file)
        raise ModelFileError(
            f"{self._path} was changed on disk after it was verified: its SHA-256 is no longer "
            f"{self.file.digest.hex()}"
        )

    def note(self, model: ShelfModel, state: ModelState, reason: str) -> None:
        """One file needs no memory: the log has it."""
