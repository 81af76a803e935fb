"""Owns the manifest of a stored model: what is kept of it beside its file, and its JSON form.

The manifest says what the file was when it was read whole: its digest and model ID, what it claims
of itself, and a stamp (size, times, inode) that tells cheaply whether it is still that file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.agent.runtime_port import ModelState
from node.errors import ModelFileError
from node.model_file import ModelFile
from node.store.errors import ModelStoreError
from node.store.limits import REASON_CHARACTERS_MAX, SOURCE_CHARACTERS_MAX

FORMAT = "resultity/model/1"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
"""The same as of a model in the network configuration."""
_UNFIT = re.compile(r"[^A-Za-z0-9._:/-]+")
_DIGESTS = ("digest", "model_id", "tensor_digest", "chat_template_digest")


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What `stat` says of a file. While it stays the same, so has the content (see `stamp_of`)."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def stamp_of(path: Path) -> FileStamp:
    """Look at a file.

    The change time stands in the stamp because, unlike the time of modification, nobody can set
    it back. Raises: ModelFileError.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model of the store. Digests have 32 bytes.

    `path` is where its file is now. `in_place`: the file is the operator's, outside the store; the
    store neither moves nor deletes it.
    """

    name: str
    path: Path
    in_place: bool
    size_bytes: int
    digest: bytes
    model_id: bytes
    tensor_digest: bytes
    chat_template_digest: bytes
    architecture: str
    version: str
    context_tokens: int
    quantisation: str
    parameter_count: int
    tasks: tuple[str, ...]
    licence: str
    source: str
    added_ms: int
    stamp: FileStamp
    verified_ms: int
    state: ModelState = ModelState.PENDING
    reason: str = ""

    def with_state(self, state: ModelState, reason: str) -> StoredModel:
        """The same model in another state."""
        return dataclasses.replace(self, state=state, reason=reason[:REASON_CHARACTERS_MAX])


def stored_from_file(
    file: ModelFile, *, name: str, in_place: bool, source: str, stamp: FileStamp, now_ms: int
) -> StoredModel:
    """Make the manifest of a file that was just read whole."""
    return StoredModel(
        name=name,
        path=file.path,
        in_place=in_place,
        size_bytes=file.size_bytes,
        digest=file.digest,
        model_id=file.model_id,
        tensor_digest=file.tensor_digest,
        chat_template_digest=file.chat_template_digest,
        architecture=file.architecture,
        version=file.version,
        context_tokens=file.context_tokens,
        quantisation=file.quantisation,
        parameter_count=file.parameter_count,
        tasks=file.tasks,
        licence=file.licence,
        source=source[:SOURCE_CHARACTERS_MAX],
        added_ms=now_ms,
        stamp=stamp,
        verified_ms=now_ms,
    )


def manifest_facts(model: StoredModel) -> dict[str, Any]:
    """Everything that is known of a model, as JSON has it (also for `list --json`)."""
    facts = dataclasses.asdict(model)
    for name in _DIGESTS:
        facts[name] = facts[name].hex()
    return {**facts, "path": str(model.path), "state": str(model.state)}


def write_manifest(model: StoredModel) -> bytes:
    """Give the manifest's bytes."""
    facts = {"format": FORMAT, **manifest_facts(model)}
    return json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n"


def read_manifest(data: bytes) -> StoredModel:
    """Read a manifest. Raises: ModelStoreError that says what is wrong with it."""
    try:
        facts = json.loads(data)
        if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
            raise ModelStoreError(f"it is not of the form {FORMAT}")
        names = {field.name for field in dataclasses.fields(StoredModel)}
        model = StoredModel(**_values({key: facts[key] for key in facts if key in names}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelStoreError(f"it is damaged ({type(error).__name__})") from error
    _check(model)
    return model


def _values(facts: dict[str, Any]) -> dict[str, Any]:
    values = dict(facts)
    for name in _DIGESTS:
        values[name] = bytes.fromhex(values[name])
    values["path"] = Path(values["path"])
    values["tasks"] = tuple(values["tasks"])
    values["stamp"] = FileStamp(**values["stamp"])
    values["state"] = ModelState(values["state"])
    return values


def _check(model: StoredModel) -> None:
    texts = (
        model.architecture, model.version, model.quantisation, model.licence, model.source,
        model.reason, *model.tasks,
    )  # fmt: skip
    numbers = (
        model.size_bytes, model.context_tokens, model.parameter_count, model.added_ms,
        model.verified_ms, *dataclasses.astuple(model.stamp),
    )  # fmt: skip
    right = (
        isinstance(model.name, str)
        and MODEL_NAME.fullmatch(model.name)
        and all(isinstance(text, str) for text in texts)
        and all(type(number) is int and number >= 0 for number in numbers)
        and all(len(getattr(model, name)) == 32 for name in _DIGESTS)
        and type(model.in_place) is bool
        and model.path.is_absolute()
    )
    if not right:
        raise ModelStoreError("it is damaged (a value is not what it must be)")


def model_name_of(name: str, unnamed: str) -> str:
    """Give the name that a model gets if the operator gives none."""
    for text in (name.lower(), unnamed):
        fit = _UNFIT.sub("-", text).strip("-._:/")[:100]
        if fit:
            return fit
    return "model"
