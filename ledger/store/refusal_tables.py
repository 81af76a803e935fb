"""Owns the table of what was refused: one row for each peer and reason, so that it stays small."""

from __future__ import annotations

from sqlmodel import SQLModel

from ledger.store.tables import _big, _bytes, _table, _text


class RefusalRow(SQLModel, table=True):
    """How often a peer was refused for a reason; the rest is about the last time.

    `evidence` is the request as the peer signed it (encoded `Signed`), empty if it was too large.
    """

    __tablename__ = "ledger_refusals"
    peer_id: str = _text(primary_key=True)
    code: str = _text(primary_key=True)
    times: int = _big()
    first_ms: int = _big()
    last_ms: int = _big()
    reason: str = _text()
    evidence: bytes = _bytes()


REFUSALS = _table(RefusalRow)
