"""Owns what a bootstrap runs beside its calls: a ledger's own log, or a mirror of another's."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from bootstrap.log_service import LogService
from bootstrap.log_watch import LogWatch
from bootstrap.mirror_service import Mirror
from bootstrap.rcp_service import RcpService
from bootstrap.settings import BootstrapSettings
from bootstrap.subclouds.parts import SubcloudParts
from ledger.ledger import Ledger
from ledger.mirror_ledger import MirrorLedger
from ledger.store.mirror.copy import KnownKeys
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.identity import load_or_create_key
from p2p.membership import Membership
from p2p.network import Network
from p2p.network_configuration import NetworkConfiguration


@dataclass(frozen=True, slots=True)
class LedgerParts:
    """What works on one ledger."""

    ledger: Ledger
    logs: LogService
    watch: LogWatch
    points: RcpService


def make_ledger(settings: BootstrapSettings, book: ConfigurationBook, clock_ms: Clock) -> Ledger:
    """Make the ledger of a bootstrap, or of a mirror."""
    if settings.mirror_of is None:
        return Ledger(settings.ledger_url, settings.network_id, clock_ms=clock_ms)
    return MirrorLedger(
        settings.ledger_url,
        settings.network_id,
        primary=settings.mirror_of,
        keys=lambda: known_keys(book.current),
        clock_ms=clock_ms,
    )


def known_keys(configuration: NetworkConfiguration) -> KnownKeys:
    """Give the keys that count in a ledger by a configuration."""
    return KnownKeys(
        configuration.grant_public_keys,
        configuration.decision_public_keys,
        configuration.log_public_keys,
    )


async def work_on_ledger(
    network: Network,
    settings: BootstrapSettings,
    parts: LedgerParts,
    book: ConfigurationBook,
    membership: Membership,
    subclouds: SubcloudParts,
    clock_ms: Clock,
) -> None:
    """Keep the log growing and count points, or follow the primary, until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.watch.run, network)
        if not isinstance(parts.ledger, MirrorLedger) or settings.mirror_of is None:
            nursery.start_soon(parts.logs.run, network)
            nursery.start_soon(parts.points.run)
            return
        mirror = Mirror(
            parts.ledger,
            parts.watch,
            book,
            membership,
            load_or_create_key(settings.data_dir / "witness.key"),
            settings.data_dir / "witness.last",
            clock_ms,
        )
        uplink = mirror.uplink(network, settings.mirror_of)
        await nursery.start(uplink.run)
        nursery.start_soon(mirror.run, network, uplink)
        nursery.start_soon(subclouds.follow, uplink)
