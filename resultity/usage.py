"""Owns how the command line gets usage: as an API key's holder, or as an account's owner."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

from ledger.usage_export import as_record, check_usage, date_of, day_of_date
from p2p.account_file import AccountKeys
from p2p.codec import Message
from p2p.errors import P2PError
from p2p.types import NetworkId
from p2p.usage_messages import UsageReport, UsageRequest, UsageRow
from resultity.errors import GatewayCallError, SettingsError
from resultity.http_json import gateway_root, get_json
from resultity.targets import Target

M = TypeVar("M", bound=Message)
PAGES_MAX = 40
"""A gateway's courier takes a burst of 40 documents; these are 80,000 rows."""


class Carrier(Protocol):
    """Brings documents to the ledger (`resultity.courier.Courier`)."""

    def send(self, what: str, document: Message, answer: type[M]) -> M:
        """Send a document, give the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Days:
    """The days that are asked for, both included."""

    first: int
    last: int


def parse_days(first: str | None, last: str | None, today: datetime.date) -> Days:
    """Read --from and --to (YYYY-MM-DD); without them the last 30 days. Raises: SettingsError."""
    try:
        last_day = day_of_date(last or today.isoformat())
        first_day = day_of_date(first) if first else max(0, last_day - 29)
    except ValueError as error:
        raise SettingsError(f"a day is written like 2026-01-31: {error}") from error
    if first_day > last_day:
        raise SettingsError(f"--from {date_of(first_day)} is after --to {date_of(last_day)}")
    return Days(first_day, last_day)


def usage_as_owner(
    carrier: Carrier,
    keys: AccountKeys,
    network: NetworkId,
    namespace: str,
    days: Days,
    clock_ms: Callable[[], int],
) -> list[UsageRow]:
    """Get the usage of every API key of a namespace. Raises: GatewayCallError."""
    rows: list[UsageRow] = []
    for _ in range(PAGES_MAX):
        place = (rows[-1].day, rows[-1].key_id, rows[-1].model) if rows else (0, "", "")
        request = UsageRequest(
            keys.account_id,
            namespace,
            days.first,
            days.last,
            os.urandom(16),
            clock_ms(),
            "",
            b"",
            *place,
        )
        signed = keys.signing.sign(network, request)
        try:
            report = check_usage(request, carrier.send("usage", signed, UsageReport))
        except P2PError as error:
            raise GatewayCallError(f"the ledger's answer is not acceptable: {error}") from error
        rows += report.rows
        if not report.more:
            return rows
    raise GatewayCallError(f"this is more than {len(rows)} rows: ask for fewer days")


def records_as_owner(namespace: str, rows: list[UsageRow]) -> list[dict[str, Any]]:
    """Give rows as JSON has them."""
    return [as_record(namespace, row) for row in rows]


def records_of_key(target: Target, days: Days) -> list[dict[str, Any]]:
    """Get the usage of one API key from a gateway's API. Raises: GatewayCallError."""
    query = urlencode({"from": date_of(days.first), "to": date_of(days.last)})
    url = f"{gateway_root(target.base_url)}/v1/account/usage?{query}"
    answer = get_json(url, api_key=target.api_key)
    try:
        records = answer["data"]
        if not all(isinstance(record, dict) for record in records):
            raise TypeError
    except (KeyError, TypeError) as error:
        raise GatewayCallError("the gateway's answer has no usage: is it a gateway?") from error
    return list(records)
