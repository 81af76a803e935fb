"""Owns the memory that the models of one node share."""

from __future__ import annotations

from typing import Protocol

from node.errors import NodeError
from node.serving.memory import Loaded, choose_victims


class MemoryFullError(NodeError):
    """The models that have jobs leave no memory for another one: try later."""


class MemoryTooSmallError(NodeError):
    """One model alone takes more than all may: it is the operator's limit that has to change."""


class Lodger(Protocol):
    """A model that may be in memory."""

    def loaded(self) -> Loaded | None:
        """What it takes now, from the moment when it was let in; None if nothing."""
        ...

    async def unload(self) -> None:
        """Leave; returns when the memory is free. It has no jobs when this is called."""
        ...


class Room:
    """Lets models into the memory, and has others leave for that."""

    def __init__(self, bytes_max: int | None) -> None:
        """None: no limit (one model alone is its operator's choice)."""
        self.bytes_max = bytes_max
        self._lodgers: list[Lodger] = []

    def join(self, lodger: Lodger) -> None:
        """From now on this one may leave for others."""
        self._lodgers.append(lodger)

    def leave(self, lodger: Lodger) -> None:
        """It is gone for good."""
        self._lodgers.remove(lodger)

    @property
    def used_bytes(self) -> int:
        """What all loaded models take."""
        return sum(found.memory_bytes for _, found in self._loaded())

    def is_free(self, needed_bytes: int) -> bool:
        """Whether so much is free without anybody leaving."""
        return self.bytes_max is None or self.used_bytes + needed_bytes <= self.bytes_max

    async def make(self, needed_bytes: int, *, gently: bool = False) -> None:
        """Have others leave until there is room; `gently`: only if nobody has to.

        Raises: MemoryFullError, MemoryTooSmallError (and nobody leaves).

        The caller counts as loaded as soon as this returns, before anything else happens.
        """
        if self.bytes_max is not None and needed_bytes > self.bytes_max:
            raise MemoryTooSmallError(
                f"it takes about {_gb(needed_bytes)} of memory, but all models together may take "
                f"{_gb(self.bytes_max)}: raise memory_bytes_max, or set fewer slots or a smaller "
                "context_tokens"
            )
        while not self.is_free(needed_bytes):
            assert self.bytes_max is not None
            loaded = self._loaded()
            victims = choose_victims([found for _, found in loaded], needed_bytes, self.bytes_max)
            if gently or victims is None:
                raise MemoryFullError(
                    f"it takes about {_gb(needed_bytes)} of memory; of {_gb(self.bytes_max)} "
                    f"models with jobs have {_gb(self._busy_bytes())}, others "
                    f"{_gb(self.used_bytes - self._busy_bytes())}"
                )
            await next(lodger for lodger, found in loaded if found.digest == victims[0]).unload()

    def _loaded(self) -> list[tuple[Lodger, Loaded]]:
        found = ((lodger, lodger.loaded()) for lodger in self._lodgers)
        return [(lodger, loaded) for lodger, loaded in found if loaded is not None]

    def _busy_bytes(self) -> int:
        return sum(found.memory_bytes for _, found in self._loaded() if found.jobs)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"
