"""Owns the lock on a data folder: two processes never work on the same files."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from resultity.errors import DataFolderError

LOCK_NAME = "in-use.lock"


@contextlib.contextmanager
def locked_folder(folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold a folder (made if needed, 0700) until the block ends or the process dies.

    The lock is the kernel's (flock): after a crash nothing has to be cleaned up.

    Raises: DataFolderError if another process holds it, or the folder cannot be made.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_mode & 0o077:
            # It holds keys and, at a bootstrap, what proves holds: nobody else's business.
            folder.chmod(0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataFolderError(f"cannot use the data folder {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            who = f"process {holder}" if holder else "another process"
            raise DataFolderError(
                f"the data folder {folder} is in use by {who}: end it, or use another --data-dir"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def lock_holder(folder: Path, name: str = LOCK_NAME) -> int | None:
    """Give the ID of the process that holds the folder now; None if nobody does."""
    if not is_locked(folder, name):
        return None
    try:
        return int((folder / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def is_locked(folder: Path, name: str = LOCK_NAME) -> bool:
    """Tell whether a process holds the folder now."""
    try:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
