"""Owns the rules about stakes that always hold, as queries that find what breaks them."""

from __future__ import annotations

_STAKES = "e.account >= 'stake:' AND e.account < 'stake;'"

STAKE_CHECKS: tuple[tuple[str, str], ...] = (
    (
        "more was taken from a stake than was set aside",
        f"SELECT e.account FROM ledger_entries e WHERE {_STAKES} "  # noqa: S608 - a constant
        "GROUP BY e.account HAVING SUM(e.amount) < 0",
    ),
    (
        "something else than staking and returning moved a stake",
        "SELECT e.account FROM ledger_entries e "  # noqa: S608 - a constant
        f"JOIN ledger_transfers t ON t.number = e.transfer WHERE {_STAKES} "
        "AND NOT ((t.kind = 'stake' AND e.amount > 0) "
        "OR (t.kind = 'stake_return' AND e.amount < 0))",
    ),
)
