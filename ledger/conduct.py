"""Owns what a capture adds to the counts of how nodes served (`p2p.conduct_messages`). Pure.

Theory of operation. What the gateway signed with a capture is counted in the transaction of the
capture, once, by minute, node, gateway and subcloud. It moves no money and can refuse none: an
observation that does not fit is left out, a capture of before observations counts its jobs as
served. `related` marks what somebody could make by himself: payer, gateway and node must belong to
three different accounts.

Older minutes are put together: after COARSER_AFTER_MINUTES ten of them, then whole days; after
KEPT_DAYS they are forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.operations import CaptureHold, CaptureLeased
from p2p.conduct_messages import LegObservation
from p2p.types import AccountId, PeerId

if TYPE_CHECKING:
    from ledger.book import Book

MINUTE_MS = 60_000
COARSER_AFTER_MINUTES = ((1, 10, 240), (10, 1440, 3 * 1440))
"""Spans of minutes that become longer ones when they are so old: a busy node has 500 rows."""
KEPT_DAYS = 31
"""A day longer than reputation looks back (`p2p.subclouds.conduct`)."""
NOT_OBSERVED = LegObservation(0, 0)
COUNTERS = (
    "jobs",
    "failed",
    "unproven",
    "first_tokens",
    "first_token_ms",
    "output_tokens",
    "output_ms",
)


class ConductKey(NamedTuple):
    """What is counted for, in the order of the table's key (`span`: minutes)."""

    node_id: PeerId
    subcloud_id: str
    minute: int
    span: int
    gateway_id: PeerId
    gateway_account: AccountId
    related: int


ConductCount = tuple[int, ...]
"""In the order of COUNTERS."""


def note_conduct(book: Book, operation: CaptureHold | CaptureLeased, now_ms: int) -> None:
    """Add what a capture that was just applied says of its nodes to a book."""
    if isinstance(operation, CaptureLeased):
        hold = book.holds[operation.hold.lease_id]
    else:
        hold = book.holds[operation.document.hold_id]
    payer = hold.namespace.partition("/")[0]
    minute = now_ms // MINUTE_MS

    def add(node_id: PeerId, counts: ConductCount) -> None:
        binding = book.bindings.get(node_id)
        if binding is None:
            return
        three = {payer, hold.gateway_account, binding.account_id}
        key = ConductKey(
            node_id,
            hold.terms.subcloud_id,
            minute,
            1,
            hold.gateway_id,
            hold.gateway_account,
            int(len(three) < 3),
        )
        before = book.conduct.get(key)
        summed = counts if before is None else tuple(map(int.__add__, before, counts))
        book.conduct[key] = summed

    observed = operation.document.observed
    fits = len(observed) == len(operation.legs)
    for place, leg in enumerate(operation.legs):
        add(leg.node_id, _of_leg(leg.delivery.output_tokens, observed[place] if fits else None))
    paid = {leg.node_id for leg in operation.legs}
    for node_id, proven in operation.failures:
        if node_id not in paid:  # it broke off, and went on when it was asked again
            add(node_id, (int(proven), int(proven), int(not proven), 0, 0, 0, 0))


def _of_leg(output_tokens: int, seen: LegObservation | None) -> ConductCount:
    seen = seen or NOT_OBSERVED
    first = int(bool(output_tokens and seen.first_token_ms))
    later = output_tokens - 1 if first and seen.output_ms else 0
    return (
        1,
        int(seen.failed),
        0,
        first,
        seen.first_token_ms if first else 0,
        max(0, later),
        seen.output_ms if later > 0 else 0,
    )
