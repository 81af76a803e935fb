"""Owns what the log's leaves say: from a record of the ledger to its openings. Pure.

Theory of operation. Each transfer has one leaf for the namespace's owner, and a separate leaf for
each account that a capture pays: the consumer's leaf names no node, an operator's no consumer.
Account operations and node bindings have one leaf each. What stands in the log is only a salted
commitment to the opening. The salt is derived from the opening by a secret of the ledger, so that
it need not be kept for each leaf, and cannot be guessed by who does not have the secret.

A leaf covers all that the ledger keeps of a transfer: what is not in an opening itself is in one of
its hashes (`request`: the signed document; `record`: what the ledger added to it).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

import msgpack

from ledger.accounts import is_operators as is_operators
from ledger.claims import PaidLegs, paid_legs
from ledger.errors import RequestError
from ledger.lease_rules import leased_part
from ledger.operations import Leg
from ledger.receipts import settle
from ledger.records import Entry, Hold, TransferKind
from p2p.claim_messages import PaidClaims
from p2p.codec import Message, decode_any_message, decode_message, encode_message
from p2p.errors import P2PError
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.lease_messages import LeasedCapture, LeasedHold
from p2p.ledger_messages import CaptureRequest, TransferResult
from p2p.log_messages import AccountLeaf, BindingLeaf, ConsumerLeg, OperatorLeg
from p2p.signing import Signed

_DOMAIN = b"resultity/leaf/1\0"
SECRET_BYTES = 32
Opening = ConsumerLeg | OperatorLeg | AccountLeaf | BindingLeaf
_CAPTURES = (TransferKind.CAPTURE, TransferKind.LEASED_CAPTURE, TransferKind.CLAIM)


@dataclass(frozen=True, slots=True)
class LoggedTransfer:
    """A transfer as the database has it. `hold` is the one that it makes or ends (grant: None)."""

    number: int
    transfer_id: bytes
    kind: str
    namespace: str
    content: bytes
    request: bytes
    result: bytes
    at_ms: int
    entries: tuple[Entry, ...]
    hold: Hold | None


def transfer_openings(transfer: LoggedTransfer) -> list[Opening]:
    """Give the openings of a transfer's leaves: the consumer's first, then each operator's.

    Raises: MalformedError if the transfer's row is damaged.
    """
    hold = job_hold(transfer)
    openings: list[Opening] = [
        ConsumerLeg(
            transfer.kind,
            transfer.transfer_id,
            transfer.namespace,
            hold.hold_id if hold else b"",
            hold.job_id if hold else b"",
            decode_message(transfer.result, TransferResult).amount,
            hashlib.sha256(transfer.request).digest(),
            _record_digest(transfer),
            transfer.at_ms,
        )
    ]
    paid = [entry for entry in transfer.entries if is_operators(entry.account)]
    if not paid:
        return openings
    whole = hashlib.sha256(_body_of(transfer.request)).digest()
    earnings = [entry for entry in paid if entry.account.startswith("earnings:")]
    receipts = iter(_paid_receipts(transfer, len(earnings)) or [whole] * len(earnings))
    for entry in paid:
        evidence = next(receipts) if entry.account.startswith("earnings:") else whole
        openings.append(OperatorLeg(entry.account, entry.amount, evidence, transfer.at_ms))
    return openings


def job_hold(transfer: LoggedTransfer) -> Hold | None:
    """Give the hold that a transfer is about: of a leased capture (or claim), the job's part of it.

    Raises: MalformedError.
    """
    if transfer.hold is not None and transfer.kind == TransferKind.CLAIM:
        part = paid_legs(transfer.request).part
        return transfer.hold if part is None else leased_part(transfer.hold, part)
    if transfer.hold is None or transfer.kind != TransferKind.LEASED_CAPTURE:
        return transfer.hold
    document = decode_message(_body_of(transfer.request), LeasedCapture)
    return leased_part(transfer.hold, decode_message(document.hold.body, LeasedHold))


def record_opening(purpose: str, subject: str, signed: bytes, at_ms: int) -> AccountLeaf:
    """Give the opening of an account operation's leaf (`signed`: as the ledger keeps it)."""
    return AccountLeaf(purpose, subject, hashlib.sha256(signed).digest(), at_ms)


def salt_of(secret: bytes, opening: bytes) -> bytes:
    """Derive a leaf's salt from its encoded opening."""
    return hmac.digest(secret, opening, hashlib.sha256)


def commitment(salt: bytes, opening: bytes) -> bytes:
    """Give the leaf's data: the commitment to an encoded opening."""
    return hashlib.sha256(_DOMAIN + salt + opening).digest()


def leaf_data(secret: bytes, opening: Message) -> bytes:
    """Give the leaf's data for an opening, under the salt that the secret gives it."""
    encoded = encode_message(opening)
    return commitment(salt_of(secret, encoded), encoded)


def capture_legs(
    request: bytes,
) -> tuple[CaptureRequest | LeasedCapture | PaidLegs, tuple[Leg, ...]] | None:
    """Read the legs of a capture's signed request, without verifying; None if it is another.

    Raises: MalformedError.
    """
    document: Message | PaidLegs = decode_any_message(_body_of(request))
    if isinstance(document, PaidClaims):
        document = paid_legs(request)
    if not isinstance(document, CaptureRequest | LeasedCapture | PaidLegs):
        return None
    legs = tuple(
        Leg(
            leg.receipt.peer_id,
            decode_message(leg.receipt.body, NodeReceipt),
            decode_message(leg.delivery.body, DeliveryCount),
        )
        for leg in document.legs
    )
    return document, legs


def _paid_receipts(transfer: LoggedTransfer, count: int) -> list[bytes] | None:
    """Give the hashes of the receipts that were paid, in the order of the entries."""
    if transfer.hold is None or transfer.kind not in _CAPTURES:
        return None
    try:
        hold = job_hold(transfer)
        found = capture_legs(transfer.request)
        if found is None or hold is None:
            return None
        document, legs = found
        split = settle(hold, legs, transfer.at_ms).split
    except (RequestError, P2PError):
        return None
    paid = [
        leg.receipt.digest()
        for leg, amount in zip(document.legs, split.nodes, strict=True)
        if amount
    ]
    return paid if len(paid) == count else None


def _record_digest(transfer: LoggedTransfer) -> bytes:
    hold = transfer.hold
    added: list[object] = []
    if hold is not None and transfer.kind in (TransferKind.HOLD, TransferKind.LEASE):
        fees = hold.fees
        added = [hold.gateway_account, hold.model_digest, hold.usage_day]
        added += [fees.gateway_basis_points, fees.network_basis_points]
        if hold.owner_account:  # the owner's share is in the terms, which were signed
            added.append(hold.owner_account)
    own = [list(entry) for entry in transfer.entries if not is_operators(entry.account)]
    form = [transfer.content, transfer.result, own, added]
    return hashlib.sha256(msgpack.packb(form, use_bin_type=True)).digest()


def _body_of(request: bytes) -> bytes:
    if not request:
        return b""
    outer = decode_any_message(request)
    if isinstance(outer, PaidClaims):
        return request
    return decode_message(request, Signed).body
