"""Owns the composition of a gateway: what it is made of, how it starts, and how it stops.

Starting: bind the HTTP socket, load identity and certificate, open the network, start everything,
serve HTTP; the bootstrap may come later. Stopping (cancellation): no new requests, running
answers may finish within the grace, what is owed is settled or journalled, then everything ends.
"""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass
from functools import partial
from socket import socket

import trio

from gateway.app_peer import Peer, load_peer, open_network
from gateway.app_services import (
    make_announcer,
    make_ledger,
    make_notices,
    make_services,
    make_uplink,
    show_renewals,
)
from gateway.app_subclouds import Subclouds
from gateway.backend import Backend
from gateway.bridge import Bridge
from gateway.errors import GatewaySetupError
from gateway.http.server import HttpServer, bind_http_socket
from gateway.limits import CONNECTIONS_MAX, STOP_RETURN_S, STOP_SETTLE_S
from gateway.peer.discovery import follow_adverts, search_directory
from gateway.peer.dispatch import Dispatcher
from gateway.peer.journal import SettlementJournal
from gateway.peer.ledger_port import LedgerPort
from gateway.peer.log_watch import LogWatch
from gateway.peer.registry import Registry
from gateway.peer.snapshots import Snapshots
from gateway.settings import GatewaySettings
from p2p.clock import Clock, system_clock_ms
from p2p.configuration_sync import enforce_bans, follow_configuration
from p2p.errors import P2PError
from p2p.network import Network, first_of
from p2p.types import PeerId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """The facts of a gateway that serves. `base_url` ends in `/v1`."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    base_url: str
    http_port: int


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
            async with open_network(settings, peer) as network:
                if peer.keeper is not None and not peer.keeper.certified:
                    log.info("asking for admission to %s", settings.network)
                    join = partial(peer.keeper.join, network, settings.bootstraps)
                    await first_of(stop.wait, join)
                    if stop.is_set():
                        return
                await serve(settings, peer, network, listener, stop, task_status=task_status)

    try:
        peer = load_peer(settings, clock_ms)
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
    subclouds = Subclouds(settings, peer, network, registry)
    uplink = make_uplink(settings, peer, network, registry, subclouds)
    ledger = ledger or make_ledger(peer, uplink)
    journal = SettlementJournal(settings.data_dir / "settlement.journal")
    placing = subclouds.placing(uplink)
    services = make_services(settings, peer, network, registry, ledger, journal, placing)
    notices = make_notices(peer, services)
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
    view = subclouds.view(bridge, placing)
    snapshots.subclouds = view
    backend = Backend(bridge, dispatcher, services, snapshots, uplink.call, view)
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
            nursery.start_soon(subclouds.run, uplink, services.sessions)
            announcer = make_announcer(settings, peer, network, uplink)
            nursery.start_soon(announcer.run)
            if peer.keeper is not None:
                show_renewals(peer.keeper, announcer, watch, snapshots)
                nursery.start_soon(peer.keeper.keep, uplink, network, settings.bootstraps)
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
