"""Owns the public pages: `/healthz`, `/status/...` and `/resultity/v1/network`, each computed
once a second at most."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.backend import Backend
from gateway.errors import SubcloudUnknownError
from gateway.limits import STATUS_CACHE_S, SUBCLOUD_PAGES_CACHED_MAX
from gateway.peer.snapshots import Snapshots
from p2p.limits import NAME_CHARACTERS_MAX


class StatusEndpoints:
    """What anybody can see."""

    def __init__(self, backend: Backend) -> None:
        """Ask this backend."""
        self._backend = backend
        self._cache: dict[str, tuple[float, dict[str, Any]]] = {}
        self._subclouds: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    async def _page(self, name: str, make: Callable[[Snapshots], dict[str, Any]]) -> dict[str, Any]:
        made_s, content = self._cache.get(name, (0.0, {}))
        if not content or time.monotonic() - made_s > STATUS_CACHE_S:
            content = await self._backend.snapshot(make)
            self._cache[name] = (time.monotonic(), content)
        return content

    async def health(self, request: Request) -> Response:
        """200 if this gateway can serve, 503 while it starts. Never cached."""
        content = await self._backend.snapshot(Snapshots.health)
        return JSONResponse(content, 200 if content["status"] == "ok" else 503)

    async def peers(self, request: Request) -> Response:
        """All peers."""
        return JSONResponse(await self._page("peers", Snapshots.peers))

    async def models(self, request: Request) -> Response:
        """All approved models."""
        return JSONResponse(await self._page("models", Snapshots.models))

    async def network(self, request: Request) -> Response:
        """The network and this gateway."""
        return JSONResponse(await self._page("network", Snapshots.network))

    async def subclouds(self, request: Request) -> Response:
        """The subclouds that this gateway knows."""
        return JSONResponse(await self._page("subclouds", Snapshots.subcloud_list))

    async def subcloud(self, request: Request) -> Response:
        """One subcloud: its policy's digest, who qualifies in numbers, refusals by reason."""
        name = request.path_params["name"][:NAME_CHARACTERS_MAX]
        made_s, content = self._subclouds.get(name, (0.0, {}))
        if time.monotonic() - made_s > STATUS_CACHE_S:
            content = await self._backend.subcloud(name)
            self._subclouds[name] = (time.monotonic(), content)
            if len(self._subclouds) > SUBCLOUD_PAGES_CACHED_MAX:
                self._subclouds.popitem(last=False)
        if not content:
            raise SubcloudUnknownError(f"This gateway knows no subcloud `{name}`.")
        return JSONResponse(content)

    async def log(self, request: Request) -> Response:
        """The newest checkpoint of the ledger's log, and every alarm about it."""
        return JSONResponse(await self._page("log", Snapshots.log))

    async def verification(self, request: Request) -> Response:
        """What is needed to verify receipts."""
        return JSONResponse(await self._page("verification", Snapshots.verification))
