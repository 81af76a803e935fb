"""Owns writing and reading what was refused (`ledger.refusals`)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update

from ledger.refusals import Refusal
from ledger.store.refusal_tables import REFUSALS


def add_refusals(connection: Connection, refusals: Sequence[Refusal]) -> None:
    """Add to what is there, one row for each peer and code."""
    # Sorted, so that two processes cannot lock each other out.
    for new in sorted(refusals, key=lambda one: (one.peer_id, one.code)):
        changed = connection.execute(
            update(REFUSALS)
            .where(REFUSALS.c.peer_id == new.peer_id, REFUSALS.c.code == new.code)
            .values(
                times=REFUSALS.c.times + new.times,
                last_ms=new.last_ms,
                reason=new.reason,
                evidence=new.evidence,
            )
        )
        if not changed.rowcount:
            values = {column.name: getattr(new, column.name) for column in REFUSALS.columns}
            connection.execute(insert(REFUSALS).values(values))


def read_refusals(connection: Connection) -> list[Refusal]:
    """Read all, the newest first."""
    rows = connection.execute(select(REFUSALS).order_by(REFUSALS.c.last_ms.desc()))
    return [Refusal(*row) for row in rows]
