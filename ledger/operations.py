"""Owns what the ledger can be asked to write: one frozen value for each kind of operation. Pure.

Whoever makes an operation has verified the signatures in it (`bootstrap.ledger_checks`); the rules
decide whether what is signed may be done. Times are milliseconds since 1970, amounts microcredits.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

from ledger.log.batch import LogBatch
from p2p.account_messages import AccountKeyChange, ApiKeyRotation
from p2p.codec import Message, encode_message
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.key_limits import NO_LIMITS
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
from p2p.usage_messages import RcpEpoch, RcpScore, UptimeRecord


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
class RotateKey:
    """Give an API key a new secret."""

    signed: Signed
    document: ApiKeyRotation


@dataclass(frozen=True, slots=True)
class ChangeAccountKeys:
    """Add, remove or recover signing keys of an account."""

    signed: Signed
    document: AccountKeyChange


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


@dataclass(frozen=True, slots=True)
class AppendLog:
    """Add a batch of leaves to the transparency log (asked for by the sequencer)."""

    batch: LogBatch


@dataclass(frozen=True, slots=True)
class KeepUptime:
    """Keep what a bootstrap saw; it replaces what it said before of the same day and part."""

    signed: Signed
    document: UptimeRecord
    bootstrap_id: PeerId


@dataclass(frozen=True, slots=True)
class FreezeEpoch:
    """Fix the scores of an epoch for ever (asked for by a bootstrap after the epoch's end)."""

    signed: Signed
    document: RcpEpoch
    scores: tuple[RcpScore, ...]

    @property
    def last_day(self) -> int:
        """The last day of the epoch."""
        return self.document.first_day + self.document.days - 1


Operation = (
    FoundAccount
    | OpenNamespace
    | CreateKey
    | RevokeKey
    | RotateKey
    | ChangeAccountKeys
    | MakeGrant
    | PlaceHold
    | CaptureHold
    | ReleaseHold
    | ExpireHold
    | BindNode
    | AppendLog
    | KeepUptime
    | FreezeEpoch
)


_ADDED_LATER: dict[type, tuple[str, object]] = {
    KeyCreation: ("limits", NO_LIMITS),
    HoldRequest: ("source_network", ""),
    ReleaseRequest: ("outcome", ""),
}
"""The last field of documents that have grown, with its default: left out of the content then, so
that what an older program wrote is still the same when it is asked for again."""


def content_of(signer: bytes, document: Message) -> bytes:
    """Name what a document asks for: SHA-256 over the signer and all fields but `issued_ms`.

    The time of issue is left out, so that somebody who lost an answer can ask again with the same
    ID.
    """
    timeless = dataclasses.replace(document, issued_ms=0)  # type: ignore[type-var]
    added = _ADDED_LATER.get(type(document))
    left_out = int(added is not None and getattr(document, added[0]) == added[1])
    return hashlib.sha256(signer + encode_message(timeless, left_out=left_out)).digest()


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
