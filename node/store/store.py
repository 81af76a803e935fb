"""Owns the model store: which models there are, in which state, and where their files are.

Theory of operation. Every change happens under the store's lock and in an order in which a crash
leaves something that is still true: a file is put in its place before a manifest names it, a
manifest goes before its file does, and a file that is not what it should be is moved to quarantine
before anything else is written about it. What a crash leaves over is unused, never wrong, and
found by `node.store.leftovers`. Files are read without the lock; what was found out is written down
under it.

All calls block; the short ones for milliseconds, `verify` for as long as reading the file takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from node.errors import ModelFileError
from node.model_file import ModelFile, Progress, read_model_file
from node.store import states
from node.store.errors import (
    ModelExistsError,
    ModelNotFoundError,
    ModelStateError,
    ModelStoreError,
)
from node.store.folders import BLOB_MODE, DiskRoom, StoreFolders, move_durably, sync_folder
from node.store.limits import MANIFEST_BYTES_MAX, MODELS_MAX
from node.store.manifest import (
    MODEL_NAME,
    FileStamp,
    StoredModel,
    model_name_of,
    read_manifest,
    stamp_of,
    stored_from_file,
    write_manifest,
)
from node.store.states import LOADABLE, ModelState
from p2p.clock import Clock, system_clock_ms
from p2p.files import write_atomically

log = logging.getLogger(__name__)


class ModelStore:
    """The model store in one folder; any number of processes may use it at once."""

    def __init__(
        self,
        folder: Path,
        *,
        size_bytes_max: int | None = None,
        clock_ms: Clock = system_clock_ms,
    ) -> None:
        """Make what is missing of the folder. Raises: ModelStoreError."""
        self.folders = StoreFolders(folder.absolute())
        self.room = DiskRoom(self.folders, size_bytes_max)
        self.clock_ms = clock_ms
        self.folders.make()

    # --- looking --------------------------------------------------------------------------------

    def models(self) -> tuple[StoredModel, ...]:
        """Give all models, sorted by name; a manifest that cannot be read is left out."""
        found = []
        for path in self._manifest_paths():
            try:
                found.append(self._read(path))
            except ModelNotFoundError:
                pass  # it was removed just now
            except ModelStoreError as error:
                log.warning("%s", error)
        return tuple(sorted(found, key=lambda model: model.name))

    def loadable_models(self) -> tuple[StoredModel, ...]:
        """Give the models that a node may load: neither failed nor archived."""
        return tuple(model for model in self.models() if model.state in LOADABLE)

    def active_models(self) -> tuple[StoredModel, ...]:
        """Give the models whose digest and test inference passed, and that may be served."""
        return tuple(model for model in self.models() if model.state is ModelState.ACTIVE)

    def get(self, name: str) -> StoredModel:
        """Give one model.

        Raises: ModelNotFoundError; ModelStoreError if its manifest is damaged.
        """
        if not MODEL_NAME.fullmatch(name):
            raise ModelNotFoundError(f"{name!r} cannot be the name of a model")
        return self._read(self.folders.manifest(name))

    def changed_token(self) -> bytes:
        """Give something that differs whenever a model was added, changed or removed; cheap."""
        digest = hashlib.sha256()
        for path in self._manifest_paths():
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                digest.update(f"{path.name}|{found.st_ino}|{found.st_mtime_ns}\n".encode())
        return digest.digest()

    # --- changing -------------------------------------------------------------------------------

    def mark(self, name: str, state: ModelState, reason: str = "") -> StoredModel:
        """Write down what a node found out; nothing is written if it is known already.

        Raises: ModelNotFoundError, ModelStateError if the state now is the operator's or the
            verification's to change.
        """
        with self.folders.locked():
            model = self.get(name)
            try:
                changed = model.with_state(states.marked(model.state, state), reason)
            except ModelStateError as error:
                raise ModelStateError(f"{name}: {error}") from error
            if changed != model:
                self._write(changed)
            return changed

    def archive(self, name: str) -> StoredModel:
        """Put a model aside, with its file. Raises: ModelNotFoundError, ModelStateError."""
        with self.folders.locked():
            model = self.get(name)
            archived = model.with_state(states.archived(model.state), "by the operator")
            self._write(archived)
            return archived

    def restore(self, name: str, progress: Progress | None = None) -> StoredModel:
        """Take an archived model back, if its file is still the right one.

        Raises: ModelNotFoundError, ModelStateError, ModelFileError.
        """
        states.restored(self.get(name).state)
        self.verify(name, progress)
        with self.folders.locked():
            model = self.get(name)
            restored = model.with_state(states.restored(model.state), "")
            self._write(restored)
            return restored

    def remove(self, name: str) -> int:
        """Forget a model, and delete its file if no other model has it and it is the store's own.

        Returns the bytes that were deleted. Raises: ModelNotFoundError.
        """
        with self.folders.locked():
            path = self.folders.manifest(name)
            try:
                model = self.get(name)
            except ModelNotFoundError:
                raise
            except ModelStoreError:  # damaged: its file, if it has one, becomes a leftover
                self._unlink(path)
                return 0
            self._unlink(path)
            if model.in_place or any(each.digest == model.digest for each in self._own_models()):
                return 0
            return self._unlink(self.folders.blob(model.digest)) + self._unlink(
                self.folders.quarantined(model.digest)
            )

    def verify(self, name: str, progress: Progress | None = None) -> StoredModel:
        """Read a model's file whole again: it becomes usable again, or goes to quarantine.

        Raises: ModelFileError if the file is not what it should be (that is written down),
            ModelNotFoundError.
        """
        model = self.get(name)
        before: FileStamp | None = None
        try:
            before = stamp_of(model.path)
            file = read_model_file(model.path, progress, unnamed=model.name)
            if file.digest != model.digest:
                raise ModelFileError(
                    f"it has sha256 {file.digest.hex()}, but should have {model.digest.hex()}"
                )
        except ModelFileError as error:
            unreadable = isinstance(error.__cause__, OSError)
            self._quarantine(model, str(error), None if unreadable else before)
            raise ModelFileError(f"{name}: {error}") from error
        return self._found_right(model, file, before)

    def verify_unchanged(self, model: StoredModel) -> StoredModel:
        """Make sure, before a file is loaded, that it is still the one that was verified.

        Costs one `stat` if nothing touched the file; otherwise the file is read whole.
        Raises: ModelFileError, ModelNotFoundError.
        """
        with contextlib.suppress(ModelFileError):
            if stamp_of(model.path) == model.stamp:
                return model
        log.warning("the file of model %s was touched: it is verified again", model.name)
        return self.verify(model.name)

    def install(
        self, incoming: Path, file: ModelFile, stamp: FileStamp, *, name: str, source: str
    ) -> StoredModel:
        """Move a verified file of `partial/` to its place, and write its manifest.

        Args:
            stamp: taken before the file was read.
        Raises: ModelExistsError, ModelFileError if the file changed since it was read.
        """
        with self.folders.locked():
            self.check_name(name, file.digest)
            if os.stat(incoming).st_nlink == 1:  # otherwise the mode is the operator's
                os.chmod(incoming, BLOB_MODE)
            blob = self.folders.blob(file.digest)
            move_durably(incoming, blob)
            placed = dataclasses.replace(file, path=blob)
            model = self._describe(placed, stamp, name=name, in_place=False, source=source)
            for other in self._own_models():
                if other.digest == file.digest and other.name != name:
                    self._write(self._refreshed(other, model.stamp))
            self._unlink(self.folders.quarantined(file.digest))
            self._write(model)
            return model

    def install_in_place(
        self, file: ModelFile, stamp: FileStamp, *, name: str, source: str
    ) -> StoredModel:
        """Write the manifest of a file that stays where it is. Raises: as `install`."""
        with self.folders.locked():
            self.check_name(name, file.digest)
            model = self._describe(file, stamp, name=name, in_place=True, source=source)
            self._write(model)
            return model

    def adopt(
        self,
        digest: bytes,
        *,
        name: str | None,
        source: str,
        unnamed: str,
        progress: Progress | None = None,
    ) -> StoredModel | None:
        """Give a name to a file that the store has already; None if it has none of this digest.

        Raises: ModelExistsError, ModelFileError.
        """
        blob = self.folders.blob(digest)
        try:
            stamp = stamp_of(blob)
            file = read_model_file(blob, progress, unnamed=unnamed)
        except ModelFileError:
            return None  # not there, or broken: whoever wants it has to get it again
        if file.digest != digest:
            return None
        with self.folders.locked():
            chosen = name or model_name_of(file.name, unnamed)
            self.check_name(chosen, digest)
            model = self._describe(file, stamp, name=chosen, in_place=False, source=source)
            self._write(model)
            return model

    def check_name(self, name: str, digest: bytes | None) -> None:
        """Refuse a name that another file has. Raises: ModelExistsError, ModelStoreError."""
        if not MODEL_NAME.fullmatch(name):
            raise ModelStoreError(
                f"{name!r} cannot be the name of a model: up to 100 letters, digits and . _ : / -"
            )
        try:
            model = self.get(name)
        except ModelNotFoundError:
            if len(self._manifest_paths()) >= MODELS_MAX:
                raise ModelStoreError(f"the store has {MODELS_MAX} models already") from None
            return
        if model.digest != digest:
            raise ModelExistsError(
                f"there is a model {name} with sha256 {model.digest.hex()} already: "
                "remove it first, or give another --name"
            )

    # --- inside ---------------------------------------------------------------------------------

    def _describe(
        self, file: ModelFile, before: FileStamp, *, name: str, in_place: bool, source: str
    ) -> StoredModel:
        now = stamp_of(file.path)
        if (now.inode, now.mtime_ns, now.size_bytes) != (
            before.inode, before.mtime_ns, before.size_bytes
        ):  # fmt: skip
            raise ModelFileError("the file was changed while it was read")
        return stored_from_file(
            file, name=name, in_place=in_place, source=source, stamp=now, now_ms=self.clock_ms()
        )

    def _found_right(self, model: StoredModel, file: ModelFile, before: FileStamp) -> StoredModel:
        with self.folders.locked():
            if not model.in_place and model.path.parent == self.folders.quarantine:
                blob = self.folders.blob(model.digest)
                move_durably(model.path, blob)
                file = dataclasses.replace(file, path=blob)
            described = self._describe(
                file, before, name=model.name, in_place=model.in_place, source=model.source
            )
            now = self.get(model.name)
            found = dataclasses.replace(
                described,
                added_ms=now.added_ms,
                state=states.verified(now.state),
                reason="" if now.state is ModelState.FAILED else now.reason,
            )
            self._write(found)
            for other in () if model.in_place else self._own_models():
                if other.digest == model.digest and other.name != model.name:
                    self._write(self._refreshed(other, found.stamp))
            return found

    def _refreshed(self, model: StoredModel, stamp: FileStamp) -> StoredModel:
        failed = model.state is ModelState.FAILED
        return dataclasses.replace(
            model,
            stamp=stamp,
            verified_ms=self.clock_ms(),
            state=states.verified(model.state),
            reason="" if failed else model.reason,
        )

    def _quarantine(self, model: StoredModel, reason: str, read: FileStamp | None) -> None:
        """Write down that a file is broken; move the one that was read where nothing loads it."""
        with self.folders.locked():
            blob = self.folders.blob(model.digest)
            if read is not None and not model.in_place and blob.exists():
                if stamp_of(blob).inode != read.inode:
                    return  # somebody put another file there meanwhile
                move_durably(blob, self.folders.quarantined(model.digest))
            for each in self.models():
                shared = not model.in_place and not each.in_place and each.digest == model.digest
                if shared or each.name == model.name:
                    self._write(each.with_state(states.broken(each.state), reason))

    def _own_models(self) -> Iterator[StoredModel]:
        return (model for model in self.models() if not model.in_place)

    def _manifest_paths(self) -> list[Path]:
        found = self.folders.manifests.glob("[!.]*.json")
        return sorted(found)

    def _read(self, path: Path) -> StoredModel:
        try:
            with path.open("rb") as file:
                model = read_manifest(file.read(MANIFEST_BYTES_MAX))
            if self.folders.manifest(model.name) != path:
                raise ModelStoreError(f"it names another model, {model.name}")
        except FileNotFoundError as error:
            name = path.stem.replace("~", "/").replace("=", ":")
            raise ModelNotFoundError(f"the store has no model {name}") from error
        except (OSError, ModelStoreError) as error:
            raise ModelStoreError(f"the manifest {path} cannot be used: {error}") from error
        if model.in_place:
            return model
        # The store may have been moved, and a file may be in quarantine: where it is counts.
        blob, quarantined = self.folders.blob(model.digest), self.folders.quarantined(model.digest)
        there = quarantined if not blob.exists() and quarantined.exists() else blob
        return dataclasses.replace(model, path=there)

    def _write(self, model: StoredModel) -> None:
        path = self.folders.manifest(model.name)
        try:
            write_atomically(path, write_manifest(model), 0o600)
            sync_folder(path.parent)
        except OSError as error:
            raise ModelStoreError(f"cannot write {path}: {error.strerror or error}") from error

    def _unlink(self, path: Path) -> int:
        try:
            size = path.stat().st_size
            path.unlink()
            sync_folder(path.parent)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise ModelStoreError(f"cannot delete {path}: {error.strerror or error}") from error
        return size
