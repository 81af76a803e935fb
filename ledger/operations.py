"""Owns what the ledger can be asked to write: one frozen value for each kind of operation. Pure.

Whoever makes an operation has verified the signatures in it (`bootstrap.ledger_checks`); the rules
decide whether what is signed may be done. Times are milliseconds since 1970, amounts microcredits.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

from p2p.codec import Message, encode_message
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.ledger_messages import (
    AccountFounding,
    CaptureRequest,
    Grant,
    HoldRequest,
    KeyCreation,
    KeyRevocation,
    NamespaceOpening,
    ReleaseRequest,
)
from p2p.prices import FeeRule
from p2p.signing import Signed
from p2p.types import AccountId, NetworkId, PeerId


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """Open an account."""

    signed: Signed
    document: AccountFounding


@dataclass(frozen=True, slots=True)
class OpenNamespace:
    """Open a namespace of an account."""

    signed: Signed
    document: NamespaceOpening


@dataclass(frozen=True, slots=True)
class CreateKey:
    """Register an API key."""

    signed: Signed
    document: KeyCreation


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """End an API key."""

    signed: Signed
    document: KeyRevocation


@dataclass(frozen=True, slots=True)
class MakeGrant:
    """Make credit. `epoch_cap`: the most that this mint key may grant in one epoch."""

    signed: Signed
    document: Grant
    epoch_cap: int


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Hold a job's maximum, under the fees and for the model that the configuration names now."""

    signed: Signed
    document: HoldRequest
    network_id: NetworkId
    gateway_id: PeerId
    gateway_account: AccountId
    model_digest: bytes
    fees: FeeRule
    lifetime_ms_max: int


@dataclass(frozen=True, slots=True)
class Leg:
    """One node's part of a capture: who signed the receipt, and both documents."""

    node_id: PeerId
    receipt: NodeReceipt
    delivery: DeliveryCount


@dataclass(frozen=True, slots=True)
class CaptureHold:
    """Settle a hold. `gateway_id` signed the request and every delivery count."""

    signed: Signed
    document: CaptureRequest
    gateway_id: PeerId
    legs: tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """Give a whole hold back."""

    signed: Signed
    document: ReleaseRequest
    gateway_id: PeerId


@dataclass(frozen=True, slots=True)
class ExpireHold:
    """End a hold whose time is over at `now_ms` (asked for by the sweep, nobody signs it)."""

    hold_id: bytes
    now_ms: int


@dataclass(frozen=True, slots=True)
class BindNode:
    """Say whose earnings a node's work pays (asked for by admission)."""

    peer_id: PeerId
    account_id: AccountId


Operation = (
    FoundAccount
    | OpenNamespace
    | CreateKey
    | RevokeKey
    | MakeGrant
    | PlaceHold
    | CaptureHold
    | ReleaseHold
    | ExpireHold
    | BindNode
)


def content_of(signer: bytes, document: Message) -> bytes:
    """Name what a document asks for: SHA-256 over the signer and all fields but `issued_ms`.

    The time of issue is left out, so that somebody who lost an answer can ask again with the same
    ID.
    """
    timeless = dataclasses.replace(document, issued_ms=0)  # type: ignore[type-var]
    return hashlib.sha256(signer + encode_message(timeless)).digest()


def capture_content(signer: bytes, document: CaptureRequest) -> bytes:
    """Name what a capture asks for, as `content_of` does, from the legs as they were signed."""
    parts = [signer, b"capture", document.capture_id, document.hold_id]
    for leg in document.legs:
        # Bodies are msgpack arrays, which say themselves where they end; keys have one length.
        parts += (leg.receipt.signer, leg.receipt.body, leg.delivery.signer, leg.delivery.body)
    return hashlib.sha256(b"".join(parts)).digest()


def transfer_id_of(operation: Operation) -> bytes | None:
    """Give the ID of the transfer that an operation would make; None if it moves no money."""
    match operation:
        case PlaceHold():
            return operation.document.hold_id
        case CaptureHold():
            return operation.document.capture_id
        case ReleaseHold():
            return operation.document.release_id
        case MakeGrant():
            return operation.document.grant_id
        case ExpireHold():
            return expiry_id(operation.hold_id)
        case _:
            return None


def expiry_id(hold_id: bytes) -> bytes:
    """Give the ID of the transfer that expires a hold: the same for everybody who sweeps."""
    return hashlib.sha256(b"resultity/expire/1" + hold_id).digest()[:16]
