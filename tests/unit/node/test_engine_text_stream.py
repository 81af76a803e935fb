"""Text from token bytes: whole characters, stop strings, replay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.runtime.text_stream import TextStream


def run(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[str, bool]:
    stream = TextStream(stops)
    text = "".join(stream.feed(piece) for piece in pieces)
    stopped = stream.stopped
    return text + stream.finish(), stopped


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.text(max_size=40), st.lists(st.integers(0, 60), max_size=10))
def test_text_survives_any_cutting(text: str, cuts: list[int]) -> None:
    assert run(split(text.encode(), cuts)) == (text, False)


@given(
    st.text("abc", max_size=30),
    st.lists(st.integers(0, 30), max_size=10),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_are_found_across_any_cutting(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    pieces = split(text.encode(), cuts)
    got, stopped = run(pieces, tuple(stops))
    assert stopped == any(stop in text for stop in stops)
    assert not any(stop in got for stop in stops)
    assert text.startswith(got)
    if not stopped:
        assert got == text


@given(st.text("ab", max_size=20), st.integers(0, 20))
def test_replay_leads_to_the_same_continuation(text: str, cut: int) -> None:
    pieces = [character.encode() for character in text]
    stream = TextStream(("aab", "bb"))
    emitted = [stream.feed(piece) for piece in pieces]
    tail = stream.finish()
    cut = min(cut, len(pieces))
    resumed = TextStream(("aab", "bb"))
    for piece in pieces[:cut]:
        resumed.feed(piece)
    rest = "".join(resumed.feed(piece) for piece in pieces[cut:]) + resumed.finish()
    assert "".join(emitted[:cut]) + rest == "".join(emitted) + tail


def test_a_character_is_never_cut() -> None:
    stream = TextStream()
    assert stream.feed("€".encode()[:2]) == ""
    assert stream.finish() == ""


def test_invalid_bytes_are_replaced() -> None:
    assert run([b"a\xff", b"b"]) == ("a�b", False)


def test_nothing_follows_a_stop() -> None:
    stream = TextStream(("END",))
    assert stream.feed(b"one EN") == "one "
    assert stream.feed(b"D two") == ""
    assert stream.stopped
    assert stream.feed(b"three") == ""
    assert stream.finish() == ""
