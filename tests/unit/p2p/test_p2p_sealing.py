"""What is sealed can be opened by each reader, by nobody else, and not after a bit has changed."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.codec import decode_message, encode_message
from p2p.dispute_messages import EVIDENCE_BYTES_MAX, SealedEvidence
from p2p.errors import MalformedError, UntrustedError
from p2p.sealing import CONTENT_BYTES_MAX, seal, unseal
from p2p.signing import KeyPair

READERS = [KeyPair(bytes([number]) * 32) for number in (1, 2, 3)]
KEYS = [reader.public_key for reader in READERS]


@given(content=st.binary(max_size=500))
def test_each_reader_opens_it(content: bytes) -> None:
    sealed = seal(content, KEYS)
    assert decode_message(encode_message(sealed), SealedEvidence) == sealed
    assert [unseal(sealed, reader) for reader in READERS] == [content] * 3


def test_nobody_else_opens_it() -> None:
    sealed, stranger = seal(b"secret", KEYS[:2]), READERS[2]
    with pytest.raises(UntrustedError, match="not sealed to this key"):
        unseal(sealed, stranger)
    posing = replace(sealed, keys=(replace(sealed.keys[0], decider=stranger.public_key),))
    with pytest.raises(UntrustedError, match="damaged"):
        unseal(posing, stranger)


@given(place=st.integers(0), bit=st.integers(0, 7), of_key=st.booleans())
def test_a_changed_bit_is_noticed(place: int, bit: int, of_key: bool) -> None:
    sealed = seal(b"the evidence" * 5, KEYS[:1])
    (key,) = sealed.keys
    data = bytearray(key.sealed if of_key else sealed.box)
    data[place % len(data)] ^= 1 << bit
    changed = (
        replace(sealed, keys=(replace(key, sealed=bytes(data)),))
        if of_key
        else replace(sealed, box=bytes(data))
    )
    with pytest.raises(UntrustedError):
        unseal(changed, READERS[0])


def test_sizes_are_bounded() -> None:
    text = seal(b"a long answer " * 100_000, KEYS)
    assert len(text.box) < EVIDENCE_BYTES_MAX
    with pytest.raises(MalformedError, match="attach less"):
        seal(os.urandom(EVIDENCE_BYTES_MAX), KEYS)
    with pytest.raises(MalformedError, match="at most"):
        seal(bytes(CONTENT_BYTES_MAX + 1), KEYS)
    with pytest.raises(MalformedError, match="not a key"):
        seal(b"", [bytes(32)])
