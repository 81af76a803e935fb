"""Owns what each side of a dispute signs and reads: payer, operator, decider.

The evidence is sealed to the deciders whom the network's configuration names, which the authority
signed: the gateway that carries it learns nothing from it, and cannot put its own key in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.log.leaves import capture_legs
from p2p.account_file import AccountKeys
from p2p.codec import decode_any_message, decode_message, encode_message
from p2p.dispute_messages import (
    ATTACHMENT_BYTES_MAX,
    Attachment,
    DisputeAnswer,
    DisputeEvidence,
    DisputeOpening,
    DisputeRequest,
    DisputeResolution,
    DisputeSubmission,
    DisputeView,
    SealedEvidence,
)
from p2p.errors import P2PError
from p2p.ledger_messages import ConsumerReceipt
from p2p.network_configuration import NetworkConfiguration
from p2p.sealing import seal, unseal
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import AccountId, NetworkId
from resultity.bills import bill_files
from resultity.errors import ReceiptError, SettingsError


def parse_hold_id(text: str) -> bytes:
    """Read the ID that names a charge and its dispute. Raises: SettingsError."""
    try:
        hold_id = bytes.fromhex(text)
    except ValueError:
        hold_id = b""
    if len(hold_id) != 16:
        raise SettingsError(f"a dispute is named by its hold, 32 hex digits, not {text[:80]!r}")
    return hold_id


def bill_parts(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Name the receipt's file of a bill's folder, and what to attach of it; or the file itself."""
    if not path.is_dir():
        return path, ()
    files = bill_files(path)
    parts = (("request", files.request), ("answer", files.answer))
    return files.receipt, tuple(f"{name}={file}" for name, file in parts if file.is_file())


def read_attachments(arguments: Sequence[str]) -> tuple[Attachment, ...]:
    """Read files to attach, each given as [NAME=]FILE. Raises: SettingsError."""
    found = []
    for argument in arguments:
        name, _, text = argument.rpartition("=")
        path = Path(text)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) > ATTACHMENT_BYTES_MAX:
            raise SettingsError(f"{path} has more than {ATTACHMENT_BYTES_MAX} bytes")
        found.append(Attachment(name or path.name, content))
    if len({attachment.name for attachment in found}) != len(found):
        raise SettingsError("two attachments have one name: give them as NAME=FILE")
    return tuple(found)


def submission(
    signer: KeyPair,
    account_id: AccountId,
    network: NetworkId,
    configuration: NetworkConfiguration,
    evidence: DisputeEvidence,
    *,
    reason: str,
    claimed: int,
    now_ms: int,
) -> DisputeSubmission:
    """Seal the evidence to the network's deciders and sign the opening of a dispute.

    Args:
        claimed: microcredits of the charge.
    Raises: SettingsError (nobody decides, too large), ReceiptError.
    """
    bill = bill_of(evidence.receipt, network)
    if not configuration.dispute_keys:
        raise SettingsError("this network's configuration names nobody who decides disputes")
    try:
        sealed = seal(encode_message(evidence), configuration.dispute_public_keys)
    except P2PError as error:
        raise SettingsError(str(error)) from error
    encoded = encode_message(sealed)
    document = DisputeOpening(
        account_id,
        bill.hold_id,
        claimed,
        reason,
        hashlib.sha256(encoded).digest(),
        now_ms,
    )
    return DisputeSubmission(signer.sign(network, document), encoded)


def bill_of(receipt: Signed, network: NetworkId) -> ConsumerReceipt:
    """Open a consumer receipt that names its hold. Raises: ReceiptError."""
    try:
        bill = open_signed(receipt, ConsumerReceipt, network)
    except P2PError as error:
        raise ReceiptError(f"this is no consumer receipt of this network: {error}") from error
    if len(bill.hold_id) != 16:
        raise ReceiptError("this receipt does not name its hold, so its charge cannot be found")
    return bill


def question(
    signer: KeyPair,
    network: NetworkId,
    now_ms: int,
    *,
    account_id: str = "",
    hold_id: bytes = b"",
    operator: bool = False,
    skip: int = 0,
) -> Signed:
    """Ask for disputes: as an account, or as a decider (no account)."""
    document = DisputeRequest(account_id, hold_id, os.urandom(16), now_ms, operator, skip)
    return signer.sign(network, document)


def answer(keys: AccountKeys, network: NetworkId, hold_id: bytes, text: str, now_ms: int) -> Signed:
    """Say something to a dispute about one's pay."""
    return keys.signing.sign(network, DisputeAnswer(keys.account_id, hold_id, text, now_ms))


def resolution(
    decider: KeyPair, network: NetworkId, hold_id: bytes, refund: int, note: str, now_ms: int
) -> Signed:
    """Decide a dispute: `refund` microcredits go back."""
    return decider.sign(network, DisputeResolution(hold_id, refund, note, now_ms))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a decider can rely on, or must not (`holds`)."""

    holds: bool
    text: str


def open_evidence(view: DisputeView, decider: KeyPair) -> DisputeEvidence | None:
    """Decrypt a dispute's evidence; None if it was forgotten. Raises: ReceiptError."""
    if not view.evidence:
        return None
    try:
        sealed = decode_message(view.evidence, SealedEvidence)
        return decode_message(unseal(sealed, decider), DisputeEvidence)
    except P2PError as error:
        raise ReceiptError(f"the evidence cannot be read: {error}") from error


def examine(view: DisputeView, evidence: DisputeEvidence, network: NetworkId) -> list[Finding]:
    """Compare what the consumer shows with what the ledger has."""
    try:
        bill = bill_of(evidence.receipt, network)
    except ReceiptError as error:
        return [Finding(False, str(error))]
    found = [
        Finding(bill.hold_id == view.hold_id, "the receipt is about this charge"),
        Finding(
            bill.charged >= view.charged,
            f"the receipt says {bill.charged} microcredits, {view.charged} were charged",
        ),
    ]
    digests = {hashlib.sha256(one.content).digest() for one in evidence.attachments}
    if evidence.attachments:
        found.append(Finding(bill.request_hash in digests, "the request is attached"))
        found.append(Finding(bill.output_hash in digests, "the answer's text is attached"))
    return found + _examine_capture(view, evidence, bill)


def _examine_capture(
    view: DisputeView, evidence: DisputeEvidence, bill: ConsumerReceipt
) -> list[Finding]:
    found = []
    try:
        capture = decode_any_message(view.capture)
        legs = capture_legs(view.capture)
    except P2PError as error:
        return [Finding(False, f"the capture cannot be read: {error}")]
    if legs is None:
        return [Finding(False, "the capture has no node receipts")]
    if isinstance(capture, Signed):
        same = capture.signer == evidence.receipt.signer
        found.append(Finding(same, "the gateway that was paid signed the receipt"))
    document, opened = legs
    if evidence.salt:
        receipts = b"".join(leg.receipt.digest() for leg in document.legs)
        same = hashlib.sha256(evidence.salt + receipts).digest() == bill.commitment
        found.append(Finding(same, "the receipt commits to the node receipts that were paid"))
    read = sum(leg.delivery.input_tokens for leg in opened)
    found.append(
        Finding(
            read == bill.input_tokens,
            f"the receipt says {bill.input_tokens} input tokens, the gateway counted {read}",
        )
    )
    delivered = sum(leg.delivery.output_tokens for leg in opened)
    found.append(
        Finding(
            delivered == bill.output_tokens,
            f"the receipt says {bill.output_tokens} output tokens, the gateway counted {delivered}",
        )
    )
    hashes = {leg.receipt.request_hash for leg in opened}
    found.append(Finding(len(hashes) == 1, "the nodes answered one request"))
    return found


def facts_of(view: DisputeView) -> dict[str, Any]:
    """Say what a dispute's view says, for programs."""
    facts: dict[str, Any] = {
        "hold_id": view.hold_id.hex(),
        "state": "resolved" if view.resolved_ms else "open",
        "side": view.side,
        "reason": view.reason,
        "opened_ms": view.opened_ms,
        "charged_ms": view.charged_ms,
        "resolved_ms": view.resolved_ms or None,
    }
    if view.side != "operator":
        facts["charged_microcredits"] = view.charged
        facts["claimed_microcredits"] = view.claimed
        facts["refunded_microcredits"] = view.refunded
    if view.side != "payer":
        facts["shares"] = [
            {
                "account": share.account,
                "node": share.node_id or None,
                "paid_microcredits": share.paid,
                "taken_back_microcredits": share.taken_back,
            }
            for share in view.shares
        ]
    return facts


def documents_of(view: DisputeView, network: NetworkId) -> dict[str, Any]:
    """Verify and open the documents of a whole view. Raises: ReceiptError."""
    facts: dict[str, Any] = {}
    try:
        if view.resolution is not None:
            decided = open_signed(view.resolution, DisputeResolution, network)
            facts["note"] = decided.note
            facts["decided_by"] = view.resolution.signer.hex()
        if view.opening is not None:
            facts["payer"] = open_signed(view.opening, DisputeOpening, network).account_id
        said = [open_signed(signed, DisputeAnswer, network) for signed in view.answers]
        if view.side != "payer":
            facts["answers"] = [{"account": one.account_id, "text": one.text} for one in said]
    except P2PError as error:
        raise ReceiptError(f"a document of this dispute does not verify: {error}") from error
    return facts
