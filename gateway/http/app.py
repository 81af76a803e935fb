"""Owns the FastAPI application: its routes and how errors leave it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route

from gateway.backend import Backend
from gateway.errors import GatewayError
from gateway.http.chat import ChatEndpoint
from gateway.http.errors import on_exception, on_gateway_error, on_http_exception
from gateway.http.ledger_courier import LedgerCourier
from gateway.http.models import ModelEndpoints
from gateway.http.status import StatusEndpoints


def make_app(backend: Backend) -> FastAPI:
    """Make the application. CORS is off; there is no interactive documentation page."""
    app = FastAPI(title="Resultity gateway", docs_url=None, redoc_url=None, openapi_url=None)
    models, status = ModelEndpoints(backend), StatusEndpoints(backend)
    courier = LedgerCourier(backend)
    # Plain Starlette routes: FastAPI's own dependency solving costs more than the endpoint.
    app.router.routes.extend(
        [
            Route("/v1/chat/completions", ChatEndpoint(backend), methods=["POST"]),
            Route("/v1/models", models.list, methods=["GET"]),
            Route("/v1/models/{name:path}", models.get, methods=["GET"]),
            Route("/v1/account/balance", models.balance, methods=["GET"]),
            Route("/healthz", status.health, methods=["GET"]),
            Route("/status/peers", status.peers, methods=["GET"]),
            Route("/status/models", status.models, methods=["GET"]),
            Route("/status/network", status.network, methods=["GET"]),
            Route("/resultity/v1/network", status.verification, methods=["GET"]),
            Route("/resultity/v1/ledger/{kind}", courier.carry, methods=["POST"]),
        ]
    )
    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_exception)
    return app
