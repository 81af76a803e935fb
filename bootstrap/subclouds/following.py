"""Owns how a mirror's directory follows that of the bootstrap whose ledger it follows.

A mirror has a database of its own: gossip brings it most changes, and this the rest. It checks each
record like any other bootstrap, by its own copy of the ledger; that may lag behind by a moment, so
what was refused is tried again a few times.
"""

from __future__ import annotations

import logging
from collections import Counter

import trio

from bootstrap.subclouds.publishing import Publisher
from bootstrap.subclouds.registry import SubcloudRegistry
from ledger.errors import LedgerError
from p2p.errors import DeadlineError, P2PError, PeerUnavailableError
from p2p.limits import SUBCLOUD_POLL_INTERVAL_S, SUBCLOUDS_KNOWN_MAX
from p2p.subclouds.directory_client import SubcloudDirectory
from p2p.subclouds.directory_messages import SubcloudSummary
from p2p.subclouds.identity import SubcloudId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)
TRIES_MAX = 6


class PrimaryFollower:
    """Asks the primary for changes, as long as it runs."""

    def __init__(self, registry: SubcloudRegistry, publisher: Publisher) -> None:
        """Put what is new into our own directory."""
        self._registry = registry
        self._publisher = publisher
        self._cursor = ""
        self._wanted: Counter[SubcloudId] = Counter()

    async def run(self, uplink: Uplink) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self.step(uplink)
            except (P2PError, LedgerError) as error:
                log.info("the primary's subclouds were not followed: %s", error)
            await trio.sleep(SUBCLOUD_POLL_INTERVAL_S)

    async def step(self, uplink: Uplink) -> None:
        """Take what has changed since the last step. Raises: P2PError, StorageError."""
        directory = SubcloudDirectory(uplink)
        more = True
        while more:
            page = await directory.page(self._cursor)
            new = [summary.subcloud_id for summary in page.summaries if self._is_new(summary)]
            for identity in new[: SUBCLOUDS_KNOWN_MAX - len(self._wanted)]:
                self._wanted[identity] = 0
            more = page.more and page.cursor != self._cursor
            self._cursor = page.cursor
        for identity in list(self._wanted):
            self._wanted[identity] += 1
            if await self._take(directory, uplink, identity) or (
                self._wanted[identity] >= TRIES_MAX
            ):
                del self._wanted[identity]

    def _is_new(self, summary: SubcloudSummary) -> bool:
        known = self._registry.book.get(summary.subcloud_id)
        if known is None:
            return True
        mine = self._registry.summary(known)
        return (summary.version, summary.proof_length, summary.revocations_number) != (
            mine.version,
            mine.proof_length,
            mine.revocations_number,
        ) or summary.digest != mine.digest

    async def _take(
        self, directory: SubcloudDirectory, uplink: Uplink, identity: SubcloudId
    ) -> bool:
        source = uplink.bootstrap or ""
        try:
            record, revocations = await directory.get(identity)
            await self._publisher.take(record, source)
            if revocations is not None:
                await self._publisher.take_revocations(revocations, source)
        except (PeerUnavailableError, DeadlineError):
            raise
        except P2PError as error:
            log.info("%s was not taken from the primary: %s", identity, error)
            return False
        return True
