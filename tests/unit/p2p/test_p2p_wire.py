"""Owns the tests of the frame codec: bytes in any portions, sizes at and beyond the limits."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.errors import MalformedError
from p2p.limits import FRAME_BYTES_MAX
from p2p.wire import FrameDecoder, encode_frame

payloads = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8)


def frames_of(sent: list[bytes]) -> bytes:
    return b"".join(encode_frame(payload) for payload in sent)


@given(payloads)
def test_fed_whole(sent: list[bytes]) -> None:
    decoder = FrameDecoder()
    assert decoder.feed(frames_of(sent)) == sent
    assert decoder.bytes_pending == 0


@given(payloads)
def test_fed_byte_by_byte(sent: list[bytes]) -> None:
    decoder = FrameDecoder()
    received: list[bytes] = []
    for byte in frames_of(sent):
        received += decoder.feed(bytes([byte]))
    assert received == sent
    assert decoder.bytes_pending == 0


@settings(max_examples=500)
@given(payloads, st.lists(st.integers(0, 600), max_size=12))
def test_fed_in_any_portions(sent: list[bytes], cuts: list[int]) -> None:
    data = frames_of(sent)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    decoder = FrameDecoder()
    received: list[bytes] = []
    for start, end in pairwise(places):
        received += decoder.feed(data[start:end])
    assert received == sent


@given(payloads, st.binary(min_size=1, max_size=63))
def test_trailing_bytes_wait_for_the_rest(sent: list[bytes], rest: bytes) -> None:
    unfinished = encode_frame(bytes(64))[: 4 + len(rest)]
    decoder = FrameDecoder()
    assert decoder.feed(frames_of(sent) + unfinished) == sent
    assert decoder.bytes_pending == len(unfinished)
    assert decoder.feed(bytes(64 - len(rest))) == [bytes(64)]


def test_nothing_in_nothing_out() -> None:
    assert FrameDecoder().feed(b"") == []


@pytest.mark.parametrize("length", [0, 11, 2**31, 2**32 - 1])
def test_bad_lengths_are_refused_before_their_bytes_come(length: int) -> None:
    decoder = FrameDecoder(10)
    with pytest.raises(MalformedError):
        decoder.feed(struct.pack(">I", length))
    assert decoder.bytes_pending == 0
    with pytest.raises(MalformedError):
        decoder.feed(encode_frame(b"good"))


def test_a_bad_length_after_a_good_frame() -> None:
    with pytest.raises(MalformedError):
        FrameDecoder(10).feed(encode_frame(b"good") + bytes(4))


@pytest.mark.parametrize("size", [1, 10, FRAME_BYTES_MAX])
def test_sizes_up_to_the_limit(size: int) -> None:
    payload = b"x" * size
    assert FrameDecoder(size).feed(encode_frame(payload, size)) == [payload]


@pytest.mark.parametrize("payload", [b"", b"x" * 11])
def test_what_does_not_fit_is_not_encoded(payload: bytes) -> None:
    with pytest.raises(MalformedError):
        encode_frame(payload, 10)


@settings(max_examples=1_000)
@given(st.binary(max_size=200))
def test_random_bytes_never_surprise(data: bytes) -> None:
    decoder = FrameDecoder(64)
    try:
        frames = decoder.feed(data)
    except MalformedError:
        return
    assert sum(len(frame) + 4 for frame in frames) + decoder.bytes_pending == len(data)
    assert decoder.bytes_pending <= 64 + 4
