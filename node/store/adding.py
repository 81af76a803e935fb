"""Owns how a model gets into the store: from a file, a URL, or a hub.

Whatever the source, nothing gets a manifest that was not read whole as a model file and, where a
digest was expected, has that digest. A file of the operator's is never changed. What was downloaded
and is not what it should be goes to quarantine, where nothing loads it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from node.errors import ModelFileError
from node.model_file import ModelFile, Progress, read_model_file
from node.store.errors import SourceError, StoreFullError
from node.store.folders import held, move_durably
from node.store.http_client import Asking
from node.store.http_download import Downloader, Log, Wanted
from node.store.hub import Hub, find_on_hub
from node.store.limits import DOWNLOAD_READ_BYTES
from node.store.manifest import StoredModel, model_name_of, stamp_of
from node.store.part_file import PartFile, forget_part, open_part
from node.store.sources import FileSource, HubSource, Source, UrlSource, stem_of_url
from node.store.store import ModelStore


class Keeping(enum.Enum):
    """How the store gets a file of this machine."""

    LINK = "link"
    """A second name of the same file, where the file system can; otherwise a copy."""
    COPY = "copy"
    IN_PLACE = "in place"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator said beside the source.

    `digest`: the SHA-256 that the file must have. `restart`: forget what was downloaded before.
    """

    name: str | None = None
    digest: bytes | None = None
    keeping: Keeping = Keeping.LINK
    allow_http: bool = False
    restart: bool = False


@dataclass(slots=True)
class Adder:
    """Adds models to a store.

    `stage` is told what begins (`copying`, `downloading`, `verifying`) and gives who to tell how
    far it is.
    """

    store: ModelStore
    stage: Callable[[str], Progress]
    say: Log
    hub: Hub
    client: Callable[[], httpx.Client]
    pause: Callable[[float], None] | None = None

    def add(self, source: Source, wishes: Wishes) -> StoredModel:
        """Add a model; returns it as it stands in the store.

        Raises: ModelStoreError, ModelFileError.
        """
        if wishes.name is not None:
            self.store.check_name(wishes.name, wishes.digest or self._digest_of(wishes.name))
        if isinstance(source, FileSource):
            if wishes.keeping is Keeping.IN_PLACE:
                return self._add_in_place(source, wishes)
            return self._add_file(source, wishes)
        with self.client() as client:
            if isinstance(source, HubSource):
                return self._add_from_hub(client, source, wishes)
            return self._add_from_url(client, source, wishes)

    def _digest_of(self, name: str) -> bytes | None:
        """What a name stands for already: adding the same file again is no conflict."""
        known = [model.digest for model in self.store.models() if model.name == name]
        return known[0] if known else None

    # --- files ----------------------------------------------------------------------------------

    def _add_in_place(self, source: FileSource, wishes: Wishes) -> StoredModel:
        path = source.path.resolve()
        stamp = stamp_of(path)
        file = self._read(path, wishes.digest, path.stem)
        name = wishes.name or model_name_of(file.name, path.stem)
        return self.store.install_in_place(file, stamp, name=name, source=str(path))

    def _add_file(self, source: FileSource, wishes: Wishes) -> StoredModel:
        path = source.path.resolve()
        stamp_of(path)
        if not path.is_file():
            raise ModelFileError(f"{path} is not a regular file")
        folders = self.store.folders
        incoming = folders.partial / f"{secrets.token_hex(16)}.incoming"
        lock = incoming.with_suffix(".lock")
        with contextlib.ExitStack() as cleaning:
            cleaning.callback(lock.unlink, missing_ok=True)
            cleaning.enter_context(held(lock, str(path)))
            cleaning.callback(incoming.unlink, missing_ok=True)
            self.store.room.check(path.stat().st_size, str(path), on_disk=False)
            if wishes.keeping is Keeping.COPY or not _linked(path, incoming):
                self._copy(path, incoming)
            stamp = stamp_of(incoming)
            file = self._read(incoming, wishes.digest, path.stem)
            name = wishes.name or model_name_of(file.name, path.stem)
            return self.store.install(incoming, file, stamp, name=name, source=str(path))

    def _copy(self, path: Path, incoming: Path) -> None:
        size = path.stat().st_size
        self.store.room.check(size, str(path))
        progress, done = self.stage("copying"), 0
        try:
            with path.open("rb") as source, incoming.open("xb") as target:
                while data := source.read(DOWNLOAD_READ_BYTES):
                    target.write(data)
                    done += len(data)
                    progress(done, size)
                target.flush()
                os.fsync(target.fileno())
        except OSError as error:
            raise StoreFullError(f"cannot copy {path}: {error.strerror or error}") from error

    # --- downloads ------------------------------------------------------------------------------

    def _add_from_url(self, client: httpx.Client, source: UrlSource, wishes: Wishes) -> StoredModel:
        asking = Asking(source.url, allow_http=wishes.allow_http)
        wanted = Wanted(asking, source.shown, digest=wishes.digest)
        stem = stem_of_url(source.url)
        return self._download(client, wanted, wishes, source=source.shown, unnamed=stem)

    def _add_from_hub(self, client: httpx.Client, source: HubSource, wishes: Wishes) -> StoredModel:
        found = find_on_hub(client, self.hub, source)
        wanted = found.wanted
        if wishes.digest and wanted.digest and wishes.digest != wanted.digest:
            raise ModelFileError(
                f"{wanted.shown} has sha256 {wanted.digest.hex()} on the hub, "
                f"but should have {wishes.digest.hex()}"
            )
        wanted = replace(wanted, digest=wishes.digest or wanted.digest)
        unnamed = Path(found.source.partition("@")[0]).stem
        return self._download(
            client, wanted, wishes, source=found.source, unnamed=unnamed, licence=found.licence
        )

    def _download(
        self,
        client: httpx.Client,
        wanted: Wanted,
        wishes: Wishes,
        *,
        source: str,
        unnamed: str,
        licence: str = "",
    ) -> StoredModel:
        folders, identity = self.store.folders, wanted.asking.url
        with open_part(folders, identity, wanted.shown) as part:
            if wishes.restart:
                part.restart()
            known = self._adopt(wanted.digest or part.digest_before, wishes, source, unnamed)
            if known is not None:
                forget_part(folders, identity)
                return known
            if part.size_bytes:
                self.say(f"going on after {part.size_bytes:,} bytes that are here already")
            downloader = Downloader(client, self.store.room, self.stage("downloading"), self.say)
            downloader.pause = self.pause or downloader.pause
            downloader.fetch(wanted, part)
            stamp = stamp_of(part.path)
            with self._quarantined_if_wrong(part, identity):
                _check_digest(part.digest.digest(), wanted.digest)
                file = self._read(part.path, part.digest.digest(), unnamed)
            if not file.licence:
                file = replace(file, licence=licence)
            name = wishes.name or model_name_of(file.name, unnamed)
            # Should we be killed between the file's move and its manifest, this finds it again.
            part.remember(replace(part.state, digest=file.digest.hex()))
            model = self.store.install(part.path, file, stamp, name=name, source=source)
            forget_part(folders, identity)
            return model

    def _adopt(
        self, digest: bytes | None, wishes: Wishes, source: str, unnamed: str
    ) -> StoredModel | None:
        """Give the model a name if the store has its file already."""
        if digest is None or not self.store.folders.blob(digest).exists():
            return None
        progress = self.stage("verifying")
        known = self.store.adopt(
            digest, name=wishes.name, source=source, unnamed=unnamed, progress=progress
        )
        if known is not None:
            self.say("the store has this file already: nothing was downloaded")
        return known

    @contextlib.contextmanager
    def _quarantined_if_wrong(self, part: PartFile, identity: str) -> Iterator[None]:
        try:
            yield
        except ModelFileError as error:
            place = self.store.folders.quarantined(part.digest.digest())
            with self.store.folders.locked():
                move_durably(part.path, place)
            forget_part(self.store.folders, identity)
            raise ModelFileError(f"{error}; it is kept as {place}, and never loaded") from error

    def _read(self, path: Path, expected: bytes | None, unnamed: str) -> ModelFile:
        file = read_model_file(path, self.stage("verifying"), unnamed=unnamed)
        _check_digest(file.digest, expected)
        return file


def _check_digest(found: bytes, expected: bytes | None) -> None:
    if expected is not None and found != expected:
        raise ModelFileError(f"the file has sha256 {found.hex()}, but should have {expected.hex()}")


def _linked(path: Path, incoming: Path) -> bool:
    try:
        os.link(path, incoming)
    except OSError:
        return False  # another file system, or one without links
    return True


def parse_digest(text: str) -> bytes:
    """Read a SHA-256 as people write it. Raises: SourceError."""
    digits = text.strip().lower().removeprefix("sha256:").removeprefix("sha256-")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise SourceError("a SHA-256 has 64 hex digits")
    return bytes.fromhex(digits)
