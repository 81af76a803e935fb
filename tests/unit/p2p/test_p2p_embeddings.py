"""The form of vectors on the wire: what was sent is what is read, and what is no vector is not."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.embedding_types import EmbeddingsRequest, answer_body
from gateway.jobs import Done, Ended, ReceiptNote
from p2p.embeddings import VectorLines, line_bytes, request_json, vector_line, vector_numbers
from p2p.errors import UntrustedError
from p2p.limits import EMBEDDING_DIMENSIONS_MAX

FLOATS = st.floats(-1, 1, width=32)
NOTE = ReceiptNote("", "", 0, "")


def unit(numbers: list[float]) -> bytes:
    length = math.sqrt(sum(number * number for number in numbers))
    return struct.pack(f"<{len(numbers)}f", *(number / length for number in numbers))


VECTORS = (
    st.lists(FLOATS, min_size=1, max_size=40).filter(lambda v: max(map(abs, v)) > 1e-3).map(unit)
)


@given(VECTORS)
def test_a_vector_is_read_as_it_was_sent(data: bytes) -> None:
    line = vector_line(data)
    assert len(line) == line_bytes(len(data) // 4)
    numbers = vector_numbers(line[:-1])
    assert struct.pack(f"<{len(numbers)}f", *numbers) == data
    VectorLines(1).take(line)


@given(st.lists(st.lists(FLOATS, min_size=1, max_size=9), min_size=1, max_size=4))
def test_decimal_numbers_are_the_same_32_bits(vectors: list[list[float]]) -> None:
    raw = [struct.pack(f"<{len(numbers)}f", *numbers) for numbers in vectors]
    done = Done((Ended("stop", "".join(map(vector_line, raw))),), 3, 0, NOTE)
    for form in ("float", "base64"):
        request = EmbeddingsRequest(model="m", input="a", encoding_format=form)
        shown = [item["embedding"] for item in json.loads(answer_body(request, done))["data"]]
        if form == "base64":
            assert [base64.b64decode(item) for item in shown] == raw
        else:
            assert [struct.pack(f"<{len(item)}f", *item) for item in shown] == raw


@given(st.integers(1, 5), st.integers(1, 8), st.lists(st.integers(1, 3), max_size=6))
def test_frames_may_divide_the_lines_as_they_like(
    count: int, dimensions: int, sizes: list[int]
) -> None:
    line = vector_line(unit([1.0] * dimensions))
    expected = VectorLines(count)
    left = count
    for size in [*sizes, count]:
        if part := min(size, left):
            assert not expected.complete
            expected.take(line * part)
            left -= part
    assert expected.complete
    with pytest.raises(UntrustedError):
        expected.take(line)


GOOD = vector_line(unit([1.0, 2.0]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        GOOD.strip(),
        GOOD + "\n",
        GOOD + GOOD + GOOD,
        GOOD[:-2] + "\n",
        "é" + GOOD,
        base64.b64encode(b"abc").decode() + "\n",
        vector_line(bytes(8)),
        vector_line(struct.pack("<2f", float("inf"), 0)),
        vector_line(struct.pack("<2f", float("nan"), 1)),
        vector_line(struct.pack("<2f", 0.9, 0.9)),
        vector_line(unit([1.0] * (EMBEDDING_DIMENSIONS_MAX + 1))),
        GOOD + vector_line(unit([1.0, 2.0, 3.0])),
    ],
)
def test_what_is_no_vector(text: str) -> None:
    with pytest.raises(UntrustedError):
        VectorLines(2).take(text)


def test_asked_dimensions_are_held_to() -> None:
    VectorLines(1, 2).take(GOOD)
    with pytest.raises(UntrustedError):
        VectorLines(1, 3).take(GOOD)


@given(
    st.lists(st.text('aé😀"', min_size=1), min_size=1, max_size=3),
    st.one_of(st.none(), st.integers(1, 99)),
)
def test_requests(inputs: list[str], dimensions: int | None) -> None:
    fields: Any = json.loads(request_json(inputs, dimensions))
    assert fields["input"] == inputs
    assert fields.get("dimensions") == dimensions
