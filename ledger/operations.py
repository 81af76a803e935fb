"""Owns what the ledger can be asked to write: one frozen value for each kind of operation. Pure.

Whoever makes an operation has verified the signatures in it (`bootstrap.ledger_checks`); the rules
decide whether what is signed may be done. Times are milliseconds since 1970, amounts microcredits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ledger.claim_operations import RecordClaim, SettleClaims
from ledger.hold_context import NO_CONTEXT, HoldContext
from ledger.limits import REFERRAL_CHAIN_MAX
from ledger.log.batch import LogBatch
from ledger.node_operations import NO_RULE
from ledger.node_operations import AdmitNode as AdmitNode
from ledger.node_operations import BindNode as BindNode
from ledger.node_operations import OpeningRule as OpeningRule
from ledger.stakes import ReturnStake, StakeSubcloud
from p2p.account_messages import AccountKeyChange, ApiKeyRotation, KeyLimitsChange
from p2p.codec import Message, encode_timeless
from p2p.dispute_messages import DisputeAnswer, DisputeOpening, DisputeResolution, correction_id
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.key_limits import NO_LIMITS
from p2p.lease_messages import (
    LeasedCapture,
    LeasedHold,
    LeaseRequest,
    LeaseReturn,
    leased_capture_id,
)
from p2p.ledger_messages import (
    AccountFounding,
    CaptureLeg,
    CaptureRequest,
    Grant,
    HoldRequest,
    KeyCreation,
    KeyRevocation,
    NamespaceOpening,
    ReleaseRequest,
)
from p2p.opening_messages import Invitation, Referral
from p2p.prices import FeeRule
from p2p.signing import Signed
from p2p.transfer_ids import derived_id
from p2p.types import AccountId, NetworkId, PeerId
from p2p.usage_messages import RcpEpoch, RcpScore, UptimeRecord

NO_EXPOSURE_CAP = 2**62
"""Where nobody caps what a gateway may hold (an audit: only the moment's configuration knew it)."""


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """Open an account, with an invite or without one."""

    signed: Signed
    document: AccountFounding
    invitation: Invitation | None = None
    rule: OpeningRule = NO_RULE


@dataclass(frozen=True, slots=True)
class ReferAccount:
    """Say who referred an account: within `window_ms` of its opening, under a bounded chain."""

    signed: Signed
    document: Referral
    window_ms: int
    chain_max: int = REFERRAL_CHAIN_MAX


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
class ChangeKeyLimits:
    """Replace the limits of an API key."""

    signed: Signed
    document: KeyLimitsChange


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
    exposure_max: int = NO_EXPOSURE_CAP
    context: HoldContext = NO_CONTEXT


@dataclass(frozen=True, slots=True)
class Leg:
    """One node's part of a capture: who signed the receipt, and both documents."""

    node_id: PeerId
    receipt: NodeReceipt
    delivery: DeliveryCount


FailedNodes = tuple[tuple[PeerId, bool], ...]
"""Nodes that failed an attempt of a job, and whether the node's own signature proves that it had
taken the job. Only counted (`ledger.conduct`), no money depends on it."""


@dataclass(frozen=True, slots=True)
class CaptureHold:
    """Settle a hold. `gateway_id` signed the request and every delivery count."""

    signed: Signed
    document: CaptureRequest
    gateway_id: PeerId
    legs: tuple[Leg, ...]
    failures: FailedNodes = ()


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
class OpenLease:
    """Set credit aside for one gateway; fees and model are pinned as for a hold."""

    signed: Signed
    document: LeaseRequest
    network_id: NetworkId
    gateway_id: PeerId
    gateway_account: AccountId
    model_digest: bytes
    fees: FeeRule
    lifetime_ms_max: int
    amount_max: int
    exposure_max: int = NO_EXPOSURE_CAP
    context: HoldContext = NO_CONTEXT


@dataclass(frozen=True, slots=True)
class CaptureLeased:
    """Settle a job out of a lease. `hold` is its part, signed by the same gateway."""

    signed: Signed
    document: LeasedCapture
    hold: LeasedHold
    gateway_id: PeerId
    legs: tuple[Leg, ...]
    failures: FailedNodes = ()


@dataclass(frozen=True, slots=True)
class ReturnLease:
    """Give a part of a lease back, or all that is left and end it."""

    signed: Signed
    document: LeaseReturn
    gateway_id: PeerId


@dataclass(frozen=True, slots=True)
class OpenDispute:
    """Contest a charge, at most `window_ms` after it. `evidence`: sealed, of the named digest."""

    signed: Signed
    document: DisputeOpening
    evidence: bytes
    window_ms: int


@dataclass(frozen=True, slots=True)
class AnswerDispute:
    """Say something to a dispute about one's pay."""

    signed: Signed
    document: DisputeAnswer


@dataclass(frozen=True, slots=True)
class ResolveDispute:
    """Decide a dispute; whoever signed it may."""

    signed: Signed
    document: DisputeResolution


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
    | ReferAccount
    | OpenNamespace
    | CreateKey
    | RevokeKey
    | RotateKey
    | ChangeKeyLimits
    | ChangeAccountKeys
    | MakeGrant
    | PlaceHold
    | CaptureHold
    | ReleaseHold
    | ExpireHold
    | OpenLease
    | CaptureLeased
    | ReturnLease
    | RecordClaim
    | SettleClaims
    | OpenDispute
    | AnswerDispute
    | ResolveDispute
    | BindNode
    | AdmitNode
    | AppendLog
    | KeepUptime
    | FreezeEpoch
    | StakeSubcloud
    | ReturnStake
)


_ADDED_LATER: dict[type, tuple[str, object]] = {
    KeyCreation: ("limits", NO_LIMITS),
    HoldRequest: ("source_network", ""),
    ReleaseRequest: ("outcome", ""),
}
"""The field that documents have grown by, with its default: left out of the content then, so
that what an older program wrote is still the same when it is asked for again. (Fields after it are
trimmed by the codec; they come with it or without it.)"""


def content_of(signer: bytes, document: Message) -> bytes:
    """Name what a document asks for: SHA-256 over the signer and all fields but `issued_ms`.

    The time of issue is left out, so that somebody who lost an answer can ask again with the same
    ID.
    """
    added = _ADDED_LATER.get(type(document))
    left_out = int(added is not None and getattr(document, added[0]) == added[1])
    if isinstance(document, HoldRequest) and (document.caller_token or document.caller_network):
        left_out = 0
    body = encode_timeless(document, "issued_ms", left_out=left_out)
    return hashlib.sha256(signer + body).digest()


def capture_content(signer: bytes, document: CaptureRequest) -> bytes:
    """Name what a capture asks for, as `content_of` does, from the legs as they were signed."""
    return _legs_content([signer, b"capture", document.capture_id, document.hold_id], document.legs)


def leased_capture_content(signer: bytes, document: LeasedCapture) -> bytes:
    """Name what a leased capture asks for: its hold and its legs, as they were signed."""
    hold = document.hold
    return _legs_content([signer, b"leased-capture", hold.signer, hold.body], document.legs)


def _legs_content(parts: list[bytes], legs: Iterable[CaptureLeg]) -> bytes:
    for leg in legs:
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
        case CaptureLeased():
            return leased_capture_id(operation.hold.hold_id)
        case OpenLease():
            return operation.document.lease_id
        case ReturnLease() | ReturnStake():
            return operation.document.return_id
        case StakeSubcloud():
            return operation.document.stake_id
        case MakeGrant():
            return operation.document.grant_id
        case ResolveDispute():
            return correction_id(operation.document.hold_id)
        case ExpireHold():
            return expiry_id(operation.hold_id)
        case SettleClaims(payer_id=payer_id, hold_id=hold_id):
            return hold_id if hold_id != payer_id else expiry_id(hold_id)
        case _:
            return None


def expiry_id(hold_id: bytes) -> bytes:
    """Give the ID of the transfer that expires a hold: the same for everybody who sweeps."""
    return derived_id(b"resultity/expire/2", hold_id)
