"""Owns the tables of disputes. What was opened, said and decided is immutable; evidence is not.

Evidence is sealed to the deciders; it is kept until some time after the decision, its hash for
ever.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlmodel import SQLModel

from ledger.store.tables import IMMUTABLE, _big, _bytes, _number, _table, _text


class DisputeRow(SQLModel, table=True):
    """A dispute about a capture (`capture`: its transfer's number); the opening is a record."""

    __tablename__ = "ledger_disputes"
    __table_args__ = (Index("ledger_disputes_account", "account_id", "opened_ms"),)
    capture: int = _number(ForeignKey("ledger_transfers.number"), primary_key=True)
    hold_id: bytes = _bytes(unique=True)
    account_id: str = _text(ForeignKey("ledger_accounts.account_id"))
    key_id: str = _text(ForeignKey("ledger_api_keys.key_id"))
    charged: int = _big()
    charged_ms: int = _big()
    claimed: int = _big()
    evidence_digest: bytes = _bytes()
    record: bytes = _bytes(ForeignKey("ledger_records.digest"))
    opened_ms: int = _big()


class DisputeEvidenceRow(SQLModel, table=True):
    """The sealed evidence of a dispute, until it is forgotten."""

    __tablename__ = "ledger_dispute_evidence"
    capture: int = _number(ForeignKey("ledger_disputes.capture"), primary_key=True)
    evidence: bytes = _bytes()


class DisputeAnswerRow(SQLModel, table=True):
    """An operator's answer; the document is a record."""

    __tablename__ = "ledger_dispute_answers"
    capture: int = _big(ForeignKey("ledger_disputes.capture"), primary_key=True)
    account_id: str = _text(ForeignKey("ledger_accounts.account_id"), primary_key=True)
    record: bytes = _bytes(ForeignKey("ledger_records.digest"))
    at_ms: int = _big()


class DisputeDecisionRow(SQLModel, table=True):
    """How a dispute ended; the correction's transfer has the signed resolution."""

    __tablename__ = "ledger_dispute_decisions"
    capture: int = _number(ForeignKey("ledger_disputes.capture"), primary_key=True)
    transfer: int = _big(ForeignKey("ledger_transfers.number"), unique=True)
    refunded: int = _big()
    at_ms: int = _big()


DISPUTES = _table(DisputeRow)
DISPUTE_EVIDENCE = _table(DisputeEvidenceRow)
DISPUTE_ANSWERS = _table(DisputeAnswerRow)
DISPUTE_DECISIONS = _table(DisputeDecisionRow)
IMMUTABLE += [DISPUTES, DISPUTE_ANSWERS, DISPUTE_DECISIONS]
