"""The reading of server-sent events: whatever the pieces, the same events; bounded."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.upstream.errors import BrokenAnswerError
from node.upstream.sse import EventReader

TEXTS = st.lists(
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n")), max_size=6
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    texts=TEXTS,
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
    places=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_events_do_not_depend_on_how_they_were_cut(
    texts: list[str], end: str, bom: bool, places: list[int]
) -> None:
    lines = ["\ufeff" if bom else ""]
    lines[0] += ": a comment" + end
    for text in texts:
        lines += [f"event: x{end}", f"data: {text}{end}", f"id: 7{end}", end]
    data = "".join(lines).encode()
    reader = EventReader(len(data))
    events = [event for part in cut(data, places) for event in reader.feed(part)]
    assert events == texts


def test_several_data_lines_are_one_event_and_an_empty_one_is_none() -> None:
    reader = EventReader(1000)
    assert reader.feed(b"\n\ndata: a\ndata:b\ndata\n\nevent: only\n\n") == ["a\nb\n"]


def test_an_event_that_is_cut_off_is_none() -> None:
    assert EventReader(1000).feed(b"data: half") == []


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_are_read_or_refused(data: bytes, places: list[int]) -> None:
    reader = EventReader(1000, 100)
    try:
        for part in cut(data, places):
            reader.feed(part)
    except BrokenAnswerError:
        pass


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([b"data: " + b"x" * 90, b"x" * 20], "too long a line"),
        ([b"data: " + b"x" * 101 + b"\n"], "too long a line"),
        ([b"data: " + b"x" * 60 + b"\n"] * 2, "too long an event"),
        ([b": ping\n\n"] * 200, "longer than its tokens"),
        ([b"data: \xff\n\n"], "not UTF-8"),
    ],
)
def test_bounds(parts: list[bytes], reason: str) -> None:
    reader = EventReader(1000, 100)
    with pytest.raises(BrokenAnswerError, match=reason):
        for part in parts:
            reader.feed(part)


def test_a_line_as_long_as_allowed_passes() -> None:
    text = json.dumps("x" * 92)
    assert EventReader(1000, 100).feed(f"data: {text}\n\n".encode()) == [text]
