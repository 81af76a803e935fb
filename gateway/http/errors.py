"""Owns how errors leave the gateway: always OpenAI's shape, whatever went wrong."""

from __future__ import annotations

import json
import logging
import math

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import (
    GatewayError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    RouteUnknownError,
)

log = logging.getLogger(__name__)
INTERNAL_TEXT = "An internal error; it was logged."


def error_response(error: GatewayError, request_id: str = "") -> Response:
    """The response for an error."""
    headers = {"x-request-id": request_id} if request_id else {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    content = json.dumps(error.body(), ensure_ascii=False).encode("utf-8", "replace")
    return Response(content, error.status, headers, "application/json")


def failure_response(error: Exception, request_id: str) -> Response:
    """The response for whatever ended a request before its answer began; our own bugs are logged
    with their trace."""
    if isinstance(error, GatewayError):
        return error_response(error, request_id)
    log.error("request %s failed", request_id, exc_info=error)
    return error_response(InternalError(INTERNAL_TEXT), request_id)


async def on_gateway_error(request: Request, error: Exception) -> Response:
    """Answer a GatewayError that an endpoint raised."""
    assert isinstance(error, GatewayError)
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: unknown URL, wrong method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        unknown = RouteUnknownError(
            f"Invalid URL ({request.method} {request.url.path[:200]}).", param=None
        )
        return error_response(unknown)
    if error.status_code == 405:
        refused = MethodNotAllowedError(
            f"Method {request.method} is not allowed for {request.url.path[:200]}."
        )
        response = error_response(refused)
        if error.headers and "Allow" in error.headers:
            response.headers["allow"] = error.headers["Allow"]
        return response
    if 400 <= error.status_code < 500:
        return error_response(InvalidRequestError(str(error.detail)))
    return error_response(InternalError(INTERNAL_TEXT))


async def on_exception(request: Request, error: Exception) -> Response:
    """Answer our own bug (the trace is logged by uvicorn as well)."""
    log.error("an endpoint failed", exc_info=error)
    return error_response(InternalError(INTERNAL_TEXT))
