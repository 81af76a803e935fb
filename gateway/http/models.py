"""Owns `GET /v1/models`, `GET /v1/models/{name}` and `GET /v1/account/balance`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.backend import Backend
from gateway.errors import ModelUnknownError
from gateway.http.requests import api_key_of
from gateway.jobs import ModelCard
from p2p.limits import NAME_CHARACTERS_MAX


def _card(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created_s,
        "owned_by": "resultity",
        "context_length": card.context_tokens,
        "resultity": {"verified": card.verified, "tasks": list(card.tasks)},
    }


class ModelEndpoints:
    """What a key's owner can look up."""

    def __init__(self, backend: Backend) -> None:
        """Ask this backend."""
        self._backend = backend

    async def list(self, request: Request) -> Response:
        """All models that can be used now; with `?subcloud=NAME`, those of that subcloud."""
        subcloud = request.query_params.get("subcloud", "")[:NAME_CHARACTERS_MAX]
        cards = await self._backend.models(api_key_of(request), subcloud)
        return JSONResponse({"object": "list", "data": [_card(card) for card in cards]})

    async def get(self, request: Request) -> Response:
        """One model. Raises: ModelUnknownError."""
        name = request.path_params["name"]
        subcloud = name.rpartition("@")[2] if "@" in name else ""
        cards = await self._backend.models(api_key_of(request), subcloud)
        for card in cards:
            if card.name == name:
                return JSONResponse(_card(card))
        names = ", ".join(card.name for card in cards) or "none"
        raise ModelUnknownError(
            f"The model `{name[:100]}` does not exist. Available models: {names}.", param="model"
        )

    async def balance(self, request: Request) -> Response:
        """The balance of the key's namespace, in microcredits."""
        balance = await self._backend.balance(api_key_of(request))
        return JSONResponse(
            {
                "account_id": balance.account_id,
                "namespace": balance.namespace,
                "available_microcredits": balance.available,
                "held_microcredits": balance.held,
                "spent_microcredits": balance.spent,
                "granted_microcredits": balance.granted,
            }
        )
