"""Owns the rules that always hold of claims and of gateways' exposure, as queries
(see `ledger.store.integrity`)."""

from __future__ import annotations

_UNPROVED = (
    "SELECT t.number FROM ledger_transfers t LEFT JOIN ledger_claims c "
    "ON c.payer = t.hold_number AND c.state = 'paid' WHERE t.kind = 'claim' AND c.payer IS NULL"
)

CLAIM_CHECKS: tuple[tuple[str, str], ...] = (
    ("claims were paid that are not there", _UNPROVED),
    (
        "a claim was paid or judged while its job is open",
        "SELECT c.payer FROM ledger_claims c JOIN ledger_holds h ON h.number = c.payer "
        "LEFT JOIN ledger_transfers p ON p.transfer_id = c.hold_id AND h.is_lease = 1 "
        "WHERE c.state IN ('paid', 'underpaid') AND h.state = 'open' AND p.number IS NULL",
    ),
    (
        "a claim names another hold than the one it is kept on",
        "SELECT c.payer FROM ledger_claims c JOIN ledger_holds h ON h.number = c.payer "
        "JOIN ledger_transfers t ON t.number = h.number "
        "WHERE h.is_lease = 0 AND t.transfer_id <> c.hold_id",
    ),
    (
        "what a gateway holds differs from its open holds",
        "SELECT h.gateway_id FROM (SELECT gateway_id, "
        "SUM(CASE WHEN state = 'open' THEN maximum - charged - returned ELSE 0 END) AS held "
        "FROM ledger_holds GROUP BY gateway_id) h "
        "LEFT JOIN ledger_gateway_exposure x ON x.gateway_id = h.gateway_id "
        "WHERE COALESCE(x.held, 0) <> h.held",
    ),
    (
        "what was charged through a gateway on its last day differs from its transfers",
        "SELECT x.gateway_id FROM ledger_gateway_exposure x LEFT JOIN (SELECT h.gateway_id "
        "AS gateway_id, -SUM(e.amount) AS charged FROM ledger_gateway_exposure y "
        "JOIN ledger_holds h ON h.gateway_id = y.gateway_id "
        "JOIN ledger_transfers t ON t.hold_number = h.number AND t.at_ms >= y.day * 86400000 "
        "AND t.kind IN ('capture', 'leased_capture', 'claim') "
        "JOIN ledger_entries e ON e.transfer = t.number "
        "AND (e.account = 'held:' || t.namespace OR e.account = 'namespace:' || t.namespace) "
        "GROUP BY h.gateway_id) c ON c.gateway_id = x.gateway_id "
        "WHERE x.charged <> COALESCE(c.charged, 0)",
    ),
)
"""Of the whole database."""

CLAIM_TAIL_CHECKS: tuple[tuple[str, str], ...] = (
    ("claims were paid that are not there", f"{_UNPROVED} AND t.number > :after"),
)
"""Of what was written after a transfer."""
