"""Owns the rules that always hold of leases, as queries (see `ledger.store.integrity`)."""

from __future__ import annotations

_OVERDRAWN = (
    "a lease was charged or gave back more than its amount",
    "SELECT number FROM ledger_holds WHERE (charged < 0 OR returned < 0 "
    "OR charged + returned > maximum OR (is_lease = 0 AND returned <> 0))",
)
_LEFT_OVER = (
    "a lease ended and something of it did not come back",
    "SELECT number FROM ledger_holds WHERE is_lease = 1 AND state <> 'open' "
    "AND charged + returned <> maximum",
)
_NAMELESS = (
    "SELECT t.number FROM ledger_transfers t LEFT JOIN ledger_holds h "
    "ON h.number = t.hold_number AND h.is_lease = 1 "
    "WHERE t.kind IN ('lease', 'leased_capture', 'lease_return') AND h.number IS NULL"
)

LEASE_CHECKS: tuple[tuple[str, str], ...] = (
    _OVERDRAWN,
    _LEFT_OVER,
    ("a transfer of a lease names none", _NAMELESS),
    (
        "what became of a lease differs from its transfers",
        "SELECT h.number FROM ledger_holds h LEFT JOIN (SELECT t.hold_number AS lease, "
        "SUM(CASE WHEN t.kind IN ('leased_capture', 'claim') THEN -e.amount ELSE 0 END) "
        "AS charged, "
        "SUM(CASE WHEN t.kind IN ('leased_capture', 'claim') THEN 0 ELSE -e.amount END) "
        "AS returned "
        "FROM ledger_transfers t JOIN ledger_entries e "
        "ON e.transfer = t.number AND e.account = 'held:' || t.namespace "
        "WHERE t.kind IN ('leased_capture', 'lease_return', 'expire', 'claim') "
        "GROUP BY t.hold_number) u ON u.lease = h.number "
        "WHERE h.is_lease = 1 "
        "AND (h.charged <> COALESCE(u.charged, 0) OR h.returned <> COALESCE(u.returned, 0))",
    ),
    (
        "something was charged to a lease, or given back, after its end",
        "SELECT t.number FROM ledger_transfers t JOIN ledger_holds h ON h.number = t.hold_number "
        "WHERE h.is_lease = 1 AND h.ended_by IS NOT NULL AND t.number > h.ended_by",
    ),
)
"""Of the whole database."""

LEASE_TAIL_CHECKS: tuple[tuple[str, str], ...] = (
    (_OVERDRAWN[0], f"{_OVERDRAWN[1]} AND number > :after"),
    (_LEFT_OVER[0], f"{_LEFT_OVER[1]} AND number > :after"),
    ("a transfer of a lease names none", f"{_NAMELESS} AND t.number > :after"),
)
"""Of what was written after a transfer (that balances agree is checked for each namespace)."""
