"""Owns the rules of disputes that always hold, as statements that find what breaks them."""

from __future__ import annotations

_NO_DECISION = (
    "a correction was made without the decision of a dispute",
    "SELECT t.number FROM ledger_transfers t LEFT JOIN ledger_dispute_decisions d "
    "ON d.transfer = t.number WHERE {tail}t.kind = 'correction' AND d.transfer IS NULL",
)
_NO_CORRECTION = (
    "a dispute's decision names no correction",
    "SELECT d.capture FROM ledger_dispute_decisions d LEFT JOIN ledger_transfers t "
    "ON t.number = d.transfer AND t.kind = 'correction' WHERE {tail}t.number IS NULL",
)
_OTHER_AMOUNT = (
    "a dispute's refund is not what its correction gave back, or more than was charged",
    "SELECT d.capture FROM ledger_dispute_decisions d "
    "JOIN ledger_disputes o ON o.capture = d.capture "
    "JOIN ledger_transfers t ON t.number = d.transfer "
    "WHERE {tail}(d.refunded > o.charged OR d.refunded <> COALESCE((SELECT SUM(e.amount) "
    "FROM ledger_entries e WHERE e.transfer = d.transfer "
    "AND e.account = 'namespace:' || t.namespace), 0))",
)
_TOO_MUCH_TAKEN = (
    "a correction took more from an account than the charge had paid to it",
    "SELECT d.capture FROM ledger_dispute_decisions d "
    "JOIN ledger_entries e ON e.transfer = d.transfer AND e.amount < 0 "
    "{where}GROUP BY d.capture, e.account HAVING -SUM(e.amount) > COALESCE((SELECT SUM(p.amount) "
    "FROM ledger_entries p WHERE p.transfer = d.capture AND p.account = e.account), 0)",
)
_NOT_THE_CHARGE = (
    "a dispute is not about a charge of its account, as it was",
    "SELECT o.capture FROM ledger_disputes o LEFT JOIN ledger_transfers t ON t.number = o.capture "
    "AND t.kind IN ('capture', 'leased_capture', 'claim') AND t.at_ms = o.charged_ms "
    "WHERE t.number IS NULL OR t.namespace NOT LIKE o.account_id || '/%' "
    "OR o.charged <> COALESCE((SELECT SUM(e.amount) FROM ledger_entries e "
    "WHERE e.transfer = o.capture AND (e.account = 'treasury' OR e.account LIKE 'fees:%' "
    "OR e.account LIKE 'owner:%' OR e.account LIKE 'earnings:%')), 0)",
)


def _all(check: tuple[str, str]) -> tuple[str, str]:
    return check[0], check[1].format(tail="", where="")


def _new(check: tuple[str, str], number: str) -> tuple[str, str]:
    condition = f"{number} > :after "
    return check[0], check[1].format(tail=f"{condition}AND ", where=f"WHERE {condition}")


DISPUTE_CHECKS: tuple[tuple[str, str], ...] = (
    _all(_NO_DECISION),
    _all(_NO_CORRECTION),
    _all(_OTHER_AMOUNT),
    _all(_TOO_MUCH_TAKEN),
    _NOT_THE_CHARGE,
)
DISPUTE_TAIL_CHECKS: tuple[tuple[str, str], ...] = (
    _new(_NO_DECISION, "t.number"),
    _new(_NO_CORRECTION, "d.transfer"),
    _new(_OTHER_AMOUNT, "d.transfer"),
    _new(_TOO_MUCH_TAKEN, "d.transfer"),
)
