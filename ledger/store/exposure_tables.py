"""Owns the table of gateways' exposure (`ledger.exposure`): one row for each, small for ever."""

from __future__ import annotations

from sqlalchemy import CheckConstraint
from sqlmodel import SQLModel

from ledger.store.tables import _big, _table, _text


class ExposureRow(SQLModel, table=True):
    """What a gateway holds now, and what was charged through it on `day` (microcredits)."""

    __tablename__ = "ledger_gateway_exposure"
    __table_args__ = (CheckConstraint("held >= 0", name="exposure_is_not_negative"),)
    gateway_id: str = _text(primary_key=True)
    held: int = _big()
    day: int = _big()
    charged: int = _big()


EXPOSURES = _table(ExposureRow)
