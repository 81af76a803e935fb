"""Owns how much memory models take, and which of them leave when another needs it. Mostly pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from node.errors import ModelFileError
from node.gguf_header import ArrayPlace, Scalar, read_gguf_header
from node.limits import MEMORY_OVERHEAD_BYTES, MEMORY_SHARE_DEFAULT

_KEY_VALUE_BYTES = 2
"""Of each number in the KV cache: f16."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Loaded:
    """One model in memory, as it counts when room is needed."""

    digest: bytes
    memory_bytes: int
    jobs: int
    used_at_s: float


def choose_victims(
    loaded: Sequence[Loaded], needed_bytes: int, bytes_max: int
) -> tuple[bytes, ...] | None:
    """Choose the models that must leave so that another has room, those least lately used first.

    Returns: digests, none if there is room already; None if there is no way: the rest has jobs, or
        it is too large for the limit altogether. Then nothing should leave.
    """
    free = bytes_max - sum(model.memory_bytes for model in loaded)
    victims: list[bytes] = []
    for model in sorted(loaded, key=lambda model: (model.used_at_s, model.digest)):
        if free >= needed_bytes:
            break
        if model.jobs == 0:
            victims.append(model.digest)
            free += model.memory_bytes
    return tuple(victims) if free >= needed_bytes else None


def key_value_bytes_per_token(metadata: Mapping[str, Scalar | ArrayPlace]) -> int:
    """What one token of context takes in the KV cache, from what a GGUF file says of itself.

    0 if it does not say enough; recurrent layers, which take less, count as if they had a cache.
    """
    architecture = metadata.get("general.architecture")

    def number(key: str) -> int:
        value = metadata.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and value > 0 else 0

    layers, heads = number("block_count"), number("attention.head_count")
    if not layers or not heads:
        return 0
    # An array (a number for each layer) counts as if all layers had all heads.
    heads_kv = number("attention.head_count_kv") or heads
    width = number("embedding_length") // heads
    key = number("attention.key_length") or width
    value = number("attention.value_length") or width
    return layers * heads_kv * (key + value) * _KEY_VALUE_BYTES


def estimated_bytes(path: Path, *, slots: int, context_tokens: int) -> int:
    """Estimate what a model takes once it is loaded: file, KV cache, and the process around it.

    Blocks while the header is read. Raises: ModelFileError.
    """
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            header = read_gguf_header(file, size_bytes)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    cache = key_value_bytes_per_token(header.metadata) * slots * context_tokens
    return size_bytes + cache + MEMORY_OVERHEAD_BYTES


def default_memory_bytes() -> int:
    """The share of this machine's memory (or of the container's) that models may take."""
    total = psutil.virtual_memory().total
    try:
        total = min(total, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        pass  # no such file, or "max"
    return int(total * MEMORY_SHARE_DEFAULT)


def measured_bytes(pid: int) -> int:
    """What a process and its children have in memory now; 0 if it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(one.memory_info().rss for one in family)
    except psutil.Error:
        return 0
