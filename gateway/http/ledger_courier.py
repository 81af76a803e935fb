"""Owns the courier: documents signed by account owners and mint keys travel to the ledger through
a gateway.

The gateway checks nothing but size and rate: the document's own signature is what counts at the
ledger."""

from __future__ import annotations

import base64
import binascii
import json
import math
import time
from collections import OrderedDict

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway.backend import Backend
from gateway.errors import InvalidRequestError, RateLimitError, RouteUnknownError
from gateway.http.requests import read_body
from gateway.limits import (
    COURIER_BODY_BYTES_MAX,
    COURIER_BURST,
    COURIER_CLIENTS_MAX,
    COURIER_RATE_PER_S,
)
from ledger import methods
from p2p.token_bucket import TokenBucket

_METHODS = {
    "operation": methods.OPERATION,
    "statement": methods.STATEMENT,
    "earnings": methods.EARNINGS,
    "account": methods.ACCOUNT,
    "keys": methods.KEYS,
    "usage": methods.USAGE,
    "rcp": methods.RCP,
    "inclusion": methods.LOG_INCLUSION,
    "consistency": methods.LOG_CONSISTENCY,
    "dispute": methods.DISPUTE_OPEN,
    "disputes": methods.DISPUTES,
}
_STATUS = {
    "not_authorized": 403,
    "invite_refused": 403,
    "rate_limited": 429,
    "opening_limit": 429,
    "grant_cap": 429,
    "ledger_busy": 503,
    "ledger_storage": 503,
}


class LedgerCourier:
    """`POST /resultity/v1/ledger/{kind}`, for the kinds in `_METHODS`."""

    def __init__(self, backend: Backend) -> None:
        """Carry through this backend."""
        self._backend = backend
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    async def carry(self, request: Request) -> Response:
        """Carry one document: `{"signed": base64}` -> `{"result": base64}`."""
        method = _METHODS.get(request.path_params["kind"])
        if method is None:
            raise RouteUnknownError(f"There is no {request.url.path[:100]}.")
        client = request.client.host if request.client is not None else ""
        self._limit(client)
        try:
            signed = _signed_of(await read_body(request, COURIER_BODY_BYTES_MAX))
        except ClientDisconnect:
            return Response(status_code=400)
        answer = await self._backend.carry(method, signed, client)
        if not answer.code:
            return JSONResponse({"result": base64.b64encode(answer.result).decode()})
        error = {
            "message": answer.message,
            "type": "ledger_refusal",
            "param": None,
            "code": answer.code,
        }
        headers = {}
        if answer.retry_after_s is not None:
            headers["Retry-After"] = str(math.ceil(answer.retry_after_s))
        return JSONResponse({"error": error}, _STATUS.get(answer.code, 400), headers)

    def _limit(self, client: str) -> None:
        now_s = time.monotonic()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket(COURIER_RATE_PER_S, COURIER_BURST, now_s)
            if len(self._buckets) > COURIER_CLIENTS_MAX:
                self._buckets.popitem(last=False)
        if not bucket.take(now_s):
            raise RateLimitError(
                "Too many ledger requests from this address.", retry_after_s=bucket.wait_s()
            )


def _signed_of(body: bytes) -> bytes:
    try:
        text = json.loads(body)["signed"]
        return base64.b64decode(text, validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidRequestError(
            "The body must be a JSON object with a base64 text under `signed`.", param="signed"
        ) from error
