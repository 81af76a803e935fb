"""Owns the composition of a gateway: what it is made of, how it starts, and how it stops.

Starting: bind the HTTP socket, load identity and certificate, open the network, start everything,
serve HTTP; the bootstrap may come later. Stopping (cancellation): no new requests, running
answers may finish within the grace, what is owed is settled or journalled, then everything ends.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from socket import socket

import trio

from gateway.backend import Backend
from gateway.bridge import Bridge
from gateway.errors import GatewaySetupError
from gateway.http.server import HttpServer, bind_http_socket
from gateway.limits import CONNECTIONS_MAX, STOP_RETURN_S, STOP_SETTLE_S
from gateway.peer.announcing import Announcer
from gateway.peer.discovery import (
    fetch_adverts,
    follow_adverts,
    search_directory,
)
from gateway.peer.dispatch import Dispatcher
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
from ledger.client import Call, LedgerClient
from ledger.lease_client import LeaseClient
from p2p.adverts import check_record
from p2p.calls import CallLink
from p2p.certificates import Chain, verify_chain
from p2p.clock import Clock, system_clock_ms
from p2p.codec import decode_message
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import enforce_bans, fetch_configuration, follow_configuration
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.identity import load_or_create_key
from p2p.libp2p_adapter import open_libp2p_network
from p2p.listening import choose_listen_addresses, remember_port
from p2p.member_files import load_chain
from p2p.membership import Membership
from p2p.network import Network
from p2p.signing import KeyPair, Signed
from p2p.software import SOFTWARE
from p2p.types import NetworkId, PeerId, Role, peer_id_from_public_key
from p2p.uplink import Uplink

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """The facts of a gateway that serves. `base_url` ends in `/v1`."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    base_url: str
    http_port: int


@dataclass(frozen=True, slots=True)
class Peer:
    """The gateway as a member of its network."""

    key_pair: KeyPair
    network: NetworkId
    configuration: ConfigurationBook
    membership: Membership
    chain: Chain
    clock_ms: Clock

    def is_bootstrap(self, peer_id: PeerId) -> bool:
        """Whether a connected peer is a certified bootstrap."""
        certificate = self.membership.certificate_of(peer_id)
        return certificate is not None and certificate.role is Role.BOOTSTRAP


async def run(
    settings: GatewaySettings,
    *,
    clock_ms: Clock = system_clock_ms,
    task_status: trio.TaskStatus[RunningGateway] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Be a gateway until cancelled; `task_status` gets the facts when HTTP is served.

    Raises: GatewaySetupError, P2PError (identity, certificate, network): the operator must act.
    """
    listener = bind_http_socket(settings.http_host, settings.http_port)
    _raise_file_limit()
    stop = trio.Event()

    async def serve_shielded() -> None:
        # Cancellation means "stop": it must not cut short what finishes within the grace.
        with trio.CancelScope(shield=True):
            async with _open_network(settings, peer) as network:
                await serve(settings, peer, network, listener, stop, task_status=task_status)

    try:
        peer = _load_peer(settings, clock_ms)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_shielded)
            try:
                await trio.sleep_forever()
            finally:
                stop.set()
    except BaseExceptionGroup as group:
        error = _only_leaf(group)
        if isinstance(error, P2PError | GatewaySetupError):
            raise error from group
        raise
    finally:
        listener.close()


def _raise_file_limit() -> None:
    """Allow as many open sockets as the system lets us: the usual 1024 is less than our limits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CONNECTIONS_MAX if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, 4 * CONNECTIONS_MAX), hard))


def _only_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _load_peer(settings: GatewaySettings, clock_ms: Clock) -> Peer:
    """Load identity, certificate and the last good configuration. Raises: GatewaySetupError,
    P2PError."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    key_pair = load_or_create_key(settings.data_dir / "identity.key")
    network = settings.network_id
    try:
        chain = load_chain(settings.certificate)
    except OSError as error:
        raise GatewaySetupError(
            f"the certificate {settings.certificate} cannot be read: {error.strerror}"
        ) from error
    except MalformedError as error:
        raise GatewaySetupError(
            f"the certificate {settings.certificate} is damaged: {error}"
        ) from error
    try:
        certificate = verify_chain(chain, network, key_pair.peer_id, clock_ms())
    except P2PError as error:
        raise GatewaySetupError(f"the certificate {settings.certificate}: {error}") from error
    if certificate.role is not Role.GATEWAY:
        raise GatewaySetupError(f"this is a certificate for a {certificate.role}, not a gateway")
    configuration = ConfigurationBook(network, settings.data_dir / "configuration.msgpack")
    membership = Membership(
        key_pair,
        network,
        Role.GATEWAY,
        configuration,
        clock_ms=clock_ms,
        software=SOFTWARE,
        chain=chain,
    )
    return Peer(key_pair, network, configuration, membership, chain, clock_ms)


@asynccontextmanager
async def _open_network(settings: GatewaySettings, peer: Peer) -> AsyncIterator[Network]:
    port_file = settings.data_dir / "p2p.port"

    def check(key: bytes, value: bytes) -> int:
        signed = decode_message(value, Signed)
        return check_record(peer.network, peer.clock_ms(), key, signed)

    async with open_libp2p_network(
        peer.key_pair,
        peer.network,
        gate=peer.membership,
        record_check=check,
        listen_addresses=choose_listen_addresses(settings.listen, port_file),
        announce_addresses=settings.announce or None,
    ) as network:
        if not settings.announce:  # what is announced is not where we listen
            remember_port(network.addresses(), port_file)
        yield network


def _make_uplink(
    settings: GatewaySettings, peer: Peer, network: Network, registry: Registry
) -> Uplink:
    async def greeting(link: CallLink) -> None:
        if not peer.is_bootstrap(link.link.remote):
            raise UntrustedError("this peer is not a certified bootstrap")
        await fetch_configuration(link, peer.configuration)
        await fetch_adverts(link, registry)

    return Uplink(network, settings.bootstraps, greeting=greeting)


def _announcer(
    settings: GatewaySettings, peer: Peer, network: Network, uplink: Uplink
) -> Announcer:
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


def _make_ledger(peer: Peer, uplink: Uplink) -> LedgerPort:
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


async def serve(
    settings: GatewaySettings,
    peer: Peer,
    network: Network,
    listener: socket,
    stop: trio.Event,
    *,
    ledger: LedgerPort | None = None,
    task_status: trio.TaskStatus[RunningGateway] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Be a gateway on an open network until `stop`.

    Args:
        listener: the bound HTTP socket (`bind_http_socket`).
        ledger: another ledger than the bootstrap's (tests, benchmarks).
    """
    registry = Registry(peer.network, now_s=trio.current_time, clock_ms=peer.clock_ms)
    peer.configuration.on_change(registry.configure)
    uplink = _make_uplink(settings, peer, network, registry)
    ledger = ledger or _make_ledger(peer, uplink)
    journal = SettlementJournal(settings.data_dir / "settlement.journal")
    services = _make_services(settings, peer, network, registry, ledger, journal)
    notices = Notices(
        peer.network,
        services.keys,
        services.leases,
        is_banned=lambda issuer: (
            peer.configuration.known and peer.configuration.current.is_banned(issuer)
        ),
        clock_ms=peer.clock_ms,
    )
    dispatcher = Dispatcher(services)
    bridge = Bridge()
    watch = LogWatch(peer.key_pair, peer.chain, peer.network, peer.configuration, peer.clock_ms)
    snapshots = Snapshots(
        services,
        dispatcher,
        chain=peer.chain,
        bootstrap=lambda: uplink.bootstrap,
        certificate_of=peer.membership.certificate_of,
        log_facts=watch.facts,
    )
    backend = Backend(bridge, dispatcher, services, snapshots, uplink.call)
    http = HttpServer(backend, listener, stop_grace_s=settings.stop_grace_s)
    try:
        async with trio.open_nursery() as nursery:
            money = (services.settlement, services.leases)
            for service in (bridge, dispatcher, *money, services.sessions, uplink):
                await nursery.start(service.run)
            nursery.start_soon(notices.follow, network)
            nursery.start_soon(follow_configuration, network, peer.configuration)
            nursery.start_soon(enforce_bans, network, peer.configuration, peer.membership)
            nursery.start_soon(follow_adverts, network, registry)
            nursery.start_soon(_announcer(settings, peer, network, uplink).run)
            nursery.start_soon(watch.run, network, uplink, settings.mirrors)
            nursery.start_soon(search_directory, network, registry, peer.configuration)
            await nursery.start(http.run)
            task_status.started(_facts(settings, peer, network, http))
            await stop.wait()
            await _stop(settings, bridge, http)
            with trio.move_on_after(STOP_RETURN_S):
                await services.leases.close()
            nursery.cancel_scope.cancel()
    finally:
        journal.close()


def _make_services(
    settings: GatewaySettings,
    peer: Peer,
    network: Network,
    registry: Registry,
    ledger: LedgerPort,
    journal: SettlementJournal,
) -> Services:
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
        clock_ms=peer.clock_ms,
        now_s=trio.current_time,
        random_bytes=random_bytes,
        issuer_chain=peer.membership.chain_of,
    )


async def _stop(settings: GatewaySettings, bridge: Bridge, http: HttpServer) -> None:
    """Finish what runs, within the grace."""
    log.info("stopping: %d requests are under way", bridge.requests_in_flight)
    bridge.close()
    http.stop()
    with trio.move_on_after(settings.stop_grace_s + STOP_SETTLE_S):
        await http.wait_stopped()
        await bridge.wait_idle()


def _facts(
    settings: GatewaySettings, peer: Peer, network: Network, http: HttpServer
) -> RunningGateway:
    host = settings.http_host
    if host in ("0.0.0.0", "::"):  # noqa: S104 - what is listened on, shown as what can be dialled
        host = "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return RunningGateway(
        peer_id=peer.key_pair.peer_id,
        addresses=network.addresses(),
        base_url=f"http://{shown}:{http.port}/v1",
        http_port=http.port,
    )
