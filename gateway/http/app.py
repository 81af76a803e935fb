"""Owns the FastAPI application: its routes and how errors leave it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.backend import Backend
from gateway.errors import GatewayError
from gateway.http.chat import ChatEndpoint
from gateway.http.embeddings import EmbeddingsEndpoint
from gateway.http.errors import on_exception, on_gateway_error, on_http_exception
from gateway.http.ledger_courier import LedgerCourier
from gateway.http.models import ModelEndpoints
from gateway.http.status import StatusEndpoints
from gateway.http.subclouds import SubcloudEndpoints
from gateway.http.usage import UsageEndpoint

CHAT_PATH = "/v1/chat/completions"


class FrontDoor:
    """Sends chat requests straight to their endpoint, everything else through FastAPI.

    The framework's middlewares and routing cost as much as parsing the request.
    """

    def __init__(self, app: FastAPI, chat: ChatEndpoint) -> None:
        self._app = app
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] == CHAT_PATH and scope["method"] == "POST":
            await self._chat(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def make_app(backend: Backend) -> FrontDoor:
    """Make the application. CORS is off; there is no interactive documentation page."""
    chat = ChatEndpoint(backend)
    app = FastAPI(title="Resultity gateway", docs_url=None, redoc_url=None, openapi_url=None)
    models, status = ModelEndpoints(backend), StatusEndpoints(backend)
    courier = LedgerCourier(backend)
    # Plain Starlette routes: FastAPI's own dependency solving costs more than the endpoint.
    app.router.routes.extend(
        [
            Route(CHAT_PATH, chat, methods=["POST"]),
            Route("/v1/embeddings", EmbeddingsEndpoint(backend), methods=["POST"]),
            Route("/v1/models", models.list, methods=["GET"]),
            Route("/v1/models/{name:path}", models.get, methods=["GET"]),
            Route("/v1/account/balance", models.balance, methods=["GET"]),
            Route("/v1/account/usage", UsageEndpoint(backend).get, methods=["GET"]),
            Route("/healthz", status.health, methods=["GET"]),
            Route("/status/peers", status.peers, methods=["GET"]),
            Route("/status/models", status.models, methods=["GET"]),
            Route("/status/network", status.network, methods=["GET"]),
            Route("/status/subclouds", status.subclouds, methods=["GET"]),
            Route("/status/subclouds/{name}", status.subcloud, methods=["GET"]),
            Route("/status/log", status.log, methods=["GET"]),
            Route("/resultity/v1/network", status.verification, methods=["GET"]),
            Route("/resultity/v1/ledger/{kind}", courier.carry, methods=["POST"]),
            *SubcloudEndpoints(backend).routes(),
        ]
    )
    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_exception)
    return FrontDoor(app, chat)
