"""Owns what the ledger knows of disputes: charges that can be contested, disputes, decisions. Pure.

Amounts are microcredits, times milliseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.records import Entry
from ledger.usage import UsageEntry, UsageKey, WorkEntry, WorkKey, credited_counts
from p2p.types import AccountId, PeerId


@dataclass(frozen=True, slots=True)
class PaidPart:
    """What a charge paid to one ledger account; `node_id` is empty for fees."""

    account: str
    amount: int
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Charge:
    """A capture as a dispute sees it. `hold_id` is what the consumer receipt names."""

    hold_id: bytes
    number: int
    namespace: str
    key_id: str
    model: str
    at_ms: int
    paid: tuple[PaidPart, ...]
    subcloud_id: str = ""

    @property
    def charged(self) -> int:
        """What the consumer paid."""
        return sum(part.amount for part in self.paid)

    @property
    def account_id(self) -> str:
        """Who paid."""
        return self.namespace.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute about a charge, as it was opened. `record` is the opening's digest."""

    hold_id: bytes
    capture: int
    account_id: AccountId
    key_id: str
    charged: int
    charged_ms: int
    claimed: int
    evidence_digest: bytes
    record: bytes
    opened_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operator said to a dispute. `record` is the answer's digest."""

    hold_id: bytes
    account_id: AccountId
    record: bytes
    at_ms: int


@dataclass(frozen=True, slots=True)
class Decision:
    """How a dispute ended, by which transfer."""

    hold_id: bytes
    transfer_id: bytes
    refunded: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class DisputeChange:
    """What an operation adds to the disputes: one of these."""

    opened: Dispute | None = None
    evidence: bytes = b""
    answered: Answer | None = None
    decided: Decision | None = None


@dataclass(slots=True)
class DisputeBook:
    """The part of a book that is about disputes; `charges` and `disputes` by hold ID.

    `answers` and `decided` name what is there already, `open_counts` how many disputes of an
    account are open.
    """

    charges: dict[bytes, Charge] = field(default_factory=dict)
    disputes: dict[bytes, Dispute] = field(default_factory=dict)
    answers: dict[tuple[bytes, str], Answer] = field(default_factory=dict)
    decided: dict[bytes, Decision] = field(default_factory=dict)
    open_counts: dict[str, int] = field(default_factory=dict)
    new_disputes: list[tuple[Dispute, bytes]] = field(default_factory=list)
    new_answers: list[Answer] = field(default_factory=list)
    new_decisions: list[Decision] = field(default_factory=list)

    def apply(self, change: DisputeChange) -> None:
        """Take over what an operation did."""
        if change.opened is not None:
            dispute = change.opened
            assert dispute.hold_id not in self.disputes
            self.disputes[dispute.hold_id] = dispute
            count = self.open_counts.get(dispute.account_id, 0)
            self.open_counts[dispute.account_id] = count + 1
            self.new_disputes.append((dispute, change.evidence))
        if change.answered is not None:
            answer = change.answered
            assert (answer.hold_id, answer.account_id) not in self.answers
            self.answers[answer.hold_id, answer.account_id] = answer
            self.new_answers.append(answer)
        if change.decided is not None:
            assert change.decided.hold_id not in self.decided
            self.decided[change.decided.hold_id] = change.decided
            self.new_decisions.append(change.decided)


def taken_parts(charge: Charge, refund: int) -> tuple[int, ...]:
    """Divide a refund among those whom the charge paid, in proportion; the sum is exact.

    Rounded down, and what is left goes, one microcredit each, to the largest remainders (the first
    of equal ones): nobody gives back more than it got.

    Args: refund: from 0 to `charge.charged`.
    """
    total = charge.charged
    assert 0 <= refund <= total
    exact = [part.amount * refund for part in charge.paid]
    parts = [one // total if total else 0 for one in exact]
    missing = refund - sum(parts)
    by_remainder = sorted(range(len(parts)), key=lambda place: -(exact[place] % (total or 1)))
    for place in by_remainder[:missing]:
        parts[place] += 1
    return tuple(parts)


def correction_entries(charge: Charge, refund: int, available: str) -> tuple[Entry, ...]:
    """Give the entries that take a refund back from those who were paid, and give it to the payer.

    Args: available: the ledger account of what the payer's namespace can spend.
    """
    entries = [
        Entry(part.account, -taken)
        for part, taken in zip(charge.paid, taken_parts(charge, refund), strict=True)
        if taken
    ]
    return (*entries, Entry(available, refund)) if refund else ()


def corrected_work(charge: Charge, refund: int, day: int) -> tuple[WorkEntry, ...]:
    """Give what a refund takes away from the work of the nodes, on the day of the decision.

    The day of the charge may be frozen in an epoch already.
    """
    return tuple(
        WorkEntry(
            WorkKey(
                charge.namespace,
                day,
                PeerId(part.node_id),
                AccountId(part.account.removeprefix("earnings:")),
                charge.subcloud_id,
            ),
            0,
            -taken,
        )
        for part, taken in zip(charge.paid, taken_parts(charge, refund), strict=True)
        if taken and part.node_id
    )


def corrected_usage(charge: Charge, refund: int, day: int) -> UsageEntry:
    """Give what a refund adds to the usage of the key that was charged."""
    key = UsageKey(charge.namespace, day, charge.key_id, charge.model, charge.subcloud_id)
    taken = zip(charge.paid, taken_parts(charge, refund), strict=True)
    of_owner = sum(amount for part, amount in taken if part.account.startswith("owner:"))
    return UsageEntry(key, credited_counts(refund, of_owner))
