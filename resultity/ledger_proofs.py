"""Owns proofs of the ledger's log at the command line: asking, keeping, verifying offline."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path

from ledger.log.errors import ProofError
from ledger.log.leaves import Opening
from ledger.log.proofs import VerifiedHead, verify_reply
from p2p.codec import decode_any_message, decode_message, encode_message
from p2p.errors import P2PError
from p2p.job_messages import NodeReceipt
from p2p.ledger_messages import ConsumerReceipt
from p2p.log_messages import (
    AccountLeaf,
    ConsumerLeg,
    InclusionReply,
    InclusionRequest,
    OperatorLeg,
)
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import NetworkId
from resultity.errors import ReceiptError, SettingsError

PROOF_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt whose signature holds: a consumer's bill, or a node's own."""

    digest: bytes
    document: ConsumerReceipt | NodeReceipt

    @property
    def hold_id(self) -> bytes:
        """The hold that it was paid from."""
        return self.document.hold_id


def read_receipt(path: Path, network: NetworkId) -> KeptReceipt:
    """Read a receipt (base64 of an encoded Signed) and check its signature.

    Raises: ReceiptError.
    """
    try:
        data = base64.b64decode(path.read_bytes()[:PROOF_BYTES_MAX].strip(), validate=True)
        signed = decode_message(data, Signed)
        found = decode_any_message(signed.body)
        if isinstance(found, ConsumerReceipt):
            return KeptReceipt(signed.digest(), open_signed(signed, ConsumerReceipt, network))
        if isinstance(found, NodeReceipt):
            return KeptReceipt(signed.digest(), open_signed(signed, NodeReceipt, network))
    except (binascii.Error, P2PError) as error:
        raise ReceiptError(f"{path} is no receipt of this network: {error}") from error
    raise ReceiptError(f"{path} holds a {type(found).__name__}, not a receipt")


def subject_of(text: str | None, receipt: KeptReceipt | None) -> bytes:
    """Give what is to be proved: an ID in hex, or the hold of a receipt. Raises: SettingsError."""
    if receipt is not None and text is None:
        if len(receipt.hold_id) != 16:
            raise SettingsError("this receipt does not name its hold: give the hold's ID")
        return receipt.hold_id
    try:
        subject = bytes.fromhex(text or "")
    except ValueError:
        subject = b""
    if receipt is not None or len(subject) not in (16, 32):
        raise SettingsError(
            "give an ID (32 hex digits of a transfer or hold, 64 of a record), or --receipt"
        )
    return subject


def inclusion_request(keys: KeyPair, network: NetworkId, subject: bytes, now_ms: int) -> Signed:
    """Sign the question for the leaves of a subject."""
    return keys.sign(network, InclusionRequest(subject, os.urandom(16), now_ms))


def proof_text(reply: InclusionReply) -> bytes:
    """Give a proof as it is kept in a file."""
    return base64.b64encode(encode_message(reply)) + b"\n"


def verify_proof(
    text: bytes, network: NetworkId, receipt: KeptReceipt | None
) -> tuple[VerifiedHead, list[Opening]]:
    """Check a proof with public things only, and that it is about a receipt if one is given.

    Raises: ReceiptError.
    """
    try:
        data = base64.b64decode(text[:PROOF_BYTES_MAX].strip(), validate=True)
        verified, openings = verify_reply(data, network)
    except (binascii.Error, ProofError) as error:
        raise ReceiptError(f"this proof does not verify: {error}") from error
    if receipt is not None:
        _check_receipt(receipt, openings)
    return verified, openings


def _check_receipt(receipt: KeptReceipt, openings: list[Opening]) -> None:
    document = receipt.document
    if isinstance(document, NodeReceipt):
        legs = [leaf for leaf in openings if isinstance(leaf, OperatorLeg)]
        if not any(leaf.evidence == receipt.digest for leaf in legs):
            raise ReceiptError("the log does not say that this very receipt was paid")
        return
    charges = [
        leaf
        for leaf in openings
        if isinstance(leaf, ConsumerLeg)
        and leaf.kind == "capture"
        and (leaf.hold_id, leaf.job_id) == (document.hold_id, document.receipt_id)
    ]
    if not charges:
        raise ReceiptError("the log's charge for this receipt is not among what is proved")
    if charges[0].namespace != f"{document.account_id}/{document.namespace}":
        raise ReceiptError("another namespace was charged than the receipt says")
    if charges[0].amount > document.charged:
        raise ReceiptError(
            f"{charges[0].amount} microcredits were charged, the receipt says {document.charged}"
        )


def leaf_facts(leaf: Opening) -> dict[str, object]:
    """Say what an opened leaf says, for people and programs."""
    if isinstance(leaf, ConsumerLeg):
        return {
            "leaf": "charge" if leaf.kind == "capture" else leaf.kind,
            "namespace": leaf.namespace,
            "amount_microcredits": leaf.amount,
            "transfer_id": leaf.transfer_id.hex(),
            "hold_id": leaf.hold_id.hex(),
            "at_ms": leaf.at_ms,
        }
    if isinstance(leaf, OperatorLeg):
        return {
            "leaf": "pay",
            "account": leaf.account,
            "amount_microcredits": leaf.amount,
            "evidence": leaf.evidence.hex(),
            "at_ms": leaf.at_ms,
        }
    if isinstance(leaf, AccountLeaf):
        return {
            "leaf": leaf.purpose,
            "subject": leaf.subject,
            "document": leaf.document.hex(),
            "at_ms": leaf.at_ms,
        }
    return {"leaf": "binding", "node": leaf.peer_id, "account": leaf.account_id}
