"""Owns the messages of leases: a part of a key's credit that one gateway may spend by itself.

Theory of operation. A lease is a hold that pays for many jobs of one API key and one model. The
ledger grants it like any hold, with the key's MAC, under all of the key's limits, and the whole
amount counts as held until it comes back.

    gateway                                        ledger
      LeaseRequest(amount, MAC) ─────────────────▶   available -> held
                            ◀─────────────────────   LeaseResult(Lease, signed by the bootstrap)
    gateway                                        node
      OfferFrame, LeaseVoucherFrame(Lease, LeasedHold) ─▶   both signatures are checked: the ledger
                            ◀─────────────────────   promised the lease, the gateway this job's part
    gateway                                        ledger
      LeasedCapture(LeasedHold, legs) ───────────▶   held -> earnings, fees, treasury; once per hold
      LeaseReturn(amount, final) ────────────────▶   held -> available

A job that is paid from a lease makes one transfer, its capture, which has the ID of the leased
hold: so each hold is paid once, be it leased or placed at the ledger, because both need the same
ID. What a lease has left at its end goes back by LeaseReturn or by the sweep. The ledger promises a
node the lease and not this job's part of it: a gateway that promises more than it has is refused at
the capture, the refusal is recorded against it, and the node has lost that job's pay
(docs/explanation/trust.md says how much that can be).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.conduct_messages import FAILURES_PER_CAPTURE_MAX, FailedAttempt, LegObservation
from p2p.job_messages import Amount, Id, JobNumber, Peer
from p2p.key_limits import SourceNetwork
from p2p.ledger_messages import CaptureLeg, Outcome, TransferResult
from p2p.limits import (
    CAPTURES_PER_BATCH_MAX,
    CERTIFICATES_MAX,
    LEGS_PER_CAPTURE_MAX,
    NOTICE_MARKS_MAX,
    TEXT_CHARACTERS_MAX,
)
from p2p.prices import PriceTerms
from p2p.signing import Document, Signed
from p2p.transfer_ids import derived_id

UnchargedJobs = Annotated[int, Range(0, 1_000_000)]
LEDGER_NOTICE_TOPIC = "ledger-notices"


@message(74)
@dataclass(frozen=True, slots=True)
class LeaseRequest(Document):
    """Asks the ledger to set a part of a key's credit aside for one gateway and one model.

    Signed by the gateway; `mac` is `p2p.api_keys.lease_mac` by the key's hold key. The networks are
    those of a HoldRequest; nothing is leased to a caller whom only a token lets in.
    """

    PURPOSE: ClassVar[str] = "lease-request"
    TRIMMED: ClassVar[int] = 1
    lease_id: Id
    key_id: Annotated[str, Limit(32, 8)]
    amount: Amount
    terms: PriceTerms
    issued_ms: int
    expires_ms: int
    mac: Annotated[bytes, Limit(32, 32)]
    source_network: SourceNetwork = ""
    caller_network: SourceNetwork = ""


@message(75)
@dataclass(frozen=True, slots=True)
class Lease(Document):
    """The ledger's promise: this gateway may spend this much by itself. Signed by a bootstrap."""

    PURPOSE: ClassVar[str] = "lease"
    lease_id: Id
    gateway_id: Peer
    amount: Amount
    terms: PriceTerms
    issued_ms: int
    expires_ms: int


@message(76)
@dataclass(frozen=True, slots=True)
class LeaseResult(Message):
    """A granted lease, and what is still available in the namespace."""

    lease: Signed
    available: Annotated[int, Range(0, 2**62)]
    exists: bool


@message(77)
@dataclass(frozen=True, slots=True)
class LeasedHold(Document):
    """One job's part of a lease: the gateway's promise to the node. Signed by the gateway.

    `hold_id` follows from the lease and the job (`leased_hold_id`).
    """

    PURPOSE: ClassVar[str] = "leased-hold"
    lease_id: Id
    hold_id: Id
    job_id: Id
    maximum: Amount
    issued_ms: int
    expires_ms: int


@message(78)
@dataclass(frozen=True, slots=True)
class LeasedCapture(Document):
    """Settles a job out of a lease. Signed by the gateway; `hold` is the signed LeasedHold.

    `observed` and `failures`: as in CaptureRequest.
    """

    PURPOSE: ClassVar[str] = "leased-capture"
    TRIMMED: ClassVar[int] = 2
    hold: Signed
    legs: Annotated[tuple[CaptureLeg, ...], Limit(LEGS_PER_CAPTURE_MAX, 1)]
    issued_ms: int
    outcome: Outcome = ""
    observed: Annotated[tuple[LegObservation, ...], Limit(LEGS_PER_CAPTURE_MAX)] = ()
    failures: Annotated[tuple[FailedAttempt, ...], Limit(FAILURES_PER_CAPTURE_MAX)] = ()


@message(79)
@dataclass(frozen=True, slots=True)
class LeaseReturn(Document):
    """Gives a part of a lease back; `final` ends it with all that it has left (`amount` is 0 then).

    Signed by the gateway. `failed` and `client_left` count the jobs of this lease that cost nothing
    and were not told before, for the payer's statistics (what a ReleaseRequest is for a hold).
    """

    PURPOSE: ClassVar[str] = "lease-return"
    return_id: Id
    lease_id: Id
    amount: Amount
    final: bool
    issued_ms: int
    failed: UnchargedJobs = 0
    client_left: UnchargedJobs = 0


@message(49)
@dataclass(frozen=True, slots=True)
class LeaseVoucherFrame(Message):
    """Stands where a VoucherFrame would: a lease and this job's part of it.

    `lease` and `issuer_chain` may be left out once this session has carried them.
    """

    number: JobNumber
    hold: Signed
    lease: Signed | None = None
    issuer_chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX)] = ()


@message(82)
@dataclass(frozen=True, slots=True)
class CaptureBatch(Message):
    """Several signed captures in one call (CaptureRequest or LeasedCapture, told by purpose)."""

    captures: Annotated[tuple[Signed, ...], Limit(CAPTURES_PER_BATCH_MAX, 1)]


@message(83)
@dataclass(frozen=True, slots=True)
class CaptureOutcome(Message):
    """What became of one capture of a batch: a result, or the ledger's refusal."""

    result: TransferResult | None = None
    code: Annotated[str, Limit(64)] = ""
    reason: Annotated[str, Limit(TEXT_CHARACTERS_MAX)] = ""


@message(84)
@dataclass(frozen=True, slots=True)
class CaptureBatchResult(Message):
    """The outcomes of a CaptureBatch, in its order."""

    outcomes: Annotated[tuple[CaptureOutcome, ...], Limit(CAPTURES_PER_BATCH_MAX)]


@message(85)
@dataclass(frozen=True, slots=True)
class LedgerNotice(Document):
    """What gateways should look up again, by gossip. Signed by a bootstrap.

    `changed_keys`: keys that were revoked, rotated or limited. `wanted_keys`: keys whose leases
    should give back what they do not need, because another gateway's hold did not find enough.
    Both are marks (`key_mark`), so that onlookers learn no key's ID.
    """

    PURPOSE: ClassVar[str] = "ledger-notice"
    issued_ms: int
    changed_keys: Annotated[tuple[Id, ...], Limit(NOTICE_MARKS_MAX)] = ()
    wanted_keys: Annotated[tuple[Id, ...], Limit(NOTICE_MARKS_MAX)] = ()


@message(86)
@dataclass(frozen=True, slots=True)
class LedgerNoticeMessage(Message):
    """A LedgerNotice as it is gossiped: with the certificate of the bootstrap that signed it."""

    notice: Signed
    chain: Annotated[tuple[Signed, ...], Limit(CERTIFICATES_MAX, 1)]


def leased_hold_id(lease_id: bytes, job_id: bytes) -> bytes:
    """Give the ID of a job's part of a lease, which is also that of the transfer that captures it.

    It follows from the lease, so that no other gateway can take it before the job is settled.
    """
    return derived_id(b"resultity/leased-hold/1", lease_id + job_id)


def leased_capture_id(hold_id: bytes) -> bytes:
    """Give the ID of the transfer that captures a leased hold: the hold's own."""
    return hold_id


def key_mark(key_id: str) -> bytes:
    """Name a key in gossip to those who know its ID."""
    return hashlib.sha256(b"resultity/key-mark/1" + key_id.encode()).digest()[:16]
