"""Owns the messages of claims: a node asks for its pay itself, because its gateway does not settle.

Theory of operation. A node's attempt is paid when the gateway captures the job's hold. A node whose
gateway is gone has both documents that a capture would carry: its own receipt, and the last count
of what was delivered, signed by the gateway. It submits them as a Claim while the hold is open; the
ledger checks them as it checks a leg of a capture and keeps them on the hold.

    node                                           ledger
      HoldQuery(holds) ──────────────────────────▶   which of these have ended, what was I paid for?
                       ◀──────────────────────────   HoldStandings
      Claim(receipt, delivery) ──────────────────▶   kept on the hold
                       ◀──────────────────────────   ClaimResult
                                                     the hold's end: the claims on it are paid

A capture by the gateway that comes before the hold's end settles the job (the gateway sees all
attempts, a node sees its own); one that pays less than a claim proves is recorded against it. A
claim out of a lease carries the gateway's LeasedHold too, because the ledger does not have it yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, message
from p2p.job_messages import Amount, Id, Tokens
from p2p.limits import HOLDS_PER_QUERY_MAX, LEGS_PER_CAPTURE_MAX
from p2p.signing import Document, Signed

CLAIM = "ledger.claim"
"""Signed Claim -> ClaimResult, for the node that signed it."""
HOLD_STANDINGS = "ledger.hold_standings"
"""HoldQuery (unsigned) -> HoldStandings, for any certified node."""
HOLD_STATES = ("unknown", "open", "captured", "released", "expired", "claimed")
"""What HoldStandings can say; `claimed`: its end paid the claims on it."""


@message(90)
@dataclass(frozen=True, slots=True)
class Claim(Document):
    """A node asks for what its attempt of a job is worth. Signed by the node.

    `receipt` is its NodeReceipt, `delivery` the gateway's DeliveryCount for it, `leased_hold` the
    gateway's LeasedHold if the job is paid out of a lease.
    """

    PURPOSE: ClassVar[str] = "claim"
    hold_id: Id
    receipt: Signed
    delivery: Signed
    issued_ms: int
    leased_hold: Signed | None = None


@message(91)
@dataclass(frozen=True, slots=True)
class ClaimResult(Message):
    """A claim is kept (`exists`: it was kept before); `amount`: what the job is charged for it, if
    nothing contradicts it and the hold suffices (microcredits, fees not deducted)."""

    exists: bool
    amount: Amount


@message(92)
@dataclass(frozen=True, slots=True)
class PaidClaims(Message):
    """The claims that the end of a hold pays, in the order of their attempts.

    It is the `request` of the transfer that pays them, where a capture has the gateway's document.
    """

    claims: Annotated[tuple[Signed, ...], Limit(LEGS_PER_CAPTURE_MAX, 1)]


@message(93)
@dataclass(frozen=True, slots=True)
class HoldQuery(Message):
    """A node asks how holds of its attempts stand.

    `leases` names the lease that each hold is paid from, in the order of `holds`; empty bytes for a
    hold of its own.
    """

    holds: Annotated[tuple[Id, ...], Limit(HOLDS_PER_QUERY_MAX, 1)]
    leases: Annotated[tuple[Annotated[bytes, Limit(16)], ...], Limit(HOLDS_PER_QUERY_MAX, 1)]


@message(94)
@dataclass(frozen=True, slots=True)
class HoldStandings(Message):
    """The answer to a HoldQuery, in its order: how each hold stands (HOLD_STATES), and how many
    tokens of the asking node its end has paid."""

    states: Annotated[tuple[Annotated[str, Limit(16)], ...], Limit(HOLDS_PER_QUERY_MAX)]
    input_tokens: Annotated[tuple[Tokens, ...], Limit(HOLDS_PER_QUERY_MAX)]
    output_tokens: Annotated[tuple[Tokens, ...], Limit(HOLDS_PER_QUERY_MAX)]
