"""Owns the reading of a GGUF header: strict and bounded, because the file may come from anybody.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
A header is: magic, version, tensor count, entry count; the metadata entries; the tensor
descriptions; padding; data. Only what identity and description need is kept: scalars, strings, and
the place of each array.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import BinaryIO

from node.errors import ModelFileError
from node.limits import (
    GGUF_ARRAY_ELEMENTS_MAX,
    GGUF_HEADER_BYTES_MAX,
    GGUF_KEPT_BYTES_MAX,
    GGUF_KEY_BYTES_MAX,
    GGUF_METADATA_ENTRIES_MAX,
    GGUF_STRING_BYTES_MAX,
    GGUF_TENSORS_MAX,
)

Scalar = int | float | bool | str

_MAGIC = b"GGUF"
_ALIGNMENT_DEFAULT = 32
_ALIGNMENT_MAX = 1 << 16
_DIMENSIONS_MAX = 4
_TYPE_STRING, _TYPE_ARRAY, _TYPE_BOOL = 8, 9, 7
_SKIP_BYTES = 1 << 20
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}

# Tensor type: elements in a block, bytes of a block (ggml.c, type_traits).
_TENSOR_TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
    39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArrayPlace:
    """Where an array's elements stand in the file, as raw bytes."""

    element_type: int
    count: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; `start` is its place in the file."""

    name: str
    type_number: int
    shape: tuple[int, ...]
    start: int
    size_bytes: int

    @property
    def parameter_count(self) -> int:
        """Its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file."""

    version: int
    metadata: dict[str, Scalar | ArrayPlace]
    tensors: tuple[Tensor, ...]


def read_gguf_header(file: BinaryIO, size_bytes: int) -> GgufHeader:
    """Read the header of a file of `size_bytes`; the file is positioned at its start.

    Raises: ModelFileError naming what is wrong.
    """
    reader = _Reader(file, size_bytes)
    if reader.take(4, "magic") != _MAGIC:
        raise ModelFileError("not a GGUF file (the first four bytes are not GGUF)")
    version = reader.integer("I", "version")
    if version not in (2, 3):
        raise ModelFileError(f"GGUF version {version} is not supported (2 and 3 are)")
    tensor_count = reader.integer("Q", "tensor count")
    entry_count = reader.integer("Q", "metadata count")
    if not 0 < tensor_count <= GGUF_TENSORS_MAX:
        raise ModelFileError(f"{tensor_count} tensors: 1 to {GGUF_TENSORS_MAX} are allowed")
    if entry_count > GGUF_METADATA_ENTRIES_MAX:
        raise ModelFileError(
            f"{entry_count} metadata entries: at most {GGUF_METADATA_ENTRIES_MAX} are allowed"
        )
    metadata = _read_metadata(reader, entry_count)
    tensors = [_read_tensor(reader) for _ in range(tensor_count)]
    return GgufHeader(version, metadata, _placed(tensors, metadata, reader))


class _Reader:
    """Takes bytes of the header; never more than the file has, nor than the header may have."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self.size_bytes = size_bytes
        self.position = 0
        self._kept_bytes = 0
        self._elements = 0

    def take(self, count: int, what: str) -> bytes:
        self._check_room(count, what)
        data = self._file.read(count)
        if len(data) != count:
            raise ModelFileError(f"the file ends inside its {what} (truncated while reading)")
        self.position += count
        return data

    def skip(self, count: int, what: str) -> None:
        """Pass over bytes without reading them."""
        self._check_room(count, what)
        self.position += count
        self._file.seek(self.position)

    def _check_room(self, count: int, what: str) -> None:
        if count > self.size_bytes - self.position:
            raise ModelFileError(f"the file ends inside its {what} (truncated or damaged)")
        if count > GGUF_HEADER_BYTES_MAX - self.position:
            raise ModelFileError(f"the header has more than {GGUF_HEADER_BYTES_MAX} bytes")

    def integer(self, form: str, what: str) -> int:
        data = self.take(struct.calcsize("<" + form), what)
        return int(struct.unpack("<" + form, data)[0])

    def string(self, what: str, size_bytes_max: int) -> str:
        """Read a text that is kept."""
        length = self.integer("Q", what)
        if length > size_bytes_max:
            raise ModelFileError(f"{what} has {length} bytes: at most {size_bytes_max} are allowed")
        self._kept_bytes += length
        if self._kept_bytes > GGUF_KEPT_BYTES_MAX:
            raise ModelFileError(f"its texts have more than {GGUF_KEPT_BYTES_MAX} bytes together")
        return self.take(length, what).decode("utf-8", errors="replace")

    def count_elements(self, count: int, key: str) -> None:
        """Count an array in: all arrays together are bounded."""
        self._elements += count
        if self._elements > GGUF_ARRAY_ELEMENTS_MAX:
            raise ModelFileError(
                f"{key!r} has {count} elements: at most {GGUF_ARRAY_ELEMENTS_MAX} are allowed"
                " in all arrays together"
            )

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over the strings of an array (there may be a million: the loop is kept short)."""
        unpack, longest = struct.Struct("<Q").unpack_from, GGUF_STRING_BYTES_MAX
        data, at, last = b"", 0, -1
        for _ in range(count):
            if at > last:
                self.skip(at, what)
                data, at = self._file.read(_SKIP_BYTES), 0
                last = len(data) - 8
                if last < 0:
                    raise ModelFileError(f"the file ends inside its {what} (truncated)")
            length = unpack(data, at)[0]
            if length > longest:
                raise ModelFileError(f"{what} has {length} bytes: at most {longest} are allowed")
            at += 8 + length
        self.skip(at, what)


def _read_metadata(reader: _Reader, count: int) -> dict[str, Scalar | ArrayPlace]:
    metadata: dict[str, Scalar | ArrayPlace] = {}
    for _ in range(count):
        key = reader.string("metadata key", GGUF_KEY_BYTES_MAX)
        if key in metadata:
            raise ModelFileError(f"metadata key {key!r} stands there twice")
        kind = reader.integer("I", f"type of {key!r}")
        metadata[key] = _read_value(reader, kind, key)
    return metadata


def _read_value(reader: _Reader, kind: int, key: str) -> Scalar | ArrayPlace:
    if kind == _TYPE_ARRAY:
        return _read_array(reader, key)
    if kind == _TYPE_STRING:
        return reader.string(f"value of {key!r}", GGUF_STRING_BYTES_MAX)
    if kind == _TYPE_BOOL:
        value = reader.take(1, f"value of {key!r}")[0]
        if value > 1:
            raise ModelFileError(f"{key!r} is a truth value but holds {value}")
        return bool(value)
    form = _SCALARS.get(kind)
    if form is None:
        raise ModelFileError(f"{key!r} has the unknown type {kind}")
    data = reader.take(struct.calcsize("<" + form), f"value of {key!r}")
    number: int | float = struct.unpack("<" + form, data)[0]
    return number


def _read_array(reader: _Reader, key: str) -> ArrayPlace:
    kind = reader.integer("I", f"element type of {key!r}")
    count = reader.integer("Q", f"length of {key!r}")
    reader.count_elements(count, key)
    start = reader.position
    if kind == _TYPE_STRING:
        reader.skip_strings(count, f"element of {key!r}")
    elif kind == _TYPE_BOOL or kind in _SCALARS:
        reader.skip(count * struct.calcsize("<" + _SCALARS.get(kind, "B")), f"elements of {key!r}")
    else:
        raise ModelFileError(f"{key!r} has elements of the unsupported type {kind}")
    return ArrayPlace(kind, count, start, reader.position)


def _read_tensor(reader: _Reader) -> Tensor:
    """Read one description; `start` is still relative to the beginning of the data."""
    name = reader.string("tensor name", GGUF_KEY_BYTES_MAX)
    dimensions = reader.integer("I", f"dimensions of tensor {name!r}")
    if not 1 <= dimensions <= _DIMENSIONS_MAX:
        raise ModelFileError(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.integer("Q", f"shape of tensor {name!r}") for _ in range(dimensions))
    kind = reader.integer("I", f"type of tensor {name!r}")
    offset = reader.integer("Q", f"offset of tensor {name!r}")
    block = _TENSOR_TYPES.get(kind)
    if block is None:
        raise ModelFileError(f"tensor {name!r} has the unknown type {kind}")
    elements = 1
    for length in shape:
        if not 0 < length < 2**40:
            raise ModelFileError(f"tensor {name!r} has a side of {length}")
        elements *= length
    if shape[0] % block[0]:
        raise ModelFileError(
            f"tensor {name!r} has rows of {shape[0]}, not a multiple of {block[0]}"
        )
    return Tensor(name, kind, shape, offset, elements // block[0] * block[1])


def _placed(
    tensors: list[Tensor], metadata: dict[str, Scalar | ArrayPlace], reader: _Reader
) -> tuple[Tensor, ...]:
    """Move the tensors to their places in the file and check that they lie there side by side."""
    alignment = metadata.get("general.alignment", _ALIGNMENT_DEFAULT)
    if type(alignment) is not int or not 8 <= alignment <= _ALIGNMENT_MAX or alignment % 8:
        raise ModelFileError(f"general.alignment is {alignment!r}: not a possible alignment")
    data_start = -(-reader.position // alignment) * alignment
    placed: list[Tensor] = []
    end = data_start
    names: set[str] = set()
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        start = data_start + tensor.start
        if tensor.start % alignment:
            raise ModelFileError(f"tensor {tensor.name!r} is not aligned to {alignment} bytes")
        if start < end:
            raise ModelFileError(f"tensor {tensor.name!r} overlaps another one")
        end = start + tensor.size_bytes
        if end > reader.size_bytes:
            raise ModelFileError(
                f"the file has {reader.size_bytes} bytes, but tensor {tensor.name!r} "
                f"ends at {end} (truncated or damaged)"
            )
        if tensor.name in names:
            raise ModelFileError(f"tensor {tensor.name!r} stands there twice")
        names.add(tensor.name)
        placed.append(
            Tensor(tensor.name, tensor.type_number, tensor.shape, start, tensor.size_bytes)
        )
    return tuple(placed)
