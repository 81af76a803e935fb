"""Owns what a bootstrap counts of the nodes' uptime: minutes of each day. No I/O, no clock.

A minute counts for a node if it was alive at one look within it. A minute is looked at once, so a
clock that jumps back counts nothing twice; one that is set back by more than an hour is believed.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger.usage import DAY_MS
from p2p.types import AccountId, PeerId
from p2p.usage_messages import MINUTES_MAX, UPTIME_NODES_MAX, NodeUptime, UptimeRecord

MINUTE_MS = 60_000
MINUTES_BACK_MAX = 60


class UptimeCounter:
    """Minutes by day and node, until they are recorded and the day is over."""

    def __init__(self) -> None:
        """Start with nothing (see `restore`)."""
        self._days: dict[int, dict[str, NodeUptime]] = {}
        self._last_minute = -1

    def restore(self, records: Iterable[UptimeRecord]) -> None:
        """Go on from what was recorded before a restart."""
        for record in sorted(records, key=lambda record: (record.day, record.part)):
            day = self._days.setdefault(record.day, {})
            for node in record.nodes:
                day[node.peer_id] = node
            self._last_minute = max(self._last_minute, record.issued_ms // MINUTE_MS)

    def observe(self, now_ms: int, live: Iterable[tuple[PeerId, AccountId]]) -> None:
        """Count this minute for the nodes that are alive, if it was not counted yet."""
        minute = now_ms // MINUTE_MS
        if self._last_minute - MINUTES_BACK_MAX <= minute <= self._last_minute:
            return
        self._last_minute = minute
        day = self._days.setdefault(now_ms // DAY_MS, {})
        for peer_id, account_id in live:
            before = day.get(peer_id)
            minutes = 0 if before is None else before.minutes
            day[peer_id] = NodeUptime(peer_id, account_id, min(minutes + 1, MINUTES_MAX))

    def records(self, now_ms: int) -> list[UptimeRecord]:
        """Give everything that is to be recorded; days that are over come for the last time.

        Nodes are in the order in which they were first seen, so that a node stays in its part.
        """
        found = []
        for day, seen in sorted(self._days.items()):
            nodes = list(seen.values())
            for part, start in enumerate(range(0, len(nodes), UPTIME_NODES_MAX)):
                found.append(
                    UptimeRecord(day, part, tuple(nodes[start : start + UPTIME_NODES_MAX]), now_ms)
                )
        return found

    def forget(self, now_ms: int) -> None:
        """Drop the days that are over: they have been recorded."""
        today = now_ms // DAY_MS
        self._days = {day: seen for day, seen in self._days.items() if day >= today}
