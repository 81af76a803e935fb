"""Owns what the ledger can be asked to write about claims (see `ledger.operations`). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2p.claim_messages import Claim
from p2p.lease_messages import LeasedHold
from p2p.signing import Signed
from p2p.types import PeerId

if TYPE_CHECKING:
    from ledger.operations import Leg


@dataclass(frozen=True, slots=True)
class RecordClaim:
    """Keep a node's claim. `gateway_id` signed the delivery count, and `part` of a lease."""

    signed: Signed
    document: Claim
    gateway_id: PeerId
    leg: Leg
    part: LeasedHold | None

    @property
    def payer_id(self) -> bytes:
        """The hold or lease that it is to be paid from."""
        return self.part.lease_id if self.part is not None else self.document.hold_id


@dataclass(frozen=True, slots=True)
class SettleClaims:
    """Pay the claims on one job whose hold is over at `now_ms` (asked for by the sweep).

    `payer_id`: the job's hold itself, or the lease that it is a part of.
    """

    payer_id: bytes
    hold_id: bytes
    now_ms: int
