"""Owns what no model uses: unfinished downloads, files that did not verify, what a crash left."""

from __future__ import annotations

from pathlib import Path

from node.store.errors import StoreBusyError
from node.store.folders import held
from node.store.store import ModelStore


def find_leftovers(store: ModelStore) -> tuple[Path, ...]:
    """Give the files that belong to no model; what is being downloaded now is among them."""
    used = {model.path for model in store.models()}
    folders = (store.folders.blobs, store.folders.quarantine, store.folders.partial)
    found = (path for folder in folders for path in sorted(folder.iterdir()))
    return tuple(path for path in found if path not in used and path.suffix != ".lock")


def remove_leftovers(store: ModelStore) -> tuple[int, int]:
    """Delete them, but not what another process works on; gives how many files and bytes.

    Raises: StoreBusyError, OSError.
    """
    count = size = 0
    with store.folders.locked():
        for path in find_leftovers(store):
            try:
                if path.parent == store.folders.partial:
                    with held(path.with_suffix(".lock"), "it"):
                        size += _delete(path)
                    count += 1
                    continue
            except StoreBusyError:
                continue
            size += _delete(path)
            count += 1
    return count, size


def _delete(path: Path) -> int:
    size = path.stat().st_size
    path.unlink()
    return size
