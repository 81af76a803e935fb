"""Owns reading of leases: what a key could spend now, and what of it is leased."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from ledger.lease_shortage import OpenLeaseView, Standing
from ledger.store.tables import API_KEYS, HOLDS, NAMESPACES

_OPEN = (HOLDS.c.is_lease == 1) & (HOLDS.c.state == "open")
_LEFT = HOLDS.c.maximum - HOLDS.c.charged - HOLDS.c.returned


def standing_of(connection: Connection, key_id: str) -> Standing | None:
    """Read what an API key could spend, and the leases of its namespace; None: no such key.

    One statement, so that credit which moves meanwhile is seen once: here or there.
    """
    rows = connection.execute(
        select(
            NAMESPACES.c.available,
            (API_KEYS.c.spent + API_KEYS.c.held).label("used"),
            API_KEYS.c.usage_day.label("day"),
            API_KEYS.c.day_used,
            HOLDS.c.key_id.label("lease_key"),
            _LEFT.label("left_of_it"),
            HOLDS.c.expires_ms.label("ends_ms"),
            HOLDS.c.usage_day.label("lease_day"),
        )
        .join(NAMESPACES, NAMESPACES.c.path == API_KEYS.c.namespace)
        .join(HOLDS, (HOLDS.c.namespace == NAMESPACES.c.path) & _OPEN, isouter=True)
        .where(API_KEYS.c.key_id == key_id)
    ).all()
    if not rows:
        return None
    leases = tuple(
        OpenLeaseView(row.lease_key, row.left_of_it, row.ends_ms, row.lease_day)
        for row in rows
        if row.lease_key is not None
    )
    first = rows[0]
    return Standing(key_id, first.available, first.used, first.day, first.day_used, leases)


def leased_of(connection: Connection, path: str) -> int:
    """Read how much of what is held of a namespace is leased to gateways (microcredits)."""
    statement = select(func.coalesce(func.sum(_LEFT), 0)).where(HOLDS.c.namespace == path, _OPEN)
    return int(connection.execute(statement).scalar_one())
