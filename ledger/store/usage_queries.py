"""Owns reading usage."""

from __future__ import annotations

from sqlalchemy import Connection, select, tuple_

from ledger.store.usage_tables import USAGE
from p2p.usage_messages import USAGE_ROWS_MAX, UsageReport, UsageRequest, UsageRow

Place = tuple[int, str, str]
"""Day, API key and model: where a page of rows ended."""
START: Place = (0, "", "")


def usage_rows(
    connection: Connection,
    path: str,
    first_day: int,
    last_day: int,
    *,
    key_id: str = "",
    after: Place = START,
    count_max: int,
) -> list[UsageRow]:
    """Read a namespace's usage by day, key and model, in this order.

    Args:
        last_day: included.
        key_id: only this API key's, if given.
    """
    columns = [column for column in USAGE.c if column.name != "namespace"]
    statement = (
        select(*columns)
        .where(USAGE.c.namespace == path, USAGE.c.day.between(first_day, last_day))
        .where(tuple_(USAGE.c.day, USAGE.c.key_id, USAGE.c.model) > after)
        .order_by(USAGE.c.day, USAGE.c.key_id, USAGE.c.model)
        .limit(count_max)
    )
    if key_id:
        statement = statement.where(USAGE.c.key_id == key_id)
    return [UsageRow(*row) for row in connection.execute(statement)]


def usage_report(connection: Connection, path: str, request: UsageRequest) -> UsageReport:
    """Answer a request that was checked: one page of a namespace's usage."""
    rows = usage_rows(
        connection,
        path,
        request.first_day,
        request.last_day,
        key_id=request.key_id,
        after=(request.after_day, request.after_key_id, request.after_model),
        count_max=USAGE_ROWS_MAX + 1,
    )
    return UsageReport(tuple(rows[:USAGE_ROWS_MAX]), len(rows) > USAGE_ROWS_MAX)
