"""Owns the port through which HTTP sees what this gateway knows of subclouds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.records import KnownPolicy
from p2p.types import PeerId


class SubcloudView(Protocol):
    """What this gateway knows of subclouds (its methods are called in the HTTP thread)."""

    async def known(self, name: str) -> KnownPolicy | None:
        """The policy in force, by ID or registered label."""
        ...

    async def members(self, identity: SubcloudId) -> dict[str, Any]:
        """Members with verdicts, load and refusals (docs/reference/http-api.md has the fields)."""
        ...

    async def candidates(self, identity: SubcloudId, peer_ids: Sequence[PeerId]) -> dict[str, Any]:
        """How nodes would do as members, by peer ID."""
        ...


class NoSubclouds:
    """The view of a gateway that knows none."""

    async def known(self, name: str) -> KnownPolicy | None:
        """Nothing."""
        return None

    async def members(self, identity: SubcloudId) -> dict[str, Any]:
        """Nobody."""
        return {"members": [], "refusals": {}}

    async def candidates(self, identity: SubcloudId, peer_ids: Sequence[PeerId]) -> dict[str, Any]:
        """Nobody."""
        return {}
