"""Owns usage: what each key of a namespace did with each model on each day. Pure.

Theory of operation. A hold that ends is one request. Whatever ends it (capture, release, expiry)
makes one UsageEntry, and a capture one WorkEntry for each leg; entries of one group of operations
are added up and written in the transaction that ends the holds, so that usage says exactly what the
ledger's transfers say, no less and no more. Everything in them comes from signed documents: tokens
from the delivery counts, the duration from the hold's issue to the last delivery count (both the
gateway's clock), the outcome from the capture or release.

A day is a UTC day, named by its number since 1970-01-01; it is the day on which the hold ended.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

from p2p.types import AccountId, PeerId

DAY_MS = 86_400_000
COMPLETE = "complete"
CLIENT_LEFT = "client_left"
FAILED = "failed"
OUTCOMES = (COMPLETE, CLIENT_LEFT, FAILED)
"""How a request ended, as a capture or release may say it."""


class UsageKey(NamedTuple):
    """What usage is counted for; `subcloud_id` is empty for the global pool."""

    namespace: str
    day: int
    key_id: str
    model: str
    subcloud_id: str = ""


class WorkKey(NamedTuple):
    """What work is counted for: who paid, which node did it, and whose node it was then."""

    namespace: str
    day: int
    node_id: PeerId
    account_id: AccountId
    subcloud_id: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened. Amounts are microcredits.

    `requests` = complete + `client_left` + `failed`. `captured` counts those that were charged (a
    charge may be 0); tokens, `charged` and `duration_ms` are sums over them. `credited` is what
    decisions of disputes gave back on that day, whenever it had been charged. `income`: what the
    subcloud's owner got of it (the key's usage leaves that out).
    """

    requests: int = 0
    captured: int = 0
    client_left: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    charged: int = 0
    duration_ms: int = 0
    credited: int = 0
    income: int = 0

    def plus(self, other: Counts) -> Counts:
        """Add up."""
        return Counts(*map(operator.add, self.values, other.values))

    @property
    def values(self) -> tuple[int, ...]:
        """All counts in order."""
        return (
            self.requests,
            self.captured,
            self.client_left,
            self.failed,
            self.input_tokens,
            self.output_tokens,
            self.charged,
            self.duration_ms,
            self.credited,
            self.income,
        )


SUBCLOUD_COUNTS = tuple(field.name for field in fields(Counts))
COUNTS = SUBCLOUD_COUNTS[:-1]
"""What is counted of an API key."""


class UsageEntry(NamedTuple):
    """What the end of one hold adds to the usage of its key."""

    key: UsageKey
    counts: Counts


class WorkEntry(NamedTuple):
    """What one leg of a capture adds to a node's work (`earned`: microcredits, fees deducted)."""

    key: WorkKey
    legs: int
    earned: int


K = TypeVar("K")


def day_of(at_ms: int) -> int:
    """Give the UTC day of a time, as days since 1970-01-01."""
    return at_ms // DAY_MS


def captured_counts(
    outcome: str,
    input_tokens: int,
    output_tokens: int,
    charged: int,
    duration_ms: int,
    income: int = 0,
) -> Counts:
    """Count a request that was captured; a gateway that names no outcome means a complete one."""
    return Counts(
        1,
        1,
        int(outcome == CLIENT_LEFT),
        int(outcome == FAILED),
        input_tokens,
        output_tokens,
        charged,
        duration_ms,
        income=income,
    )


def uncharged_counts(outcome: str) -> Counts:
    """Count a request that was released or expired: it failed, unless the client had left."""
    left = outcome == CLIENT_LEFT
    return Counts(1, 0, int(left), int(not left))


def credited_counts(amount: int, of_income: int = 0) -> Counts:
    """Count what a dispute's decision gave back, and what of it was the owner's: no request."""
    return Counts(credited=amount, income=-of_income)


def duration_ms(issued_ms: int, expires_ms: int, delivered_ms: Iterable[int]) -> int:
    """Give how long a request took: from its hold's issue to its last delivery count.

    A gateway that states nonsense cannot spoil a sum: at least 0, at most the hold's lifetime.
    """
    return max(0, min(max(delivered_ms), expires_ms) - issued_ms)


def add_usage(total: dict[UsageKey, Counts], entry: UsageEntry) -> None:
    """Add an entry to what a group has so far."""
    before = total.get(entry.key)
    total[entry.key] = entry.counts if before is None else before.plus(entry.counts)


def add_work(total: dict[WorkKey, tuple[int, int]], entries: Iterable[WorkEntry]) -> None:
    """Add entries to what a group has so far: (legs, earned) of each key."""
    for key, legs, earned in entries:
        before = total.get(key, (0, 0))
        total[key] = (before[0] + legs, before[1] + earned)


def by_key(usage: Mapping[UsageKey, Counts]) -> dict[UsageKey, Counts]:
    """Add up over subclouds: what the owners of API keys are told."""
    found: dict[UsageKey, Counts] = {}
    for key, counts in usage.items():
        own = replace(counts, income=0) if counts.income else counts
        add_usage(found, UsageEntry(key._replace(subcloud_id=""), own))
    return found


def by_node(work: Mapping[WorkKey, tuple[int, int]]) -> dict[WorkKey, tuple[int, int]]:
    """Add up over subclouds: what a node did for a payer."""
    found: dict[WorkKey, tuple[int, int]] = {}
    for key, (legs, earned) in work.items():
        add_work(found, [WorkEntry(key._replace(subcloud_id=""), legs, earned)])
    return found
