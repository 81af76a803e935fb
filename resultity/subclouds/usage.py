"""Owns how the owner of a subcloud gets what happened in it, and in which form it leaves."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from ledger.usage_export import date_of
from p2p.clock import system_clock_ms
from p2p.codec import Message
from p2p.signing import KeyPair
from p2p.subcloud_usage_messages import (
    BY_MODEL,
    SubcloudUsageReport,
    SubcloudUsageRequest,
    SubcloudUsageRow,
)
from p2p.types import NetworkId
from resultity.errors import GatewayCallError

M = TypeVar("M", bound=Message)
PAGES_MAX = 40
"""A gateway's courier takes a burst of 40 documents; these are 80,000 rows."""
COLUMNS = (
    "date",
    "model",
    "member",
    "jobs",
    "captured",
    "client_left",
    "failed",
    "input_tokens",
    "output_tokens",
    "charged",
    "duration_ms",
    "credited",
    "income",
    "earned",
    "consumers",
)


class Carrier(Protocol):
    """Brings documents to the ledger (`resultity.courier.Courier`)."""

    def send(self, what: str, document: Message, answer: type[M]) -> M:
        """Send a document, give the answer."""
        ...


def subcloud_usage(
    carrier: Carrier,
    network: NetworkId,
    signer: KeyPair,
    subcloud_id: str,
    first_day: int,
    last_day: int,
    *,
    by: str = BY_MODEL,
    clock_ms: Callable[[], int] = system_clock_ms,
) -> list[SubcloudUsageRow]:
    """Get what happened in a subcloud, day by day, by model or by member.

    Args: signer: a key of the owner's account, or a delegate's.
    Raises: GatewayCallError (code `unknown_subcloud`, `not_authorized`, ...).
    """
    rows: list[SubcloudUsageRow] = []
    for _ in range(PAGES_MAX):
        nonce = os.urandom(16)
        request = SubcloudUsageRequest(
            subcloud_id, first_day, last_day, by, nonce, clock_ms(), len(rows)
        )
        signed = signer.sign(network, request)
        report = carrier.send("subcloud_usage", signed, SubcloudUsageReport)
        if any(not first_day <= row.day <= last_day for row in report.rows):
            raise GatewayCallError("the ledger answered with usage that nobody asked for")
        rows += report.rows
        if not report.more:
            return rows
        if not report.rows:
            raise GatewayCallError("the ledger answered with a page of nothing")
    raise GatewayCallError(f"this is more than {len(rows)} rows: ask for fewer days")


def row_as_record(row: SubcloudUsageRow) -> dict[str, Any]:
    """Give a row as JSON has it (docs/reference/usage.md); amounts are microcredits."""
    return {name: date_of(row.day) if name == "date" else getattr(row, name) for name in COLUMNS}


def as_csv(rows: Iterable[SubcloudUsageRow]) -> str:
    """Give rows as CSV (RFC 4180) with a line of column names."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(row_as_record(row) for row in rows)
    return text.getvalue()


def as_json_lines(rows: Iterable[SubcloudUsageRow]) -> str:
    """Give rows as JSON, one in each line."""
    return "".join(json.dumps(row_as_record(row)) + "\n" for row in rows)
