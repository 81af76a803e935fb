"""Owns the tests of signatures: valid for one purpose, one network, one signer and these bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.admission import NodeBinding
from p2p.codec import encode_message
from p2p.errors import MalformedError, UntrustedError
from p2p.ledger_messages import EarningsRequest, KeyRevocation
from p2p.signing import Document, KeyPair, Signed, open_signed, signed_bytes, verify_bytes
from tests.fakes.clocks import START_MS
from tests.fakes.trust import (
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_NETWORK,
    SOME_ACCOUNT,
    key_pair,
)

BINDING = NodeBinding(SOME_ACCOUNT, NODE.peer_id, START_MS)
SIGNED = NODE.sign(NETWORK, BINDING)


def test_what_was_signed_opens() -> None:
    assert open_signed(SIGNED, NodeBinding, NETWORK) == BINDING
    assert open_signed(SIGNED, NodeBinding, NETWORK, NODE.public_key) == BINDING
    assert SIGNED.peer_id == NODE.peer_id


def test_the_bytes_as_sent_are_what_counts() -> None:
    """A later version's document, with a field that we do not know, verifies and opens."""
    body = encode_message(BINDING)
    longer = bytes([body[0] + 1]) + body[1:] + b"\x07"
    signed = Signed(longer, NODE.public_key, NODE.sign_bytes(NETWORK, BINDING.PURPOSE, longer))
    assert open_signed(signed, NodeBinding, NETWORK) == BINDING
    assert signed.digest() != SIGNED.digest()


def test_another_network() -> None:
    with pytest.raises(UntrustedError, match="does not verify"):
        open_signed(SIGNED, NodeBinding, OTHER_NETWORK)


def test_another_signer() -> None:
    with pytest.raises(UntrustedError, match="somebody else"):
        open_signed(SIGNED, NodeBinding, NETWORK, GATEWAY.public_key)
    with pytest.raises(UntrustedError, match="does not verify"):
        open_signed(replace(SIGNED, signer=GATEWAY.public_key), NodeBinding, NETWORK)


def test_another_purpose() -> None:
    signature = NODE.sign_bytes(NETWORK, KeyRevocation.PURPOSE, SIGNED.body)
    with pytest.raises(UntrustedError):
        open_signed(replace(SIGNED, signature=signature), NodeBinding, NETWORK)


def test_another_document_under_the_purpose_is_malformed() -> None:
    body = encode_message(EarningsRequest(SOME_ACCOUNT, bytes(16), START_MS))
    signed = Signed(body, NODE.public_key, NODE.sign_bytes(NETWORK, NodeBinding.PURPOSE, body))
    with pytest.raises(MalformedError):
        open_signed(signed, NodeBinding, NETWORK)


@given(st.sampled_from(["body", "signer", "signature"]), st.integers(0, 10**6))
def test_one_flipped_bit(part: str, place: int) -> None:
    changed = bytearray(getattr(SIGNED, part))
    bit = place % (8 * len(changed))
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UntrustedError):
        open_signed(replace(SIGNED, **{part: bytes(changed)}), NodeBinding, NETWORK)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_random_keys_and_signatures(signer: bytes, signature: bytes) -> None:
    with pytest.raises(UntrustedError):
        open_signed(Signed(SIGNED.body, signer, signature), NodeBinding, NETWORK)


@pytest.mark.parametrize(
    "key", [bytes(32), bytes([1]) + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"short"]
)
def test_keys_of_small_order_verify_nothing(key: bytes) -> None:
    """With such a key an all-zero signature would verify for every message."""
    for signature in (bytes(64), bytes([1]) + bytes(63), key + bytes(32)):
        with pytest.raises(UntrustedError):
            verify_bytes(NETWORK, "purpose", b"body", key, signature)


def test_a_signature_cannot_be_rewritten() -> None:
    """s + L is the same signature to a careless verifier."""
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(SIGNED.signature[32:], "little") + order
    again = SIGNED.signature[:32] + scalar.to_bytes(32, "little")
    with pytest.raises(UntrustedError):
        open_signed(replace(SIGNED, signature=again), NodeBinding, NETWORK)


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_domains_do_not_run_into_each_other(one: bytes, other: bytes) -> None:
    assert signed_bytes(NETWORK, "a", one) != signed_bytes(NETWORK, "ab", other)
    assert signed_bytes(NETWORK, "a", one) != signed_bytes(OTHER_NETWORK, "a", other)
    assert (signed_bytes(NETWORK, "a", one) == signed_bytes(NETWORK, "a", other)) == (one == other)


def test_every_document_says_its_purpose() -> None:
    assert all(cls.PURPOSE for cls in Document.__subclasses__())


def test_a_key_pair_comes_from_its_seed_and_hides_it() -> None:
    pair = KeyPair.generate()
    assert KeyPair(pair.seed).peer_id == pair.peer_id
    assert pair.seed.hex() not in repr(pair)
    assert pair.peer_id in repr(pair)
    assert key_pair(7).public_key != key_pair(8).public_key
