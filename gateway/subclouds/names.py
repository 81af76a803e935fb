"""Owns what a name of a subcloud means at this gateway: an ID, a label, or nothing.

An ID works by itself. A label is the network's: what the authority assigned, else what a registry
at the bootstraps says, which is remembered (`p2p.subclouds.sync`), so that names that are in use
cost no call and serve on while no bootstrap answers. What nobody knows is remembered for a moment,
and only so many names are asked for at once: guessing names does not reach the bootstrap.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from gateway.errors import SubcloudClosedError, SubcloudUnavailableError, SubcloudUnknownError
from gateway.limits import (
    NAME_LOOKUPS_MAX,
    NAME_MISSING_CACHE_S,
    NAMES_CACHED_MAX,
    RETRY_AFTER_S,
)
from p2p.errors import P2PError, RefusedError
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.index import GLOBAL_POOL
from p2p.subclouds.records import KnownPolicy

GLOBAL_NAME = "global"
"""Reserved: it names the global pool where a key has another default."""
HOW_TO_NAME = (
    'Name one by its label or its ID: "model": "<model>@<label>", or "resultity": {"subcloud": '
    '"<label>-<32 hex digits>"} in the body (extra_body in OpenAI\'s clients).'
)


class NameSource(Protocol):
    """Whoever knows what names mean (`p2p.subclouds.sync.SubcloudSync`)."""

    def resolve(self, name: str) -> SubcloudId | None:
        """Say what a name means as far as is known here."""
        ...


Fetch = Callable[[str], Awaitable[KnownPolicy]]
"""Asks the network for a subcloud by its name. Raises: P2PError."""


class Names:
    """Resolves names of subclouds."""

    def __init__(self, source: NameSource, fetch: Fetch, *, now_s: Callable[[], float]) -> None:
        """Ask `source`, then `fetch`; `now_s` is monotonic."""
        self._source = source
        self._fetch = fetch
        self._now_s = now_s
        self._missing: OrderedDict[str, float] = OrderedDict()
        self._turn = trio.CapacityLimiter(NAME_LOOKUPS_MAX)

    def known(self, name: str) -> SubcloudId | None:
        """What a name means, if that can be said at once."""
        return GLOBAL_POOL if name == GLOBAL_NAME else self._source.resolve(name)

    async def resolve(self, name: str) -> SubcloudId:
        """Say which subcloud a name means; empty for the global pool.

        Raises: SubcloudUnknownError, SubcloudClosedError (banned), SubcloudUnavailableError.
        """
        identity = self.known(name)
        return identity if identity is not None else (await self.fetch(name)).identity

    async def fetch(self, name: str) -> KnownPolicy:
        """Ask the network for a subcloud. Raises: as `resolve`."""
        unknown = SubcloudUnknownError(
            f"There is no subcloud `{name[:NAME_CHARACTERS_MAX]}` in this network. {HOW_TO_NAME}",
            param="model",
        )
        if self._missing.get(name, 0.0) > self._now_s() or len(name) > NAME_CHARACTERS_MAX:
            raise unknown
        try:
            async with self._turn:
                return await self._fetch(name)
        except RefusedError as error:
            if error.code == "subcloud_banned":
                raise SubcloudClosedError(f"{error}.") from error
            self._missing[name] = self._now_s() + NAME_MISSING_CACHE_S
            if len(self._missing) > NAMES_CACHED_MAX:
                self._missing.popitem(last=False)
            raise unknown from error
        except P2PError as error:
            raise SubcloudUnavailableError(
                f"The subcloud `{name}` is not known at this gateway, and nobody who may know it "
                "answers at the moment.",
                retry_after_s=RETRY_AFTER_S,
            ) from error
