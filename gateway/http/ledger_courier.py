"""Owns the courier: documents signed by account owners and mint keys travel to the ledger through
a gateway.

The gateway checks nothing but size and rate: the document's own signature is what counts at the
ledger."""

from __future__ import annotations

import base64
import binascii
import json
import math

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway.backend import Backend
from gateway.errors import InvalidRequestError, RouteUnknownError
from gateway.http.client_rates import ClientRates
from gateway.http.requests import read_body
from gateway.limits import COURIER_BODY_BYTES_MAX
from ledger import methods

_METHODS = {
    "operation": methods.OPERATION,
    "statement": methods.STATEMENT,
    "earnings": methods.EARNINGS,
    "account": methods.ACCOUNT,
    "keys": methods.KEYS,
    "usage": methods.USAGE,
    "subcloud_usage": methods.SUBCLOUD_USAGE,
    "rcp": methods.RCP,
    "inclusion": methods.LOG_INCLUSION,
    "consistency": methods.LOG_CONSISTENCY,
    "dispute": methods.DISPUTE_OPEN,
    "disputes": methods.DISPUTES,
}
_STATUS = {
    "not_authorized": 403,
    "unknown_subcloud": 404,
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
        self._rates = ClientRates("ledger requests")

    async def carry(self, request: Request) -> Response:
        """Carry one document: `{"signed": base64}` -> `{"result": base64}`."""
        method = _METHODS.get(request.path_params["kind"])
        if method is None:
            raise RouteUnknownError(f"There is no {request.url.path[:100]}.")
        client = self._rates.take(request)
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


def _signed_of(body: bytes) -> bytes:
    try:
        text = json.loads(body)["signed"]
        return base64.b64decode(text, validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidRequestError(
            "The body must be a JSON object with a base64 text under `signed`.", param="signed"
        ) from error
