"""Owns the forms in which usage leaves the system: rows for JSON, and CSV. Pure.

Both have the same columns (docs/reference/usage.md). Amounts are exact: microcredits are integers,
and `credits` is text with six decimals.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterable
from typing import Any

from p2p.errors import UntrustedError
from p2p.usage_messages import DAY_MAX, UsageReport, UsageRequest, UsageRow

_EPOCH = datetime.date(1970, 1, 1)
COLUMNS = (
    "date",
    "namespace",
    "key_id",
    "model",
    "requests",
    "completed",
    "client_left",
    "failed",
    "input_tokens",
    "output_tokens",
    "charged_microcredits",
    "credits",
    "duration_ms_total",
    "duration_ms_mean",
    "credited_microcredits",
)


def date_of(day: int) -> str:
    """Show a day number as a date, YYYY-MM-DD."""
    return (_EPOCH + datetime.timedelta(days=day)).isoformat()


def day_of_date(text: str) -> int:
    """Read a date YYYY-MM-DD as a day number. Raises: ValueError."""
    # strptime, because fromisoformat also takes other forms.
    day = (datetime.datetime.strptime(text, "%Y-%m-%d").date() - _EPOCH).days
    if not 0 <= day <= DAY_MAX:
        raise ValueError(f"{text} is before 1970")
    return day


def as_record(namespace: str, row: UsageRow) -> dict[str, Any]:
    """Give a row as JSON has it. The mean is over charged requests, rounded down."""
    whole, part = divmod(row.charged, 10**6)
    values = (
        date_of(row.day),
        namespace,
        row.key_id,
        row.model,
        row.requests,
        row.requests - row.client_left - row.failed,
        row.client_left,
        row.failed,
        row.input_tokens,
        row.output_tokens,
        row.charged,
        f"{whole}.{part:06d}",
        row.duration_ms,
        row.duration_ms // row.captured if row.captured else 0,
        row.credited,
    )
    return dict(zip(COLUMNS, values, strict=True))


def as_csv(namespace: str, rows: Iterable[UsageRow]) -> str:
    """Give rows as CSV (RFC 4180) with a line of column names."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(as_record(namespace, row) for row in rows)
    return text.getvalue()


def totals(rows: Iterable[UsageRow]) -> dict[str, int]:
    """Add rows up."""
    names = ("requests", "failed", "input_tokens", "output_tokens", "charged", "credited")
    found = dict.fromkeys(names, 0)
    for row in rows:
        for name in names:
            found[name] += getattr(row, name)
    for name in ("charged", "credited"):
        found[f"{name}_microcredits"] = found.pop(name)
    return found


def check_usage(request: UsageRequest, report: UsageReport) -> UsageReport:
    """Check that an answer is of what was asked for, nothing twice, and days in order.

    (Keys and models of one day come in the order of the database's collation.)

    Raises: UntrustedError.
    """
    day = max(request.first_day, request.after_day)
    seen = {(request.after_day, request.after_key_id, request.after_model)}
    for row in report.rows:
        here = (row.day, row.key_id, row.model)
        if not day <= row.day <= request.last_day or request.key_id not in ("", row.key_id):
            raise UntrustedError("the ledger answered with usage that nobody asked for")
        if here in seen:
            raise UntrustedError("the ledger answered with usage that is counted twice")
        seen.add(here)
        day = row.day
    if report.more and not report.rows:
        raise UntrustedError("the ledger answered with a page of nothing")
    return report
