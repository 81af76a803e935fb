"""Owns a download that is not complete: its bytes, and the state that lets it go on later.

Theory of operation. `<key>.part` has the bytes so far, `<key>.json` what the server said of the
file when the download began: its length and its validator (ETag or time). A later run, or a later
process, asks for the rest of exactly that file. The bytes are made durable every now and then, and
the state says how many are; after the machine (not the process) crashed the rest is not trusted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node.store.errors import StoreFullError
from node.store.folders import StoreFolders, held
from node.store.limits import (
    DOWNLOAD_READ_BYTES,
    DURABLE_EVERY_BYTES,
    PART_STATE_BYTES_MAX,
    SIZE_BYTES_MAX,
)
from p2p.files import write_atomically

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class PartState:
    """What is known of the file that is being downloaded.

    `validator`: what `If-Range` takes; "" if the server gave none that is strong enough.
    `size_bytes`: of the complete file; 0 if unknown. `boot`: when the bytes beyond `durable_bytes`
    were written. `digest`: of the complete file, written just before it is moved to its place.
    """

    url: str
    validator: str = ""
    size_bytes: int = 0
    durable_bytes: int = 0
    boot: str = ""
    digest: str = ""


def part_key(identity: str) -> str:
    """The name of a download's files: the same source gives the same name."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


class PartFile:
    """The growing file; made by `open_part`."""

    def __init__(self, file: BinaryIO, path: Path, state_path: Path, state: PartState) -> None:
        self.path = path
        self.state = state
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        self._file = file
        self._state_path = state_path

    def write(self, data: bytes) -> None:
        """Append. Raises: StoreFullError."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(self.size_bytes)
            raise StoreFullError(f"cannot write {self.path}: {error.strerror or error}") from error
        self.digest.update(data)
        self.size_bytes += len(data)
        if self.size_bytes - self.state.durable_bytes >= DURABLE_EVERY_BYTES:
            self.sync()

    @property
    def digest_before(self) -> bytes | None:
        """The digest of the complete file, if an earlier run got so far and was killed then."""
        return bytes.fromhex(self.state.digest) if _SHA256.fullmatch(self.state.digest) else None

    def sync(self) -> None:
        """Make what is there durable. Raises: StoreFullError."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreFullError(f"cannot write {self.path}: {error.strerror or error}") from error
        self.remember(dataclasses.replace(self.state, durable_bytes=self.size_bytes))

    def remember(self, state: PartState) -> None:
        """Keep what the server said. Raises: StoreFullError."""
        self.state = dataclasses.replace(state, boot=_boot())
        data = json.dumps(dataclasses.asdict(self.state)).encode()
        try:
            write_atomically(self._state_path, data, 0o600)
        except OSError as error:
            place = self._state_path
            raise StoreFullError(f"cannot write {place}: {error.strerror or error}") from error

    def restart(self) -> None:
        """Forget everything: the download begins again."""
        self._file.seek(0)
        self._file.truncate()
        self.digest, self.size_bytes = hashlib.sha256(), 0
        self.remember(PartState(self.state.url))

    def load(self) -> None:
        """Read what is there already, to go on with its digest; drop what is not to be trusted."""
        size = self._file.seek(0, os.SEEK_END)
        if self.state.boot != _boot():
            size = min(size, self.state.durable_bytes)
        if self.state.size_bytes:
            size = min(size, self.state.size_bytes)
        self._file.truncate(size)
        self._file.seek(0)
        while data := self._file.read(DOWNLOAD_READ_BYTES):
            self.digest.update(data)
            self.size_bytes += len(data)

    def compare(self, position: int, data: bytes) -> bool:
        """Tell whether these bytes stand there at this place."""
        return os.pread(self._file.fileno(), len(data), position) == data


@contextlib.contextmanager
def open_part(folders: StoreFolders, identity: str, shown: str) -> Iterator[PartFile]:
    """Open the download of a source, where it was left, or anew; no other process may have it.

    Raises: StoreBusyError.
    """
    key = part_key(identity)
    path, state_path = folders.partial / f"{key}.part", folders.partial / f"{key}.json"
    with held(folders.partial / f"{key}.lock", f"the download of {shown}"):
        state = _read_state(state_path)
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
            part = PartFile(file, path, state_path, state or PartState(shown))
            if state is None:
                part.restart()
            part.load()
            yield part


def forget_part(folders: StoreFolders, identity: str) -> None:
    """Remove what is left of a download that was moved away or is not wanted."""
    key = part_key(identity)
    for ending in ("part", "json", "lock"):
        (folders.partial / f"{key}.{ending}").unlink(missing_ok=True)


def _read_state(path: Path) -> PartState | None:
    try:
        with path.open("rb") as file:
            state = PartState(**json.loads(file.read(PART_STATE_BYTES_MAX)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None  # the bytes without their state are worth nothing: the server may have changed
    texts = (state.url, state.validator, state.boot, state.digest)
    numbers = (state.size_bytes, state.durable_bytes)
    right = all(isinstance(text, str) for text in texts) and all(
        type(number) is int and 0 <= number <= SIZE_BYTES_MAX for number in numbers
    )
    return state if right else None


def _boot() -> str:
    """What is different after the machine was started again; "" where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
