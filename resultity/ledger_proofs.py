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
from ledger.log.witness import Witnessed, WitnessKey, witnesses_of
from p2p.codec import Message, decode_any_message, decode_message, encode_message
from p2p.errors import P2PError
from p2p.job_messages import NodeReceipt
from p2p.ledger_messages import ConsumerReceipt
from p2p.log_messages import (
    AccountLeaf,
    Checkpoint,
    ConsumerLeg,
    InclusionReply,
    InclusionRequest,
    OperatorLeg,
)
from p2p.mirror_messages import Growth
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import NetworkId
from resultity.errors import ReceiptError, SettingsError

PROOF_BYTES_MAX = 1 << 20
CHARGES = ("capture", "leased_capture", "claim")
"""What charges a job, in the leaves of the log."""


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


def read_signed_receipt(path: Path) -> Signed:
    """Read a receipt file (base64 of an encoded Signed), without judging it.

    Raises: ReceiptError.
    """
    try:
        data = base64.b64decode(path.read_bytes()[:PROOF_BYTES_MAX].strip(), validate=True)
        return decode_message(data, Signed)
    except (binascii.Error, P2PError) as error:
        raise ReceiptError(f"{path} is no receipt: {error}") from error


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


def proof_text(reply: InclusionReply, growth: Growth | None = None) -> bytes:
    """Give a proof as it is kept in a file: a line for it, one for the log's growth to it."""
    parts: list[Message] = [reply] if growth is None else [reply, growth]
    return b"".join(base64.b64encode(encode_message(part)) + b"\n" for part in parts)


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """What a proof proves. `growths`: proofs that came along of how the log grew."""

    verified: VerifiedHead
    openings: list[Opening]
    checkpoint: Checkpoint
    growths: list[Growth]
    witnesses: list[Witnessed]


def verify_proof(
    text: bytes,
    network: NetworkId,
    receipt: KeptReceipt | None,
    configuration: NetworkConfiguration | None = None,
) -> VerifiedProof:
    """Check a proof with public things only, and that it is about a receipt if one is given.

    Args:
        configuration: names log keys and witnesses; None: any log key of a certified bootstrap.
    Raises: ReceiptError (also if fewer witnesses than `witness_quorum` cosigned).
    """
    keys = configuration.log_public_keys if configuration is not None else frozenset[bytes]()
    named = configuration.witnesses if configuration is not None else ()
    try:
        data, *more = [
            base64.b64decode(line, validate=True)
            for line in text[:PROOF_BYTES_MAX].strip().split(b"\n")
        ]
        verified, openings = verify_reply(data, network, keys)
        growths = [decode_message(line, Growth) for line in more]
        checkpoint = decode_message(data, InclusionReply).checkpoint
        witnesses = witnesses_of(
            checkpoint.note, [WitnessKey(w.name, bytes.fromhex(w.public_key)) for w in named]
        )
    except (binascii.Error, ProofError, P2PError) as error:
        raise ReceiptError(f"this proof does not verify: {error}") from error
    quorum = configuration.witness_quorum if configuration is not None else 0
    if len(witnesses) < quorum:
        raise ReceiptError(
            f"{len(witnesses)} witnesses cosigned this checkpoint, and the network's configuration "
            f"asks for {quorum}: get the proof again in a minute"
        )
    if receipt is not None:
        _check_receipt(receipt, openings)
    return VerifiedProof(verified, openings, checkpoint, growths, witnesses)


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
        and leaf.kind in CHARGES
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
            "leaf": "charge" if leaf.kind in CHARGES else leaf.kind,
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
