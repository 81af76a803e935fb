"""Owns the tables of what others say about the log: cosignatures of witnesses, and alarms.

Both are signed by who says it. They stand beside the ledger, not in it: nothing is decided by them.
"""

from __future__ import annotations

from sqlmodel import SQLModel

from ledger.store.tables import _big, _bytes, _number, _table, _text


class CosignatureRow(SQLModel, table=True):
    """A witness's signature line under the checkpoint of a size; `at_s` is the time in it."""

    __tablename__ = "ledger_log_cosignatures"
    size: int = _number(primary_key=True)
    name: str = _text(primary_key=True)
    line: bytes = _bytes()
    at_s: int = _big()


class AlarmRow(SQLModel, table=True):
    """An alarm (an encoded AlarmNotice) that this bootstrap raised or believed.

    `evidence` is what it was raised over (encoded messages); empty if another peer has it.
    """

    __tablename__ = "ledger_log_alarms"
    digest: bytes = _bytes(primary_key=True)
    kind: str = _text()
    size: int = _big()
    notice: bytes = _bytes()
    evidence: bytes = _bytes()
    at_ms: int = _big()


COSIGNATURES = _table(CosignatureRow)
ALARMS = _table(AlarmRow)
