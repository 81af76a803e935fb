"""Owns the names of what is logged: one byte of kind and the thing's own name. Pure."""

from __future__ import annotations

from p2p.codec import decode_message, encode_message
from p2p.log_messages import BindingLeaf

TRANSFER = b"t"
RECORD = b"r"
BINDING = b"b"


def transfer_source(number: int) -> bytes:
    """Name a transfer by its row's number; such names sort as the numbers do."""
    return TRANSFER + number.to_bytes(8, "big")


def record_source(digest: bytes) -> bytes:
    """Name an account operation by its digest."""
    return RECORD + digest


def binding_source(binding: BindingLeaf) -> bytes:
    """Name a binding by all that it says: the row may have changed before it is logged."""
    return BINDING + encode_message(binding)


def kind_of(source: bytes) -> bytes:
    """Give a source's kind: TRANSFER, RECORD or BINDING."""
    return source[:1]


def number_of(source: bytes) -> int:
    """Give the number of a transfer's source."""
    return int.from_bytes(source[1:], "big")


def binding_of(source: bytes) -> BindingLeaf:
    """Give what a binding's source says. Raises: MalformedError."""
    return decode_message(source[1:], BindingLeaf)
