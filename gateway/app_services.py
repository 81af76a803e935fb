"""Owns how a gateway's services are made, each from what it needs."""

from __future__ import annotations

from functools import partial

import trio

from gateway.app_peer import Peer
from gateway.app_subclouds import Subclouds
from gateway.peer.announcing import Announcer
from gateway.peer.discovery import fetch_adverts
from gateway.peer.journal import SettlementJournal
from gateway.peer.key_rates import KeyRates
from gateway.peer.keys import KeyCache
from gateway.peer.leases import Leases
from gateway.peer.ledger_port import LedgerPort, RemoteLedger
from gateway.peer.log_watch import LogWatch
from gateway.peer.notices import Notices
from gateway.peer.registry import Registry
from gateway.peer.services import Services
from gateway.peer.sessions import Sessions
from gateway.peer.settlement import Settlement
from gateway.peer.snapshots import Snapshots
from gateway.random_pool import RandomPool
from gateway.settings import GatewaySettings
from gateway.subclouds.placing import Placing
from ledger.client import Call, LedgerClient
from ledger.lease_client import LeaseClient
from p2p.calls import CallLink
from p2p.certificate_keeper import CertificateKeeper
from p2p.certificates import Chain
from p2p.configuration_sync import fetch_configuration
from p2p.errors import UntrustedError
from p2p.network import Network
from p2p.types import peer_id_from_public_key
from p2p.uplink import Uplink


def make_uplink(
    settings: GatewaySettings,
    peer: Peer,
    network: Network,
    registry: Registry,
    subclouds: Subclouds,
) -> Uplink:
    """Make the link to a bootstrap, which is asked for what we missed when it begins."""

    async def greeting(link: CallLink) -> None:
        if not peer.is_bootstrap(link.link.remote):
            raise UntrustedError("this peer is not a certified bootstrap")
        await fetch_configuration(link, peer.configuration)
        await fetch_adverts(link, registry)
        await subclouds.greet(link)

    return Uplink(network, settings.bootstraps, greeting=greeting)


def make_announcer(
    settings: GatewaySettings, peer: Peer, network: Network, uplink: Uplink
) -> Announcer:
    """Make what tells nodes where this gateway can be dialled."""
    # What an operator announces is what can be dialled: only listening has to be looked into.
    announced = settings.announce and settings.reachable == "auto"
    return Announcer(
        network,
        uplink,
        peer.key_pair,
        peer.chain,
        reachable="yes" if announced else settings.reachable,
        clock_ms=peer.clock_ms,
    )


def make_ledger(peer: Peer, uplink: Uplink) -> LedgerPort:
    """Make the ledger as the bootstrap keeps it."""

    def trusts(public_key: bytes) -> bool:
        return peer.is_bootstrap(peer_id_from_public_key(public_key))

    def leases(call: Call) -> LeaseClient:
        return LeaseClient(call, peer.key_pair, peer.network, peer.clock_ms, trusts=trusts)

    client = LedgerClient(uplink.call, peer.key_pair, peer.network, peer.clock_ms, trusts=trusts)
    # Nobody waits for a capture: it travels with whatever comes next.
    captures = leases(partial(uplink.call, urgent=False))
    return RemoteLedger(
        client,
        leases(uplink.call),
        captures,
        lambda: peer.configuration.current.grant_public_keys,
    )


def make_notices(peer: Peer, services: Services) -> Notices:
    """Make what follows the bootstraps' notices of changed keys and wanted leases."""
    book = peer.configuration
    return Notices(
        peer.network,
        services.keys,
        services.leases,
        is_banned=lambda issuer: book.known and book.current.is_banned(issuer),
        clock_ms=peer.clock_ms,
    )


def make_services(
    settings: GatewaySettings,
    peer: Peer,
    network: Network,
    registry: Registry,
    ledger: LedgerPort,
    journal: SettlementJournal,
    placing: Placing,
) -> Services:
    """Make what every job is given."""
    random_bytes = RandomPool()
    keys = KeyCache(ledger, now_s=trio.current_time, clock_ms=peer.clock_ms)
    member = (peer.key_pair, peer.network)
    settlement = Settlement(
        ledger, journal, *member, clock_ms=peer.clock_ms, random_bytes=random_bytes
    )
    leases = Leases(
        ledger,
        journal,
        keys,
        peer.configuration,
        *member,
        use=settings.use_leases,
        issuer_chain=peer.membership.chain_of,
        clock_ms=peer.clock_ms,
        now_s=trio.current_time,
        random_bytes=random_bytes,
    )
    settlement.on_settled = leases.settled
    return Services(
        key_pair=peer.key_pair,
        network=peer.network,
        configuration=peer.configuration,
        keys=keys,
        key_rates=KeyRates(now_s=trio.current_time),
        ledger=ledger,
        registry=registry,
        sessions=Sessions(network, registry, peer.is_bootstrap),
        settlement=settlement,
        leases=leases,
        placing=placing,
        clock_ms=peer.clock_ms,
        now_s=trio.current_time,
        random_bytes=random_bytes,
        issuer_chain=peer.membership.chain_of,
    )


def show_renewals(
    keeper: CertificateKeeper, announcer: Announcer, watch: LogWatch, snapshots: Snapshots
) -> None:
    """Have whoever shows this gateway's certificate show the new one when it is renewed."""

    def renewed(chain: Chain) -> None:
        announcer.chain = watch.chain = snapshots.chain = chain

    keeper.on_renewed = renewed
