"""Owns the rule that always holds of subclouds' owners, as queries (`ledger.store.integrity`)."""

from __future__ import annotations

_WRONG_OWNER = (
    "a subcloud's owner was paid whom the hold does not name",
    "SELECT e.transfer FROM ledger_entries e JOIN ledger_transfers t ON t.number = e.transfer "
    "LEFT JOIN ledger_holds h ON h.number = t.hold_number "
    "WHERE e.account LIKE 'owner:%' AND t.kind <> 'correction' "
    "AND (h.number IS NULL OR h.owner_account = '' OR e.account <> 'owner:' || h.owner_account)",
)
OWNER_CHECKS: tuple[tuple[str, str], ...] = (_WRONG_OWNER,)
"""Of the whole database."""
OWNER_TAIL_CHECKS: tuple[tuple[str, str], ...] = (
    (_WRONG_OWNER[0], f"{_WRONG_OWNER[1]} AND t.number > :after"),
)
"""Of what was written after a transfer."""
