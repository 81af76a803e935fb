"""Owns the HTTP side of payments: `POST /webhooks/<provider>`, answered 200 when it is granted.

The handlers are plain functions, which the framework runs in its threads: they wait for the ledger
without an event loop of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import anyio
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from resultity.payments.errors import (
    BodyTooLargeError,
    MalformedEventError,
    PaymentError,
    ProviderUnknownError,
)
from resultity.payments.granting import Granter
from resultity.payments.limits import BODY_BYTES_MAX, BODY_TIMEOUT_S
from resultity.payments.port import PaymentProvider

log = logging.getLogger(__name__)


def make_app(
    providers: Iterable[PaymentProvider], granter: Granter, clock_s: Callable[[], int]
) -> FastAPI:
    """Make the application; `clock_s` gives seconds since 1970."""
    by_name = {provider.name: provider for provider in providers}
    app = FastAPI(title="Resultity payments", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(PaymentError, _refusal)

    def health() -> dict[str, str]:
        return {"status": "ok"}

    def webhook(provider: str, request: Request, body: bytes = Depends(read_body)) -> Response:
        found = by_name.get(provider)
        if found is None:
            raise ProviderUnknownError("there is no such payment provider here")
        payment = found.verify(request.headers, body, clock_s())
        if payment is None:
            return Response(status_code=204)
        granted = granter.grant(payment)
        return JSONResponse(
            {
                "status": "exists" if granted.exists else "granted",
                "grant_id": payment.grant_id.hex(),
                "amount_microcredits": payment.amount,
            }
        )

    app.get("/healthz")(health)
    app.post("/webhooks/{provider}", response_model=None)(webhook)
    return app


async def read_body(request: Request) -> bytes:
    """Read a body within its bounds. Raises: BodyTooLargeError, MalformedEventError."""
    parts: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > BODY_BYTES_MAX:
                    raise BodyTooLargeError(f"an event has at most {BODY_BYTES_MAX} bytes")
                parts.append(part)
    except TimeoutError:
        message = f"the body did not arrive within {BODY_TIMEOUT_S:g} seconds"
        raise MalformedEventError(message) from None
    except ClientDisconnect:
        raise MalformedEventError("the body broke off") from None
    return b"".join(parts)


def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, PaymentError)
    log.warning("webhook %s: %s: %s", request.url.path[:100], error.code, error)
    content: dict[str, Any] = {
        "message": str(error),
        "type": "payment_refusal",
        "param": None,
        "code": error.code,
    }
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    return JSONResponse({"error": content}, error.status, headers)
