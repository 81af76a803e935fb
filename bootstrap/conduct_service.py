"""Owns the answer to how nodes conducted themselves: counts of the ledger, signed.

Certified gateways and bootstraps may ask: the counts say which gateway worked with which node, and
how often, and nothing of who paid or what for. Uptime is the median of what the bootstraps saw (of
two the higher), out of the minutes that the node seen longest was there, so that a bootstrap's own
outage is nobody's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio

from bootstrap.ledger_checks import require_role
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.rcp import Days
from ledger.store.conduct_queries import conduct_rows, tidy_conduct
from ledger.store.rcp_queries import uptime_records
from ledger.usage import DAY_MS, day_of
from p2p.calls import Caller, CallHandler
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.conduct_messages import (
    CONDUCT_GET,
    UPTIME_DAYS_MAX,
    ConductQuery,
    ConductReport,
    UptimeDay,
)
from p2p.errors import P2PError, RefusedError
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import NetworkId, PeerId, Role
from p2p.usage_messages import MINUTES_MAX, UptimeRecord

log = logging.getLogger(__name__)
UPTIME_DAYS_BACK_MAX = 31
TIDY_INTERVAL_S = 600.0
LATE_DAYS = 2
"""Records of a day may still come on the next one; older days are kept as they were found."""

DayMinutes = dict[PeerId, int]


class ConductService:
    """Answers `conduct.get` with one process's ledger, and keeps the counts small."""

    def __init__(
        self, ledger: Ledger, key_pair: KeyPair, network_id: NetworkId, clock_ms: Clock
    ) -> None:
        """Sign with a bootstrap's key."""
        self._ledger = ledger
        self._key_pair = key_pair
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._days: dict[int, DayMinutes] = {}
        """Minutes of the days that are over and change no more."""

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return {CONDUCT_GET: self.report}

    async def report(self, caller: Caller, body: bytes) -> bytes:
        """Answer a ConductQuery. Raises: RefusedError, MalformedError."""
        require_role(caller, Role.GATEWAY, Role.BOOTSTRAP)
        query = decode_message(body, ConductQuery)
        now_ms = self._clock_ms()
        try:
            rows, after = await self._ledger.read(lambda c: conduct_rows(c, query, now_ms))
            uptime = () if query.after else await self._uptime(query, now_ms)
        except LedgerError as error:
            raise RefusedError(error.code, str(error), error.retry_after_s) from error
        report = ConductReport(
            query.subcloud_id, query.since_ms, now_ms, tuple(rows), uptime, after
        )
        return encode_message(self._key_pair.sign(self._network_id, report))

    async def run(self) -> None:
        """Make old counts coarser until cancelled."""
        while True:
            await trio.sleep(TIDY_INTERVAL_S)
            try:
                await self.tidy()
            except LedgerError as error:
                log.warning("old counts of conduct: %s; it is tried again", error)

    async def tidy(self) -> None:
        """Make old counts coarser now. Raises: StorageError."""
        now_ms = self._clock_ms()
        await self._ledger.change_beside(lambda c: tidy_conduct(c, now_ms))

    async def _uptime(self, query: ConductQuery, now_ms: int) -> tuple[UptimeDay, ...]:
        today = day_of(now_ms)
        # One day more, by which a node's first day is told from a day on which it was away.
        first = max(query.since_ms // DAY_MS - 1, today - UPTIME_DAYS_BACK_MAX, 0)
        found: list[UptimeDay] = []
        for day in range(today - 1, first - 1, -1):
            minutes = await self._minutes(day, today)
            most = max(minutes.values(), default=0)
            found += [
                UptimeDay(node, day, minutes[node], most) for node in query.nodes if node in minutes
            ]
        return tuple(found[:UPTIME_DAYS_MAX])

    async def _minutes(self, day: int, today: int) -> DayMinutes:
        known = self._days.get(day)
        if known is None:
            signed = await self._ledger.read(lambda c: uptime_records(c, Days(day, day)))
            known = median_minutes(self._opened(signed))
            if day <= today - LATE_DAYS:
                self._days[day] = known
                for old in [one for one in self._days if one < today - UPTIME_DAYS_BACK_MAX]:
                    del self._days[old]
        return known

    def _opened(self, found: Iterable[Signed]) -> Iterable[tuple[PeerId, UptimeRecord]]:
        for signed in found:
            try:
                yield signed.peer_id, open_signed(signed, UptimeRecord, self._network_id)
            except P2PError as error:
                log.error("an uptime record in the database is not acceptable: %s", error)


def median_minutes(records: Iterable[tuple[PeerId, UptimeRecord]]) -> DayMinutes:
    """Give for each node the median of what bootstraps (who, and what) saw of it on one day."""
    seen: dict[PeerId, dict[PeerId, int]] = {}
    for bootstrap, record in records:
        for node in record.nodes:
            own = seen.setdefault(PeerId(node.peer_id), {})
            own[bootstrap] = max(own.get(bootstrap, 0), min(node.minutes, MINUTES_MAX))
    return {node: sorted(minutes.values())[len(minutes) // 2] for node, minutes in seen.items()}
