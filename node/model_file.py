"""Owns a model file's identity: its digest, its model ID, and what it says about itself.

Two identities (DOMAIN.md, Model). The file digest is the SHA-256 of the whole file: what a
configuration approves and a download is checked against. The model ID covers what makes the
answers, and stays the same when only other metadata is edited:

    tensor hash    = SHA-256 over the sorted lines  name|type|shape|SHA-256(data)
    tokenizer hash = SHA-256 over the sorted entries tokenizer.ggml.* (key, the value's bytes)
    model ID       = SHA-256(tensor hash | tokenizer hash | SHA-256(chat template))

Name, context length, licence and tasks are the file's own claims and prove nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node.errors import ModelFileError
from node.gguf_header import ArrayPlace, GgufHeader, Scalar, Tensor, read_gguf_header
from node.limits import CHAT_TEMPLATE_BYTES_MAX, MODEL_READ_BYTES
from node.model_quantisation import quantisation_of
from p2p.limits import NAME_CHARACTERS_MAX, TOKENS_MAX

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the size of the file, from the thread that reads."""

_CHAT_TEMPLATE = "tokenizer.chat_template"

# Architectures whose output is an embedding, never text (llama.cpp, llama-arch.cpp).
_EMBEDDING_ARCHITECTURES = frozenset({
    "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2",
    "jina-bert-v3", "eurobert", "gemma-embedding", "t5encoder", "llama-embed",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One model file that was read whole. Digests have 32 bytes.

    `tasks`: what the file can be for; the runtime has the last word. `licence` is what it claims.
    """

    path: Path
    size_bytes: int
    digest: bytes
    model_id: bytes
    tensor_digest: bytes
    architecture: str
    name: str
    version: str
    context_tokens: int
    quantisation: str
    parameter_count: int
    chat_template: str | None
    tasks: tuple[str, ...] = ("chat",)
    licence: str = ""

    @property
    def chat_template_digest(self) -> bytes:
        """The SHA-256 of the chat template; of nothing, if there is none."""
        return hashlib.sha256((self.chat_template or "").encode()).digest()


def read_model_file(
    path: Path, progress: Progress | None = None, *, unnamed: str | None = None
) -> ModelFile:
    """Read a GGUF file once, from the beginning to the end (blocking, about 1 GB a second).

    Args:
        unnamed: the name of a model that names itself nowhere; None: that of the file.
    Raises: ModelFileError naming what is wrong: missing, truncated, damaged, hostile, not GGUF.
    """
    try:
        # A pipe would block the opening, a device may never end.
        if path.exists() and not path.is_file():
            raise ModelFileError(
                f"{path} is {'a directory' if path.is_dir() else 'not a regular file'}"
            )
        with path.open("rb") as file:
            return _read(path, file, progress, unnamed or path.stem)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: Path, file: BinaryIO, progress: Progress | None, unnamed: str) -> ModelFile:
    size_bytes = file.seek(0, 2)
    file.seek(0)
    header = read_gguf_header(file, size_bytes)
    metadata = header.metadata
    architecture = _text(metadata, "general.architecture")
    if not architecture:
        raise ModelFileError("general.architecture is missing")
    context_tokens = metadata.get(f"{architecture}.context_length")
    if type(context_tokens) is not int or not 0 < context_tokens <= TOKENS_MAX:
        raise ModelFileError(f"{architecture}.context_length is missing or impossible")
    template = _chat_template(metadata)
    tokenizer_digest = _tokenizer_digest(file, metadata)
    digest, tensor_digest = _digests(file, size_bytes, header, progress)
    template_digest = hashlib.sha256((template or "").encode()).digest()
    return ModelFile(
        path=path,
        size_bytes=size_bytes,
        digest=digest,
        model_id=hashlib.sha256(tensor_digest + tokenizer_digest + template_digest).digest(),
        tensor_digest=tensor_digest,
        architecture=architecture,
        name=_text(metadata, "general.name") or unnamed[:NAME_CHARACTERS_MAX],
        version=_text(metadata, "general.version"),
        context_tokens=context_tokens,
        quantisation=quantisation_of(header.tensors, metadata.get("general.file_type")),
        parameter_count=sum(tensor.parameter_count for tensor in header.tensors),
        chat_template=template,
        tasks=_tasks(metadata, architecture, template),
        licence=_text(metadata, "general.license"),
    )


def _tasks(
    metadata: dict[str, Scalar | ArrayPlace], architecture: str, template: str | None
) -> tuple[str, ...]:
    """Tell what the model is for: without a template it cannot chat, nor can a pure encoder."""
    pooling = metadata.get(f"{architecture}.pooling_type", 0)
    encodes = architecture in _EMBEDDING_ARCHITECTURES or (type(pooling) is int and pooling > 0)
    return ("embeddings",) if encodes or template is None else ("chat", "embeddings")


def _text(metadata: dict[str, Scalar | ArrayPlace], key: str) -> str:
    """Give a short text without control characters (it will be shown in terminals)."""
    value = metadata.get(key, "")
    if not isinstance(value, str):
        return ""
    return "".join(character for character in value if character.isprintable())[
        :NAME_CHARACTERS_MAX
    ]


def _chat_template(metadata: dict[str, Scalar | ArrayPlace]) -> str | None:
    template = metadata.get(_CHAT_TEMPLATE)
    if template is None:
        return None
    if not isinstance(template, str) or len(template.encode()) > CHAT_TEMPLATE_BYTES_MAX:
        raise ModelFileError(
            f"{_CHAT_TEMPLATE} must be a text of at most {CHAT_TEMPLATE_BYTES_MAX} bytes"
        )
    return template


def _tokenizer_digest(file: BinaryIO, metadata: dict[str, Scalar | ArrayPlace]) -> bytes:
    total = hashlib.sha256()
    for key in sorted(metadata):
        if not key.startswith("tokenizer.ggml."):
            continue
        value = metadata[key]
        if isinstance(value, ArrayPlace):
            data = _array_digest(file, value)
            kind = f"array {value.element_type} {value.count}"
        else:
            data = repr(value).encode()
            kind = type(value).__name__
        total.update(f"{key}|{kind}|{len(data)}|".encode() + data + b"\n")
    return total.digest()


def _array_digest(file: BinaryIO, place: ArrayPlace) -> bytes:
    file.seek(place.start)
    digest = hashlib.sha256()
    left = place.end - place.start
    while left:
        data = file.read(min(left, MODEL_READ_BYTES))
        if not data:
            raise ModelFileError("the file became shorter while it was read")
        digest.update(data)
        left -= len(data)
    return digest.digest()


def _digests(
    file: BinaryIO, size_bytes: int, header: GgufHeader, progress: Progress | None
) -> tuple[bytes, bytes]:
    """Hash the whole file and each tensor's data in one pass (tensors are sorted by place)."""
    file.seek(0)
    whole = hashlib.sha256()
    lines: list[str] = []
    position = 0

    def take(end: int, tensor_hash: hashlib._Hash | None) -> None:
        nonlocal position
        while position < end:
            data = file.read(min(end - position, MODEL_READ_BYTES))
            if not data:
                raise ModelFileError("the file became shorter while it was read")
            whole.update(data)
            if tensor_hash is not None:
                tensor_hash.update(data)
            position += len(data)
            if progress is not None:
                progress(position, size_bytes)

    for tensor in header.tensors:
        take(tensor.start, None)
        tensor_hash = hashlib.sha256()
        take(tensor.start + tensor.size_bytes, tensor_hash)
        lines.append(_tensor_line(tensor, tensor_hash.hexdigest()))
    take(size_bytes, None)
    if file.read(1):
        raise ModelFileError("the file became longer while it was read")
    return whole.digest(), hashlib.sha256("\n".join(sorted(lines)).encode()).digest()


def _tensor_line(tensor: Tensor, data_hexdigest: str) -> str:
    shape = ",".join(str(length) for length in tensor.shape)
    return f"{tensor.name}|{tensor.type_number}|{shape}|{data_hexdigest}"
