"""Owns the consumer receipt: the gateway's signed bill for one answer. Pure.

The commitment binds the bill to the node receipts behind it without naming a node: who is given
the salt and the node receipts (in a dispute) can check it, nobody else learns anything from it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from gateway.jobs import ReceiptNote
from p2p.codec import encode_message
from p2p.ledger_messages import ConsumerReceipt
from p2p.signing import KeyPair, Signed
from p2p.types import NetworkId

SALT_BYTES = 16


def commitment(salt: bytes, node_receipts: Sequence[Signed]) -> bytes:
    """SHA-256 over the salt and the digests of the node receipts in order."""
    return hashlib.sha256(salt + b"".join(receipt.digest() for receipt in node_receipts)).digest()


def sign_receipt(
    key_pair: KeyPair, network: NetworkId, receipt: ConsumerReceipt, salt: bytes
) -> ReceiptNote:
    """Sign a consumer receipt and put it into the form that answers carry."""
    signed = key_pair.sign(network, receipt)
    return ReceiptNote(
        receipt=base64.b64encode(encode_message(signed)).decode("ascii"),
        job_id=receipt.receipt_id.hex(),
        price_microcredits=receipt.charged,
        salt=salt.hex(),
    )
