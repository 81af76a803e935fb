"""Owns the audit of disputes: each is opened, answered and decided again from what was signed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, select

from ledger.disputes import Charge, Dispute
from ledger.errors import IntegrityError
from ledger.log.leaves import LoggedTransfer
from ledger.operations import AnswerDispute, OpenDispute, Operation, ResolveDispute
from ledger.store.audit.report import AuditReport, Replay
from ledger.store.dispute_store import dispute_from_row, find_charge
from ledger.store.dispute_tables import (
    DISPUTE_ANSWERS,
    DISPUTE_DECISIONS,
    DISPUTE_EVIDENCE,
    DISPUTES,
)
from p2p.codec import decode_message
from p2p.dispute_messages import DisputeResolution
from p2p.signing import Signed, open_signed


class DisputeRows:
    """Reads from a database what the replay of a dispute's operations is judged by."""

    def __init__(self, connection: Connection) -> None:
        """Read through this connection."""
        self._connection = connection

    def charge(self, hold_id: bytes) -> Charge | None:
        """The charge of a hold; its capture is audited by itself."""
        return find_charge(self._connection, hold_id)

    def dispute(self, hold_id: bytes) -> Dispute | None:
        """The dispute of a hold; its opening is audited by itself."""
        row = self._connection.execute(select(DISPUTES).where(DISPUTES.c.hold_id == hold_id))
        found = row.first()
        return None if found is None else dispute_from_row(tuple(found))


@contextmanager
def dispute_known(replay: Replay, operation: Operation) -> Iterator[None]:
    """Put what an operation on a dispute is judged by into the replay's book, while it is decided.

    An answer may be replayed before the opening, which is another account's operation; how many
    disputes were open at that moment nobody knows any more.
    """
    if not isinstance(operation, OpenDispute | AnswerDispute | ResolveDispute):
        yield
        return
    hold_id, disputes = operation.document.hold_id, replay.book.disputes
    assert replay.dispute_rows is not None
    charge = replay.dispute_rows.charge(hold_id)
    if charge is not None:
        disputes.charges[hold_id] = charge
    disputes.open_counts.clear()
    early = isinstance(operation, AnswerDispute) and hold_id not in disputes.disputes
    known = replay.dispute_rows.dispute(hold_id) if early else None
    if known is not None:
        disputes.disputes[hold_id] = known
    try:
        yield
    finally:
        disputes.charges.pop(hold_id, None)
        if known is not None:
            del disputes.disputes[hold_id]


def resolution(replay: Replay, transfer: LoggedTransfer) -> ResolveDispute:
    """Make the operation of a correction again. Raises: IntegrityError, P2PError."""
    signed = decode_message(transfer.request, Signed)
    if signed.signer not in replay.dispute_keys:
        raise IntegrityError(
            "a dispute is decided by a key that no given network configuration names"
        )
    return ResolveDispute(signed, open_signed(signed, DisputeResolution, replay.network))


def audit_disputes(connection: Connection, replay: Replay, report: AuditReport) -> None:
    """Compare the rows of disputes with what came out of the replay."""
    made = replay.book.disputes
    captures: dict[bytes, int] = {}
    found = set()
    for row in connection.execute(select(DISPUTES)):
        with report.reading(f"the dispute of transfer {row.capture}"):
            captures[row.hold_id] = row.capture
            found.add(row.hold_id)
            name = f"the dispute of hold {row.hold_id.hex()}"
            report.compare(name, dispute_from_row(tuple(row)), made.disputes.get(row.hold_id))
    report.compare("the list of disputes", found, set(made.disputes))
    answers = {
        (row.capture, row.account_id): (row.record, row.at_ms)
        for row in connection.execute(select(DISPUTE_ANSWERS))
    }
    expected: dict[Any, Any] = {
        (captures.get(hold_id), account_id): (answer.record, answer.at_ms)
        for (hold_id, account_id), answer in made.answers.items()
    }
    report.compare("the answers to disputes", answers, expected)
    decided = {
        row.capture: (row.refunded, row.at_ms)
        for row in connection.execute(select(DISPUTE_DECISIONS))
    }
    expected = {
        captures.get(hold_id): (decision.refunded, decision.at_ms)
        for hold_id, decision in made.decided.items()
    }
    report.compare("the decisions of disputes", decided, expected)
    _audit_evidence(connection, report)
    report.count("disputes", len(found))


def _audit_evidence(connection: Connection, report: AuditReport) -> None:
    statement = select(DISPUTE_EVIDENCE, DISPUTES.c.evidence_digest).join(
        DISPUTES, DISPUTES.c.capture == DISPUTE_EVIDENCE.c.capture, isouter=True
    )
    for row in connection.execute(statement):
        if hashlib.sha256(row.evidence).digest() != row.evidence_digest:
            report.problem(f"the evidence of the dispute of transfer {row.capture} was changed")
