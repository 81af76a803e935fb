"""Owns what the end of a hold adds to usage and work (see `ledger.usage`). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ledger.operations import Leg
from ledger.receipts import Settlement
from ledger.records import Binding, Hold
from ledger.usage import (
    Counts,
    UsageEntry,
    UsageKey,
    WorkEntry,
    WorkKey,
    captured_counts,
    day_of,
    duration_ms,
    uncharged_counts,
)


class HasOutcome(Protocol):
    """A document that says how a request ended."""

    @property
    def outcome(self) -> str:
        """One of `ledger.usage.OUTCOMES`, or nothing."""


class Captured(Protocol):
    """Anything that pays for a request: a capture, one out of a lease, the claims of nodes."""

    @property
    def legs(self) -> tuple[Leg, ...]:
        """What each node did."""

    @property
    def document(self) -> HasOutcome:
        """What asked for it."""


def captured_usage(
    hold: Hold, operation: Captured, settlement: Settlement, now_ms: int
) -> UsageEntry:
    """Give the usage of a request that is captured."""
    delivered_ms = [leg.delivery.at_ms for leg in operation.legs]
    counts = captured_counts(
        operation.document.outcome,
        settlement.input_tokens,
        settlement.output_tokens,
        settlement.charge,
        duration_ms(hold.issued_ms, hold.expires_ms, delivered_ms),
        settlement.split.owner,
    )
    return UsageEntry(_key(hold, now_ms), counts)


def uncharged_usage(hold: Hold, outcome: str, now_ms: int) -> UsageEntry:
    """Give the usage of a request that is released or expires."""
    return UsageEntry(_key(hold, now_ms), uncharged_counts(outcome))


def lease_usage(lease: Hold, failed: int, client_left: int, now_ms: int) -> UsageEntry | None:
    """Give the usage of a lease's requests that cost nothing; None if there were none."""
    if not failed and not client_left:
        return None
    counts = Counts(failed + client_left, 0, client_left, failed)
    return UsageEntry(_key(lease, now_ms), counts)


def captured_work(
    hold: Hold,
    operation: Captured,
    settlement: Settlement,
    bindings: Mapping[str, Binding],
    now_ms: int,
) -> tuple[WorkEntry, ...]:
    """Give the work of each leg that is paid; every node of the legs is in `bindings`."""
    day, subcloud_id = day_of(now_ms), hold.terms.subcloud_id
    return tuple(
        WorkEntry(
            WorkKey(
                hold.namespace,
                day,
                leg.node_id,
                bindings[leg.node_id].account_id,
                subcloud_id,
            ),
            1,
            amount,
        )
        for leg, amount in zip(operation.legs, settlement.split.nodes, strict=True)
        if amount
    )


def _key(hold: Hold, now_ms: int) -> UsageKey:
    terms = hold.terms
    day = day_of(now_ms)
    return UsageKey(hold.namespace, day, hold.key_id, terms.model_name, terms.subcloud_id)
