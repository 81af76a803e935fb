"""Owns reading how nodes served, and making old counts coarser (`ledger.conduct`)."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, delete, func, select, text

from ledger.conduct import COARSER_AFTER_MINUTES, COUNTERS, KEPT_DAYS, MINUTE_MS
from ledger.store.conduct_tables import CONDUCT
from p2p.conduct_messages import CONDUCT_ROWS_MAX, ConductCounts, ConductQuery
from p2p.types import AccountId, PeerId

_TIDY_LOCK = 0x636F_6E64
"""PostgreSQL advisory lock: two processes must not both add the same rows up."""
_KEYS = ("node_id", "gateway_id", "gateway_account", "related")


def conduct_rows(
    connection: Connection, query: ConductQuery, now_ms: int, count_max: int = CONDUCT_ROWS_MAX
) -> tuple[list[ConductCounts], int]:
    """Give one page of the counts that a query asks for, and where the next one begins (0: none).

    Rows are in the order of time, so that a page stays where it is while new ones come.
    """
    of = CONDUCT.c
    keys = [of[name] for name in _KEYS]
    sums: list[ColumnElement[int]] = [func.sum(of[name]) for name in COUNTERS]
    times: list[ColumnElement[int]] = []
    order = [of.node_id, of.gateway_id, of.gateway_account, of.related]
    if not query.whole:
        times = [of.minute, of.span]
        order = [of.minute, of.span, *order]
    statement = (
        select(*keys, *times, *sums)
        .where(of.node_id.in_(query.nodes), of.minute + of.span > query.since_ms // MINUTE_MS)
        .group_by(*keys, *times)
        .order_by(*order)
        .offset(query.after)
        .limit(count_max + 1)
    )
    if query.subcloud_id:
        statement = statement.where(of.subcloud_id == query.subcloud_id)
    rows = []
    for node_id, gateway_id, account, related, *values in connection.execute(statement):
        if query.whole:
            since_ms, until_ms = query.since_ms, max(query.since_ms, now_ms)
        else:
            minute, span, *values = values
            since_ms, until_ms = minute * MINUTE_MS, (minute + span) * MINUTE_MS
        rows.append(
            ConductCounts(
                PeerId(node_id),
                PeerId(gateway_id),
                AccountId(account),
                bool(related),
                since_ms,
                until_ms,
                *map(int, values),
            )
        )
    more = len(rows) > count_max
    return rows[:count_max], query.after + count_max if more else 0


def tidy_conduct(connection: Connection, now_ms: int) -> None:
    """Put old minutes together and forget the oldest days, in the caller's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _TIDY_LOCK})
    now_minute = now_ms // MINUTE_MS
    of = CONDUCT.c
    for span, longer, age in COARSER_AFTER_MINUTES:
        before = (now_minute - age) // longer * longer
        connection.execute(text(_COARSER), {"span": span, "longer": longer, "before": before})
        connection.execute(delete(CONDUCT).where(of.span == span, of.minute < before))
    longest = COARSER_AFTER_MINUTES[-1][1]
    forgotten = now_minute - KEPT_DAYS * 1440
    connection.execute(delete(CONDUCT).where(of.span == longest, of.minute < forgotten))


_SUMS = ", ".join(f"SUM({name})" for name in COUNTERS)
_ADDED = ", ".join(f"{name} = ledger_conduct.{name} + excluded.{name}" for name in COUNTERS)
_COARSER = (
    "INSERT INTO ledger_conduct (node_id, subcloud_id, minute, span, gateway_id, "  # noqa: S608
    f"gateway_account, related, {', '.join(COUNTERS)}) "
    "SELECT node_id, subcloud_id, minute - minute % :longer, CAST(:longer AS BIGINT), gateway_id, "
    f"gateway_account, related, {_SUMS} FROM ledger_conduct "
    "WHERE span = :span AND minute < :before "
    "GROUP BY node_id, subcloud_id, minute - minute % :longer, gateway_id, gateway_account, "
    "related "
    "ON CONFLICT (node_id, subcloud_id, minute, span, gateway_id, gateway_account, related) "
    f"DO UPDATE SET {_ADDED}"
)
