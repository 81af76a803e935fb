"""Owns reading what happened in a subcloud, for its owner."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from ledger.store.conduct_tables import SUBCLOUD_USAGE, SUBCLOUD_WORK
from ledger.usage import SUBCLOUD_COUNTS
from p2p.subcloud_usage_messages import (
    BY_MEMBER,
    SUBCLOUD_USAGE_ROWS_MAX,
    SubcloudUsageReport,
    SubcloudUsageRequest,
    SubcloudUsageRow,
)


def subcloud_report(
    connection: Connection,
    request: SubcloudUsageRequest,
    rows_max: int = SUBCLOUD_USAGE_ROWS_MAX,
) -> SubcloudUsageReport:
    """Answer a request that was checked: one page of a subcloud's usage."""
    of = _members if request.by == BY_MEMBER else _models
    rows = of(connection, request, rows_max + 1)
    usage = SUBCLOUD_USAGE.c
    consumers = connection.execute(
        select(func.count(usage.namespace.distinct())).where(
            usage.subcloud_id == request.subcloud_id,
            usage.day.between(request.first_day, request.last_day),
        )
    ).scalar_one()
    return SubcloudUsageReport(tuple(rows[:rows_max]), len(rows) > rows_max, int(consumers))


def _models(
    connection: Connection, request: SubcloudUsageRequest, count: int
) -> list[SubcloudUsageRow]:
    of = SUBCLOUD_USAGE.c
    sums = [func.sum(of[name]) for name in SUBCLOUD_COUNTS]
    statement = (
        select(of.day, of.model, func.count(of.namespace.distinct()), *sums)
        .where(of.subcloud_id == request.subcloud_id)
        .where(of.day.between(request.first_day, request.last_day))
        .group_by(of.day, of.model)
        .order_by(of.day, of.model)
        .offset(request.after)
        .limit(count)
    )
    found = []
    for day, model, consumers, *values in connection.execute(statement):
        counts = dict(zip(SUBCLOUD_COUNTS, map(int, values), strict=True))
        jobs = counts.pop("requests")
        found.append(SubcloudUsageRow(day, model, "", jobs=jobs, consumers=consumers, **counts))
    return found


def _members(
    connection: Connection, request: SubcloudUsageRequest, count: int
) -> list[SubcloudUsageRow]:
    of = SUBCLOUD_WORK.c
    consumers = func.count(of.namespace.distinct())
    statement = (
        select(of.day, of.node_id, func.sum(of.legs), func.sum(of.earned), consumers)
        .where(of.subcloud_id == request.subcloud_id)
        .where(of.day.between(request.first_day, request.last_day))
        .group_by(of.day, of.node_id)
        .order_by(of.day, of.node_id)
        .offset(request.after)
        .limit(count)
    )
    return [
        SubcloudUsageRow(day, member=member, jobs=int(legs), earned=int(earned), consumers=paid_by)
        for day, member, legs, earned, paid_by in connection.execute(statement)
    ]
