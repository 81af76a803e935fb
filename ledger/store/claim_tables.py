"""Owns the table of claims: what nodes submitted for their pay (`ledger.claims`).

What was signed stays for ever; only `state` changes, once, from open to what became of the claim.
An audit makes it again from the transfers.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, text
from sqlmodel import SQLModel

from ledger.store.tables import _big, _bytes, _table, _text

_OPEN = text("state = 'open'")


class ClaimRow(SQLModel, table=True):
    """A claim. `payer`: the row of the hold or lease that pays; `signed` is the Claim as it came.

    `hold_id` is the job's hold (a part of the payer if that is a lease).
    """

    __tablename__ = "ledger_claims"
    __table_args__ = (
        Index("ledger_claims_payer", "payer"),
        Index("ledger_claims_open", "payer", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )
    hold_id: bytes = _bytes(primary_key=True)
    attempt: int = _big(primary_key=True)
    payer: int = _big(ForeignKey("ledger_holds.number"))
    node_id: str = _text()
    signed: bytes = _bytes()
    state: str = _text()


CLAIMS = _table(ClaimRow)
