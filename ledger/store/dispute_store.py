"""Owns reading and writing disputes for a group of operations.

A charge is found by the ID of the hold that its consumer receipt names: a hold of its own, whose
end is the capture, or a part of a lease, whose capture has an ID that follows from the hold's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select

from ledger.book import Book
from ledger.disputes import Answer, Charge, Decision, Dispute, PaidPart
from ledger.errors import IntegrityError
from ledger.limits import EVIDENCE_KEPT_MS
from ledger.log.leaves import capture_legs, is_operators
from ledger.operations import AnswerDispute, OpenDispute, Operation, ResolveDispute
from ledger.records import TransferKind
from ledger.store.dispute_tables import (
    DISPUTE_ANSWERS,
    DISPUTE_DECISIONS,
    DISPUTE_EVIDENCE,
    DISPUTES,
)
from ledger.store.statements import insert_rows, select_rows
from ledger.store.tables import ENTRIES, HOLDS, TRANSFERS
from p2p.codec import decode_message
from p2p.dispute_messages import correction_id
from p2p.lease_messages import leased_capture_id
from p2p.prices import FeeRule, PriceTerms, exact_price, split_charge
from p2p.types import AccountId, Microcredits

_CAPTURES = (
    TransferKind.CAPTURE.value,
    TransferKind.LEASED_CAPTURE.value,
    TransferKind.CLAIM.value,
)


def disputed_holds(operations: Iterable[Operation]) -> set[bytes]:
    """Name the holds whose charges these operations are about."""
    return {
        operation.document.hold_id
        for operation in operations
        if isinstance(operation, OpenDispute | AnswerDispute | ResolveDispute)
    }


def load_charges(connection: Connection, hold_ids: Iterable[bytes], book: Book) -> None:
    """Read charges; those that are not there are left out. They never change: without a lock."""
    for hold_id in hold_ids:
        charge = find_charge(connection, hold_id)
        if charge is not None:
            book.disputes.charges[hold_id] = charge


def load_disputes(connection: Connection, operations: Iterable[Operation], book: Book) -> None:
    """Read what is known of disputes, after everything that these operations lock is locked."""
    disputes = book.disputes
    rows = select_rows(connection, DISPUTES, "hold_id", disputed_holds(operations), lock=True)
    for dispute in map(dispute_from_row, rows):
        disputes.disputes[dispute.hold_id] = dispute
        for answer in connection.execute(
            select(DISPUTE_ANSWERS).where(DISPUTE_ANSWERS.c.capture == dispute.capture)
        ):
            disputes.answers[dispute.hold_id, answer.account_id] = Answer(
                dispute.hold_id, AccountId(answer.account_id), answer.record, answer.at_ms
            )
        decided = connection.execute(
            select(DISPUTE_DECISIONS).where(DISPUTE_DECISIONS.c.capture == dispute.capture)
        ).first()
        if decided is not None:
            disputes.decided[dispute.hold_id] = Decision(
                dispute.hold_id, correction_id(dispute.hold_id), decided.refunded, decided.at_ms
            )
    for operation in operations:
        if isinstance(operation, OpenDispute):
            account_id = operation.document.account_id
            disputes.open_counts[account_id] = _open_count(connection, account_id)


def _open_count(connection: Connection, account_id: str) -> int:
    statement = (
        select(func.count())
        .select_from(DISPUTES.outerjoin(DISPUTE_DECISIONS))
        .where(DISPUTES.c.account_id == account_id, DISPUTE_DECISIONS.c.capture.is_(None))
    )
    return int(connection.execute(statement).scalar_one())


def dispute_from_row(row: Sequence[Any]) -> Dispute:
    """Make the record of a dispute's row."""
    capture, hold_id, account_id, key_id, charged, charged_ms, claimed, digest, record, at = row
    return Dispute(
        hold_id,
        capture,
        AccountId(account_id),
        key_id,
        charged,
        charged_ms,
        claimed,
        digest,
        record,
        at,
    )


def find_charge(connection: Connection, hold_id: bytes) -> Charge | None:
    """Read the charge of a hold; None if there is none (yet).

    Raises: IntegrityError, MalformedError (its row is damaged).
    """
    ended_by = connection.execute(
        select(HOLDS.c.ended_by)
        .join(TRANSFERS, TRANSFERS.c.number == HOLDS.c.number)
        .where(TRANSFERS.c.transfer_id == hold_id)
    ).scalar_one_or_none()
    # A part of a lease has no hold of its own: its capture, or a node's claim, has its ID.
    of_leased = TRANSFERS.c.transfer_id == leased_capture_id(hold_id)
    leases = select(HOLDS.c.number).where(HOLDS.c.is_lease == 1)
    condition = (
        # Another capture's own ID names no hold.
        of_leased & TRANSFERS.c.kind.in_(_CAPTURES) & TRANSFERS.c.hold_number.in_(leases)
        if ended_by is None
        else TRANSFERS.c.number == ended_by
    )
    capture = connection.execute(select(TRANSFERS).where(condition)).first()
    if capture is None or capture.kind not in _CAPTURES:
        return None
    return charge_of(connection, hold_id, capture)


def charge_of(connection: Connection, hold_id: bytes, capture: Any) -> Charge:
    """Make the charge of a capture's row. Raises: IntegrityError, MalformedError."""
    hold = connection.execute(select(HOLDS).where(HOLDS.c.number == capture.hold_number)).one()
    terms = decode_message(hold.terms, PriceTerms)
    entries = connection.execute(
        select(ENTRIES.c.account, ENTRIES.c.amount)
        .where(ENTRIES.c.transfer == capture.number)
        .order_by(ENTRIES.c.position)
    )
    paid = [(row.account, row.amount) for row in entries if is_operators(row.account)]
    fees = FeeRule(hold.gateway_basis_points, hold.network_basis_points).under(terms)
    nodes = iter(_paid_nodes(capture.request, terms, fees, sum(amount for _, amount in paid)))
    parts = []
    for account, amount in paid:
        node_id = ""
        if account.startswith("earnings:"):
            node_id, earned = next(nodes, ("", 0))
            if earned != amount:
                raise IntegrityError(f"the legs of {capture.transfer_id.hex()} earned otherwise")
        parts.append(PaidPart(account, amount, node_id))
    return Charge(
        hold_id,
        capture.number,
        capture.namespace,
        hold.key_id,
        terms.model_name,
        capture.at_ms,
        tuple(parts),
        terms.subcloud_id,
    )


def _paid_nodes(
    request: bytes, terms: PriceTerms, fees: FeeRule, charged: int
) -> list[tuple[str, int]]:
    """Give the nodes that a capture paid with what each earned, in the order of its entries."""
    found = capture_legs(request)
    if found is None:
        raise IntegrityError("this is not the request of a capture")
    counts = [leg.delivery for leg in found[1]]
    weights = tuple(
        exact_price(terms, count.input_tokens, count.output_tokens, count.cached_input_tokens)
        for count in counts
    )
    earned = split_charge(Microcredits(charged), weights, fees).nodes
    return [(c.node_id, amount) for c, amount in zip(counts, earned, strict=True) if amount]


def write_disputes(connection: Connection, book: Book) -> None:
    """Write what a group opened, answered and decided; old evidence is forgotten then."""
    disputes = book.disputes
    captures = {hold_id: dispute.capture for hold_id, dispute in disputes.disputes.items()}
    opened = [dispute for dispute, _ in disputes.new_disputes]
    insert_rows(
        connection,
        DISPUTES,
        [
            (
                one.capture,
                one.hold_id,
                one.account_id,
                one.key_id,
                one.charged,
                one.charged_ms,
                one.claimed,
                one.evidence_digest,
                one.record,
                one.opened_ms,
            )
            for one in opened
        ],
    )
    # A mirror has the opening, with the evidence's hash, and not the evidence.
    evidence = [(one.capture, sealed) for one, sealed in disputes.new_disputes if sealed]
    insert_rows(connection, DISPUTE_EVIDENCE, evidence)
    answers = [(captures[a.hold_id], a.account_id, a.record, a.at_ms) for a in disputes.new_answers]
    insert_rows(connection, DISPUTE_ANSWERS, answers)
    for one in disputes.new_decisions:
        number = connection.execute(
            select(TRANSFERS.c.number).where(TRANSFERS.c.transfer_id == one.transfer_id)
        ).scalar_one()
        row = (captures[one.hold_id], number, one.refunded, one.at_ms)
        insert_rows(connection, DISPUTE_DECISIONS, [row])
        _forget_evidence(connection, one.at_ms - EVIDENCE_KEPT_MS)


def _forget_evidence(connection: Connection, decided_before_ms: int) -> None:
    old = select(DISPUTE_DECISIONS.c.capture).where(DISPUTE_DECISIONS.c.at_ms < decided_before_ms)
    connection.execute(delete(DISPUTE_EVIDENCE).where(DISPUTE_EVIDENCE.c.capture.in_(old)))
