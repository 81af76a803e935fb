"""Owns the composition of a bootstrap: admission, configuration, adverts and ledger on one peer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from bootstrap.account_door import AccountDoor
from bootstrap.admission_service import AdmissionService
from bootstrap.advert_directory import AdvertDirectory
from bootstrap.conduct_service import ConductService
from bootstrap.configuration_service import ConfigurationService
from bootstrap.errors import BootstrapStartError
from bootstrap.gateway_admission import GatewayAdmissionService
from bootstrap.ledger_service import LedgerService
from bootstrap.limits import (
    ADMISSIONS_BURST_PER_PEER,
    ADMISSIONS_PER_SECOND_PER_PEER,
    CERTIFICATE_WARNING_S,
)
from bootstrap.log_service import LogService
from bootstrap.log_watch import LogWatch
from bootstrap.mirroring import LedgerParts, make_ledger, work_on_ledger
from bootstrap.node_door import NodeDoor
from bootstrap.notices import Notices
from bootstrap.rcp_service import RcpService
from bootstrap.reaching import ReachingParts
from bootstrap.settings import BootstrapSettings
from bootstrap.stakes import Stakes
from bootstrap.subclouds.parts import SubcloudParts
from ledger.ledger import Ledger
from ledger.store.prepare import prepare_apart
from p2p.call_service import handle_calls
from p2p.calls import ADMISSION_PROTOCOL, CALLS_PROTOCOL, CallHandler
from p2p.certificates import verify_chain
from p2p.clock import Clock, system_clock_ms
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import enforce_bans, follow_configuration
from p2p.directory_records import directory_records
from p2p.errors import P2PError
from p2p.identity import load_or_create_key
from p2p.listening import choose_listen_addresses, remember_port
from p2p.member_files import load_chain
from p2p.membership import Membership
from p2p.network import Network
from p2p.pre_shared_key import load_pre_shared_key
from p2p.signing import KeyPair
from p2p.software import SOFTWARE
from p2p.subclouds.landmarks import serve_landmark
from p2p.types import PeerId, Role

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningBootstrap:
    """What is known once it serves."""

    peer_id: PeerId
    addresses: tuple[str, ...]


async def run(
    settings: BootstrapSettings,
    *,
    clock_ms: Clock = system_clock_ms,
    task_status: trio.TaskStatus[RunningBootstrap] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled.

    Raises: BootstrapStartError, P2PError or LedgerError, each with one line for the operator.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    network_id = settings.network_id
    key_pair = load_or_create_key(settings.data_dir / "identity.key")
    book = ConfigurationBook(network_id, settings.data_dir / "configuration.msgpack")
    configuration = ConfigurationService(book, settings.configuration)
    membership = _membership(settings, key_pair, book, clock_ms)
    ledger = make_ledger(settings, book, clock_ms)
    await trio.to_thread.run_sync(prepare_apart, settings.ledger_url, network_id)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        async with _open_network(settings, membership, clock_ms) as network:
            directory = AdvertDirectory(network_id, clock_ms=clock_ms)
            reach = ReachingParts(settings, network, membership, clock_ms)
            logs = _log_service(settings, membership, ledger, book, clock_ms)
            watch = LogWatch(
                ledger, key_pair, membership.chain, network_id, lambda: book.current, clock_ms
            )
            points = _points(ledger, membership, book, directory, clock_ms)
            notices = Notices(key_pair, membership.chain, network_id, clock_ms)
            conduct = ConductService(ledger, key_pair, network_id, clock_ms)
            stakes = Stakes(ledger).has_stake
            subclouds = SubcloudParts(ledger, membership, lambda: book.current, clock_ms, stakes)
            await subclouds.load()
            beside = (logs, watch, points, reach, conduct)
            _serve_calls(
                network,
                membership,
                configuration,
                directory,
                ledger,
                clock_ms,
                book,
                notices,
                subclouds,
                dict(call for part in beside for call in part.handlers().items()),
            )
            serve_landmark(network, key_pair, book, clock_ms)
            nursery.start_soon(configuration.run, network)
            nursery.start_soon(follow_configuration, network, book)
            nursery.start_soon(enforce_bans, network, book, membership)
            nursery.start_soon(directory.run, network)
            nursery.start_soon(subclouds.run, network)
            nursery.start_soon(conduct.run)
            nursery.start_soon(reach.run)
            parts = LedgerParts(ledger, logs, watch, points)
            nursery.start_soon(
                work_on_ledger, network, settings, parts, book, membership, subclouds, clock_ms
            )
            nursery.start_soon(notices.run, network)
            log.info("serves %s at %s", network_id, ", ".join(network.addresses()))
            task_status.started(RunningBootstrap(key_pair.peer_id, network.addresses()))
            await trio.sleep_forever()


def _points(
    ledger: Ledger,
    membership: Membership,
    book: ConfigurationBook,
    directory: AdvertDirectory,
    clock_ms: Clock,
) -> RcpService:
    return RcpService(
        ledger,
        membership.key_pair,
        membership.chain,
        membership.network,
        lambda: book.current,
        directory.live_nodes,
        clock_ms,
    )


@asynccontextmanager
async def _open_network(
    settings: BootstrapSettings, membership: Membership, clock_ms: Clock
) -> AsyncIterator[Network]:
    from p2p.libp2p_adapter import open_libp2p_network

    port_file = settings.data_dir / "p2p.port"

    async with open_libp2p_network(
        membership.key_pair,
        settings.network_id,
        gate=membership,
        pre_shared_key=load_pre_shared_key(settings.pre_shared_key_file),
        listen_addresses=choose_listen_addresses(settings.listen, port_file),
        announce_addresses=settings.announce or None,
        record_check=directory_records(settings.network_id, clock_ms),
    ) as network:
        if not settings.announce:  # what is announced is not where we listen
            remember_port(network.addresses(), port_file)
        yield network


def _membership(
    settings: BootstrapSettings, key_pair: KeyPair, book: ConfigurationBook, clock_ms: Clock
) -> Membership:
    try:
        chain = load_chain(settings.certificate)
        certificate = verify_chain(chain, settings.network_id, key_pair.peer_id, clock_ms())
    except (OSError, P2PError) as error:
        raise BootstrapStartError(
            f"certificate {settings.certificate}: {error}; the authority makes one with "
            f"`resultity network certify --role bootstrap --peer {key_pair.peer_id}`"
        ) from error
    if certificate.role is not Role.BOOTSTRAP:
        raise BootstrapStartError(f"{settings.certificate} certifies a {certificate.role}")
    left_s = (certificate.expires_ms - clock_ms()) / 1000
    if left_s < CERTIFICATE_WARNING_S:
        log.warning("the certificate ends in %.0f hours: have it renewed", left_s / 3600)
    return Membership(
        key_pair,
        settings.network_id,
        Role.BOOTSTRAP,
        book,
        clock_ms=clock_ms,
        software=SOFTWARE,
        chain=chain,
    )


def _log_service(
    settings: BootstrapSettings,
    membership: Membership,
    ledger: Ledger,
    book: ConfigurationBook,
    clock_ms: Clock,
) -> LogService:
    return LogService(
        ledger,
        membership.key_pair,
        load_or_create_key(settings.data_dir / "log.key"),
        membership.chain,
        settings.network_id,
        clock_ms,
        lambda: book.current.log_public_keys,
    )


def _serve_calls(
    network: Network,
    membership: Membership,
    configuration: ConfigurationService,
    directory: AdvertDirectory,
    ledger: Ledger,
    clock_ms: Clock,
    book: ConfigurationBook,
    notices: Notices,
    subclouds: SubcloudParts,
    others: dict[str, CallHandler],
) -> None:
    door = AccountDoor(ledger, lambda: book.current, clock_ms)
    node_door = NodeDoor(ledger, door, network.network_id, lambda: book.current)
    admission = AdmissionService(membership, book, node_door.bind, clock_ms=clock_ms)
    gateways = GatewayAdmissionService(membership, book, door.require_key, clock_ms=clock_ms)
    admitting = {**admission.handlers(), **gateways.handlers()}
    money = LedgerService(
        ledger,
        membership.key_pair,
        network.network_id,
        lambda: book.current,
        clock_ms,
        door,
        notices,
        policies=subclouds.book,
    )
    handle_calls(
        network,
        ADMISSION_PROTOCOL,
        membership,
        {**admitting, **configuration.handlers()},
        newcomers=True,
        rate_per_s=ADMISSIONS_PER_SECOND_PER_PEER,
        burst=ADMISSIONS_BURST_PER_PEER,
    )
    handle_calls(
        network,
        CALLS_PROTOCOL,
        membership,
        {
            **admitting,
            **configuration.handlers(),
            **directory.handlers(),
            **money.handlers(),
            **subclouds.handlers(),
            **others,
        },
    )
