"""Owns the short check at a start: what was written since the whole database was last verified.

`verified_to` in `ledger_meta` is a transfer's number: everything up to it was there when it was
last checked, by this or by the check of the whole database. On PostgreSQL a lower number can be
committed after a higher one, so the point stays OVERLAP_MS behind. What is not read here (older
transfers, the counters of API keys) the scrub reads beside the work (`ledger.watch`). Whoever finds
a broken rule takes the point away, so that no later start is content with the tail.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, delete, select, text

from ledger.store.claim_checks import CLAIM_TAIL_CHECKS
from ledger.store.dispute_checks import DISPUTE_TAIL_CHECKS
from ledger.store.integrity import explain
from ledger.store.lease_checks import LEASE_TAIL_CHECKS
from ledger.store.subcloud_checks import OWNER_TAIL_CHECKS
from ledger.store.tables import META, TRANSFERS

OVERLAP_MS = 120_000
"""No transaction takes two minutes; what is written in that time is read in a second at most."""
_POINT = "verified_to"

_TAIL_CHECKS: tuple[tuple[str, str], ...] = (
    (
        "a transfer's entries do not add up to zero",
        "SELECT transfer FROM ledger_entries WHERE transfer > :after "
        "GROUP BY transfer HAVING SUM(amount) <> 0",
    ),
    (
        "an entry belongs to no transfer",
        "SELECT e.transfer FROM ledger_entries e LEFT JOIN ledger_transfers t "
        "ON t.number = e.transfer WHERE e.transfer > :after AND t.number IS NULL",
    ),
    (
        "a namespace's available balance differs from its entries",
        "SELECT path FROM (SELECT n.path AS path, n.available AS stored, "
        "COALESCE((SELECT SUM(e.amount) FROM ledger_entries e "
        "WHERE e.account = 'namespace:' || n.path), 0) AS summed FROM ledger_namespaces n "
        "WHERE n.path IN (SELECT namespace FROM ledger_transfers WHERE number > :after)) AS b "
        "WHERE stored <> summed OR stored < 0",
    ),
    (
        "a namespace's held balance differs from its open holds",
        "SELECT n.path FROM ledger_namespaces n LEFT JOIN "
        "(SELECT namespace, SUM(maximum - charged - returned) AS total "
        "FROM ledger_holds WHERE state = 'open' GROUP BY namespace) h ON h.namespace = n.path "
        "WHERE n.held <> COALESCE(h.total, 0)",
    ),
    (
        "a hold's state does not fit the transfers that it names",
        "SELECT h.number FROM ledger_holds h "
        "LEFT JOIN ledger_transfers s ON s.number = h.number "
        "AND s.kind = CASE h.is_lease WHEN 1 THEN 'lease' ELSE 'hold' END "
        "LEFT JOIN ledger_transfers e ON e.number = h.ended_by AND e.hold_number = h.number "
        "WHERE h.number > :after AND (s.number IS NULL "
        "OR (h.state = 'open' AND (h.ended_by IS NOT NULL "
        "OR (h.is_lease = 0 AND h.charged + h.returned <> 0))) "
        "OR (h.state <> 'open' AND (e.kind IS NULL OR e.kind <> CASE h.state "
        "WHEN 'captured' THEN 'capture' WHEN 'expired' THEN 'expire' WHEN 'claimed' THEN 'claim' "
        "ELSE CASE h.is_lease WHEN 1 THEN 'lease_return' ELSE 'release' END END)))",
    ),
    (
        "a hold, or the end of one, has a transfer but no matching record",
        "SELECT t.number FROM ledger_transfers t LEFT JOIN ledger_holds h "
        "ON h.number = t.hold_number WHERE t.number > :after "
        "AND t.kind NOT IN ('grant', 'lease', 'leased_capture', 'lease_return', 'correction', "
        "'stake', 'stake_return') "
        "AND (h.number IS NULL OR "
        "(t.kind <> 'hold' AND NOT (t.kind = 'claim' AND h.is_lease = 1) "
        "AND (h.ended_by IS NULL OR h.ended_by <> t.number)))",
    ),
    (
        "a grant's amount differs from its entries",
        "SELECT g.number FROM ledger_grants g LEFT JOIN ledger_entries e "
        "ON e.transfer = g.number AND e.account = 'mint' "
        "WHERE g.number > :after AND (e.amount IS NULL OR e.amount <> -g.amount)",
    ),
    (
        "credit was made without a grant",
        "SELECT e.transfer FROM ledger_entries e LEFT JOIN ledger_grants g "
        "ON g.number = e.transfer WHERE e.transfer > :after AND e.account = 'mint' "
        "AND g.number IS NULL",
    ),
    *LEASE_TAIL_CHECKS,
    *CLAIM_TAIL_CHECKS,
    *DISPUTE_TAIL_CHECKS,
    *OWNER_TAIL_CHECKS,
)


def verified_to(connection: Connection) -> int | None:
    """Read up to which transfer the database was verified; None if it never was."""
    found = connection.execute(select(META.c.value).where(META.c.name == _POINT))
    value = found.scalar_one_or_none()
    return None if value is None else int(value)


def next_point(connection: Connection, now_ms: int) -> int:
    """Read the number that a check, begun now, can vouch for."""
    statement = (
        select(TRANSFERS.c.number)
        .where(TRANSFERS.c.at_ms < now_ms - OVERLAP_MS)
        .order_by(TRANSFERS.c.number.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar_one_or_none() or 0


def remember_point(connection: Connection, number: int | None) -> None:
    """Write down the verified point; None: this database is not verified."""
    if number is None:
        connection.execute(delete(META).where(META.c.name == _POINT))
        return
    # Several bootstraps may be checking one database at the same moment.
    connection.execute(
        text(
            "INSERT INTO ledger_meta (name, value) VALUES (:name, :value) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        ),
        {"name": _POINT, "value": str(number)},
    )


def check_tail(connection: Connection, after: int) -> None:
    """Check what was written after a transfer. Raises: IntegrityError."""
    explain(_problems(connection, after))


def _problems(connection: Connection, after: int) -> Iterator[str]:
    for meaning, statement in _TAIL_CHECKS:
        row = connection.execute(text(statement), {"after": after}).first()
        if row is not None:
            yield f"{meaning} ({row[0]})"
