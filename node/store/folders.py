"""Owns the store's folder: where things lie, the lock, durable renames, and how full it is.

manifests/<name>.json   one for each model
blobs/sha256-<hex>      model files, named by their content
quarantine/sha256-<hex> files that turned out to be something else than their manifest says
partial/<key>.part      downloads and copies that are not complete; <key>.json says of what
store.lock              held (flock) while any of these are renamed, and never for long
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.store.errors import ModelStoreError, StoreBusyError, StoreFullError
from node.store.limits import DISK_RESERVE_BYTES, LOCK_RETRY_S, LOCK_WAIT_S

FOLDER_MODE = 0o700
BLOB_MODE = 0o400


@dataclass(frozen=True, slots=True)
class StoreFolders:
    """The places inside one store's folder."""

    root: Path

    @property
    def manifests(self) -> Path:
        """The manifests' folder."""
        return self.root / "manifests"

    @property
    def blobs(self) -> Path:
        """The folder of verified files."""
        return self.root / "blobs"

    @property
    def quarantine(self) -> Path:
        """The folder of files that are not what they should be."""
        return self.root / "quarantine"

    @property
    def partial(self) -> Path:
        """The folder of what is not complete."""
        return self.root / "partial"

    def manifest(self, name: str) -> Path:
        """Where the manifest of a model is."""
        # No name of a model has a tilde or an equals sign, so each name has a file of its own.
        return self.manifests / f"{name.replace('/', '~').replace(':', '=')}.json"

    def blob(self, digest: bytes) -> Path:
        """Where a file is while it is what it should be."""
        return self.blobs / f"sha256-{digest.hex()}"

    def quarantined(self, digest: bytes) -> Path:
        """Where a file is that should have had this digest."""
        return self.quarantine / f"sha256-{digest.hex()}"

    def make(self) -> None:
        """Make what is missing. Raises: ModelStoreError."""
        try:
            for folder in (self.root, self.manifests, self.blobs, self.quarantine, self.partial):
                folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        except OSError as error:
            raise ModelStoreError(f"cannot use {self.root}: {error.strerror or error}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process (and thread) from changing the store meanwhile.

        Raises: StoreBusyError if that takes too long, ModelStoreError.
        """
        with _opened(self.root / "store.lock") as descriptor:
            end_s = time.monotonic() + LOCK_WAIT_S
            while not _lock(descriptor):
                if time.monotonic() > end_s:
                    raise StoreBusyError(f"{self.root} is being changed by another process")
                time.sleep(LOCK_RETRY_S)
            yield

    def used_bytes(self) -> int:
        """What the store's files take now."""
        return sum(
            found.stat(follow_symlinks=False).st_size
            for folder in (self.blobs, self.quarantine, self.partial)
            for found in _entries(folder)
        )


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a file of its own (made if needed) for as long as something takes.

    Raises: StoreBusyError at once if another process has it.
    """
    with _opened(path) as descriptor:
        if not _lock(descriptor):
            raise StoreBusyError(f"another process is busy with {what}")
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ModelStoreError(f"cannot use {path}: {error.strerror or error}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        yield from found


def move_durably(source: Path, target: Path) -> None:
    """Rename within the store so that it holds after a crash too. Raises: OSError."""
    os.replace(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed or deleted in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """How much the store may grow: by its own limit (None: none), and by what the disk has."""

    folders: StoreFolders
    size_bytes_max: int | None

    def check(self, more_bytes: int, what: str, *, on_disk: bool = True) -> None:
        """Refuse what does not fit.

        Args:
            on_disk: whether it takes place on the disk that it did not take before.
        Raises: StoreFullError that says what is missing.
        """
        used = self.folders.used_bytes()
        if self.size_bytes_max is not None and used + more_bytes > self.size_bytes_max:
            raise StoreFullError(
                f"no room for {what}: it needs {_shown(more_bytes)} more, the store has "
                f"{_shown(used)} of at most {_shown(self.size_bytes_max)} (models_disk_bytes_max): "
                "remove a model, or raise the limit"
            )
        free = shutil.disk_usage(self.folders.root).free
        if on_disk and more_bytes > free - DISK_RESERVE_BYTES:
            raise StoreFullError(
                f"no room for {what}: it needs {_shown(more_bytes)} more, the disk has "
                f"{_shown(free)} free, of which {_shown(DISK_RESERVE_BYTES)} stay free"
            )

    def left(self) -> int:
        """How many bytes more may be written now (0 if none)."""
        free = shutil.disk_usage(self.folders.root).free - DISK_RESERVE_BYTES
        if self.size_bytes_max is not None:
            free = min(free, self.size_bytes_max - self.folders.used_bytes())
        return max(0, free)


def _shown(size_bytes: int) -> str:
    return f"{size_bytes:,} bytes"
