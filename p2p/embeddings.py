"""Owns the task `embeddings` on the wire: what an offer asks, and the form of the vectors. Pure.

Theory of operation. An offer whose `task` is `embeddings` carries this JSON as its request:

    {"input": ["text", ...] or [[token, ...], ...], "dimensions": 256}

(`dimensions` only if the vectors are to be cut). It allows no output tokens and nothing is resumed.
The answer travels in ordinary output frames without tokens: their texts, one after the other, are
lines, one for each input in its order; a line is the base64 of the vector's numbers (32-bit floats,
little-endian, of length 1 together) and a line feed. A frame holds whole lines. So output hash,
receipt and delivery count are those of every job; only the input is charged, when the answer is
complete.
"""

from __future__ import annotations

import array
import base64
import binascii
import json
import operator
import sys
from collections.abc import Sequence
from typing import Any

from p2p.errors import UntrustedError
from p2p.limits import EMBEDDING_DIMENSIONS_MAX, EMBEDDING_TEXT_BYTES_MAX

CHAT = "chat"
EMBEDDINGS = "embeddings"
TASKS = (CHAT, EMBEDDINGS)
_NUMBER_BYTES = 4
_LENGTH_TOLERANCE = 1e-3
"""Of the squared length: 32-bit rounding of 16,384 numbers is a thousandth of this."""


def request_json(inputs: Sequence[str] | Sequence[Sequence[int]], dimensions: int | None) -> bytes:
    """Give the compact JSON that is offered to a node."""
    fields: dict[str, Any] = {"input": inputs}
    if dimensions is not None:
        fields["dimensions"] = dimensions
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def vector_line(data: bytes) -> str:
    """Give the line of one vector: `data` are its numbers as they travel."""
    return base64.b64encode(data).decode() + "\n"


def line_bytes(dimensions: int) -> int:
    """How many bytes the line of a vector has."""
    return -(-dimensions * _NUMBER_BYTES // 3) * 4 + 1


def vector_numbers(encoded: str) -> list[float]:
    """Read a vector (a line without its end). Raises: UntrustedError."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UntrustedError("a vector that is not base64") from error
    if not data or len(data) % _NUMBER_BYTES:
        raise UntrustedError("a vector that does not hold whole numbers")
    numbers = array.array("f", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


class VectorLines:
    """Holds a node's vectors against what was asked, as they come."""

    __slots__ = ("_bytes", "_dimensions", "_left")

    def __init__(self, inputs: int, dimensions: int | None = None) -> None:
        """Expect a vector for each of `inputs`, of `dimensions` numbers if they were asked for."""
        self._left = inputs
        self._dimensions = dimensions
        self._bytes = 0

    @property
    def complete(self) -> bool:
        """Whether all vectors have come."""
        return not self._left

    def take(self, text: str) -> None:
        """Check the text of one frame.

        Raises: UntrustedError if it is not whole lines of vectors of one length, each of length 1,
            or more than were asked for.
        """
        self._bytes += len(text)
        if self._bytes > EMBEDDING_TEXT_BYTES_MAX:
            raise UntrustedError("more text than vectors may have")
        if not text.endswith("\n"):
            raise UntrustedError("a frame that does not end with a whole vector")
        lines = text[:-1].split("\n")
        if len(lines) > self._left:
            raise UntrustedError("more vectors than there are inputs")
        for line in lines:
            self._check(line)
        self._left -= len(lines)

    def _check(self, line: str) -> None:
        numbers = vector_numbers(line)
        if self._dimensions is None:
            self._dimensions = len(numbers)
        if len(numbers) != self._dimensions or len(numbers) > EMBEDDING_DIMENSIONS_MAX:
            raise UntrustedError("a vector of another length")
        square = sum(map(operator.mul, numbers, numbers))
        if not abs(square - 1.0) <= _LENGTH_TOLERANCE:  # NaN and infinity are no lengths either
            raise UntrustedError("a vector that is not normalised")
