"""Owns what a gateway counts for each subcloud: its jobs, and its refusals by reason. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from p2p.subclouds.identity import SubcloudId


@dataclass(slots=True)
class SubcloudCounts:
    """Since this gateway started. `refusals`: by the code that the client was told."""

    jobs: int = 0
    jobs_running: int = 0
    fallbacks: int = 0
    refusals: Counter[str] = field(default_factory=Counter)


class Tally:
    """Counts, by subcloud."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self._counts: dict[SubcloudId, SubcloudCounts] = {}

    def of(self, identity: SubcloudId) -> SubcloudCounts:
        """What was counted for a subcloud (one that is known: this keeps it)."""
        return self._counts.setdefault(identity, SubcloudCounts())

    def begun(self, identity: SubcloudId, *, fell_back: bool) -> None:
        """A job was admitted."""
        counts = self.of(identity)
        counts.jobs += 1
        counts.jobs_running += 1
        counts.fallbacks += fell_back

    def ended(self, identity: SubcloudId) -> None:
        """A job that was admitted is over."""
        self.of(identity).jobs_running -= 1

    def refused(self, identity: SubcloudId, code: str) -> None:
        """A request was refused."""
        self.of(identity).refusals[code] += 1
