"""Owns small GGUF files that tests make by hand: whole ones, and every kind of broken one."""

from __future__ import annotations

import struct


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, side: int, offset: int, kind: int = 0) -> bytes:
    return text(name) + struct.pack("<IQIQ", 1, side, kind, offset)


def entries_of(name: str = "Small", file_type: int = 7) -> list[bytes]:
    return [
        entry("general.architecture", 8, text("llama")),
        entry("general.name", 8, text(name)),
        entry("llama.context_length", 4, struct.pack("<I", 128)),
        entry("general.file_type", 4, struct.pack("<I", file_type)),
        entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        entry("tokenizer.ggml.token_type", 9, struct.pack("<IQ2i", 5, 2, 1, 1)),
        entry("tokenizer.chat_template", 8, text("{{ messages }}")),
    ]


def gguf(
    *,
    name: str = "Small",
    file_type: int = 7,
    entries: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = bytes(64),
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    entry_count: int | None = None,
) -> bytes:
    """A small but whole GGUF file: two tensors of 8 floats, unless it is told otherwise."""
    if entries is None:
        entries = entries_of(name, file_type)
    if tensors is None:
        tensors = [tensor("one", 8, 0), tensor("two", 8, 32)]
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(entries) if entry_count is None else entry_count,
    )
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def large_gguf(size_bytes: int, *, name: str = "Large") -> bytes:
    """A whole GGUF file of at least this size, whose bytes are all different enough to compare."""
    floats = size_bytes // 4 // 8 * 8
    data = b"".join(struct.pack("<I", number * 2_654_435_761 % 2**32) for number in range(floats))
    return gguf(name=name, tensors=[tensor("all", floats, 0)], data=data)
