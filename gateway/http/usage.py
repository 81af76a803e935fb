"""Owns `GET /v1/account/usage`: what an API key did, day by day, as JSON or CSV.

A key sees its own usage only; the owner of the account sees all keys (`resultity usage`).
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.backend import Backend
from gateway.errors import InvalidRequestError
from gateway.http.requests import api_key_of
from ledger.usage import day_of
from ledger.usage_export import as_csv, as_record, date_of, day_of_date, totals

DAYS_DEFAULT = 30
_FORMATS = ("json", "csv")


class UsageEndpoint:
    """What a key's owner can look up of its past."""

    def __init__(self, backend: Backend) -> None:
        """Ask this backend."""
        self._backend = backend

    async def get(self, request: Request) -> Response:
        """`?from=YYYY-MM-DD&to=YYYY-MM-DD&format=json|csv`, the last 30 days if not given.

        Raises: InvalidRequestError naming the parameter.
        """
        key = api_key_of(request)
        form = request.query_params.get("format", "json")
        if form not in _FORMATS:
            raise InvalidRequestError("`format` is json or csv.", param="format")
        last_day = _day(request, "to", day_of(int(time.time() * 1000)))
        first_day = _day(request, "from", max(0, last_day - DAYS_DEFAULT + 1))
        if first_day > last_day:
            raise InvalidRequestError("`from` is after `to`.", param="from")
        usage = await self._backend.usage(key, first_day, last_day)
        first, last = date_of(first_day), date_of(last_day)
        if form == "csv":
            name = f"usage-{key.key_id}-{first}-{last}.csv"
            return Response(
                as_csv(usage.namespace, usage.rows),
                headers={"content-disposition": f'attachment; filename="{name}"'},
                media_type="text/csv",
            )
        return JSONResponse(
            {
                "object": "list",
                "from": first,
                "to": last,
                "data": [as_record(usage.namespace, row) for row in usage.rows],
                "totals": totals(usage.rows),
            }
        )


def _day(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        return day_of_date(text)
    except ValueError as error:
        raise InvalidRequestError(f"`{name}` is a date like 2026-01-31.", param=name) from error
