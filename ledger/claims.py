"""Owns what the ledger keeps of a claim: a node's word for its pay (`p2p.claim_messages`). Pure.

Theory of operation. A claim is a leg of a capture that a node brings by itself. It is kept on the
hold that pays for the job (`payer_id`: the job's hold, or the lease that the hold is a part of) and
is open until that hold's end is known. Then it is paid by the end itself, dropped (it contradicts
an earlier attempt, or nothing is left), or judged against the capture that came before: a gateway
that paid less than it had countersigned is found underpaying.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ledger.errors import RequestError
from ledger.operations import Leg
from ledger.receipts import Settlement, settle
from ledger.records import Hold
from ledger.usage import FAILED
from p2p.claim_messages import Claim, PaidClaims
from p2p.codec import decode_message
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.lease_messages import LeasedHold
from p2p.ledger_messages import CaptureLeg
from p2p.signing import Signed
from p2p.types import PeerId


class ClaimState(enum.StrEnum):
    """What became of a claim. Everything but OPEN is final."""

    OPEN = "open"
    PAID = "paid"
    DROPPED = "dropped"
    UNDERPAID = "underpaid"


@dataclass(frozen=True, slots=True)
class ClaimEntry:
    """A claim as the ledger keeps it. `part`: the job's part of a lease, None for its own hold."""

    hold_id: bytes
    attempt: int
    payer_id: bytes
    node_id: PeerId
    signed: Signed
    leg: Leg
    part: LeasedHold | None
    state: ClaimState = ClaimState.OPEN

    @property
    def evidence(self) -> tuple[bytes, bytes]:
        """What makes two claims the same: both documents, as they were signed."""
        document = decode_message(self.signed.body, Claim)
        return document.receipt.body, document.delivery.body


class ClaimOutcome(NamedTuple):
    """What usage says of a request whose gateway did not settle: as far as we know, it failed."""

    outcome: str = FAILED


_FAILED = ClaimOutcome()


@dataclass(frozen=True, slots=True)
class ClaimedLegs:
    """The legs that a hold's end pays, in the form of a capture (`ledger.consumption.Captured`)."""

    legs: tuple[Leg, ...]
    document: ClaimOutcome = _FAILED


def read_claim(signed: Signed, payer_id: bytes, state: ClaimState) -> ClaimEntry:
    """Read a claim that was verified when it came. Raises: MalformedError."""
    document = decode_message(signed.body, Claim)
    part = document.leased_hold
    return ClaimEntry(
        document.hold_id,
        (leg := read_leg(document)).receipt.attempt,
        payer_id,
        leg.node_id,
        signed,
        leg,
        decode_message(part.body, LeasedHold) if part is not None else None,
        state,
    )


@dataclass(frozen=True, slots=True)
class PaidLegs:
    """The claims that a hold's end paid, in the form of a capture's document."""

    legs: tuple[CaptureLeg, ...]
    part: LeasedHold | None
    outcome: str = FAILED


def paid_legs(request: bytes) -> PaidLegs:
    """Read the request of a transfer that paid claims, without verifying. Raises: MalformedError.

    `part`: the job's part of a lease, None for its own hold.
    """
    claims = [
        decode_message(signed.body, Claim) for signed in decode_message(request, PaidClaims).claims
    ]
    part = claims[0].leased_hold
    return PaidLegs(
        tuple(CaptureLeg(claim.receipt, claim.delivery) for claim in claims),
        decode_message(part.body, LeasedHold) if part is not None else None,
    )


def read_leg(document: Claim) -> Leg:
    """Read a claim's leg, without verifying. Raises: MalformedError."""
    return Leg(
        document.receipt.peer_id,
        decode_message(document.receipt.body, NodeReceipt),
        decode_message(document.delivery.body, DeliveryCount),
    )


def payable(
    hold: Hold, claims: Iterable[ClaimEntry], left: int, now_ms: int
) -> tuple[list[ClaimEntry], Settlement | None]:
    """Choose which claims on one job are paid, in the order of the attempts.

    A claim that contradicts an earlier attempt's (input counted twice, another request), or that
    the hold or `left` (microcredits) does not cover, is dropped. Gives None if nothing is paid.
    """
    chosen: list[ClaimEntry] = []
    settlement: Settlement | None = None
    for claim in sorted(claims, key=lambda one: one.attempt):
        try:
            found = settle(hold, [one.leg for one in (*chosen, claim)], now_ms)
        except RequestError:
            continue
        if found.charge <= left:
            chosen.append(claim)
            settlement = found
    return chosen, settlement


def claimed_amount(claims: Sequence[ClaimEntry], lease: Hold) -> int:
    """Give what open claims on a lease can cost at most (microcredits)."""
    parts = {claim.hold_id: claim.part for claim in claims if claim.state is ClaimState.OPEN}
    return min(lease.maximum, sum(part.maximum for part in parts.values() if part is not None))
