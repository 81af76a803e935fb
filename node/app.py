"""Owns the composition of a node: agent and runtime, admitted by a bootstrap, serving models."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from node.agent.advertiser import Advertiser
from node.agent.agent import Agent
from node.claims.desk import ClaimDesk
from node.claims.journal import OwedJournal
from node.errors import ModelFileError
from node.hardware import detect_hardware
from node.joining import NodeStanding
from node.limits import HOURS_LOOK_INTERVAL_S
from node.observation.looking import NodeView
from node.observation.observer import Observer
from node.reaching import Reaching
from node.serving.machine import machine_of
from node.serving.models import ServedModels
from node.serving.opening import OpenModels, open_models
from node.serving.shelf import FileFacts
from node.settings import NodeSettings
from node.upstream.making import open_upstream
from node.upstream.served import Declared
from p2p.account_file import AccountKeys, load_or_create_account
from p2p.adverts import check_record
from p2p.call_service import handle_calls
from p2p.calls import CALLS_PROTOCOL, Caller
from p2p.clock import Clock, system_clock_ms
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import enforce_bans, fetch_configuration, follow_configuration
from p2p.hardware import Hardware
from p2p.identity import load_or_create_key
from p2p.job_messages import JOBS_PROTOCOL
from p2p.listening import choose_listen_addresses, listens_not, remember_port
from p2p.membership import Membership
from p2p.network import Network, Stream
from p2p.node_invites import parse_invite_for
from p2p.opening_messages import InviteSecret
from p2p.signing import KeyPair, Signed
from p2p.software import SOFTWARE
from p2p.types import PeerId, Role
from p2p.uplink import Uplink

log = logging.getLogger(__name__)
ADVERT_GET = "advert.get"


@dataclass(frozen=True, slots=True)
class RunningNode:
    """What is known once it serves."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    model: str
    account_id: str
    drain: Callable[[], Awaitable[None]]
    """Takes no new jobs, and returns when the running ones are done, or too late."""


@dataclass(slots=True)
class _Parts:
    """What the pieces of a node are made from."""

    settings: NodeSettings
    key_pair: KeyPair
    account: AccountKeys
    book: ConfigurationBook
    membership: Membership
    standing: NodeStanding
    clock_ms: Clock
    sandboxed: bool = False
    hardware: Hardware = field(default_factory=detect_hardware)


@dataclass(slots=True)
class _Changes:
    """Tells whoever is there by then that a model's state has changed."""

    listeners: list[Callable[[], None]] = field(default_factory=list)

    def tell(self) -> None:
        for listener in self.listeners:
            listener()


async def run(
    settings: NodeSettings,
    *,
    clock_ms: Clock = system_clock_ms,
    task_status: trio.TaskStatus[RunningNode] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; then withdraw.

    Raises: NodeError or P2PError, each with one line for the operator.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    parts = _make_parts(settings, clock_ms)
    changes = _Changes()
    async with open_models(settings, parts.book, changes.tell) as opened:
        parts.sandboxed = opened.sandboxed
        async with _open_network(parts) as network:
            await _serve(parts, opened, changes, network, task_status)


def _make_parts(settings: NodeSettings, clock_ms: Clock) -> _Parts:
    network_id = settings.network_id
    key_pair = load_or_create_key(settings.data_dir / "identity.key")
    account_file = settings.account_file or settings.data_dir / "account.json"
    account = load_or_create_account(account_file, network_id, clock_ms)
    book = ConfigurationBook(network_id, settings.data_dir / "configuration.msgpack")
    membership = Membership(
        key_pair, network_id, Role.NODE, book, clock_ms=clock_ms, software=SOFTWARE
    )
    standing = NodeStanding(
        membership,
        account,
        book,
        settings.data_dir / "certificate.msgpack",
        software=SOFTWARE,
        clock_ms=clock_ms,
        invite=_invite(settings),
    )
    return _Parts(settings, key_pair, account, book, membership, standing, clock_ms)


def _invite(settings: NodeSettings) -> InviteSecret | None:
    path = settings.invite_file
    if path is None or not path.exists():  # it may be gone once the account is open
        return None
    return parse_invite_for(path.read_text(encoding="utf-8", errors="replace"), settings.network_id)


@asynccontextmanager
async def _open_network(parts: _Parts) -> AsyncIterator[Network]:
    from p2p.libp2p_adapter import open_libp2p_network

    settings = parts.settings
    port_file = settings.data_dir / "p2p.port"

    def check(key: bytes, value: bytes) -> int:
        signed = decode_message(value, Signed)
        return check_record(settings.network_id, parts.clock_ms(), key, signed)

    async with open_libp2p_network(
        parts.key_pair,
        settings.network_id,
        gate=parts.membership,
        listen_addresses=choose_listen_addresses(settings.listen, port_file),
        announce_addresses=settings.announce or None,
        record_check=check,
        subscribes=True,
        directory_server=not listens_not(settings.listen),  # whoever cannot be dialled only asks
    ) as network:
        if not settings.announce:  # what is announced is not where we listen
            remember_port(network.addresses(), port_file)
        yield network


async def _serve(
    parts: _Parts,
    opened: OpenModels,
    changes: _Changes,
    network: Network,
    task_status: trio.TaskStatus[RunningNode],
) -> None:
    settings, models = parts.settings, opened.models
    if not parts.standing.certified:
        log.info("asking for admission to %s", settings.network)
        await parts.standing.join(network, settings.bootstraps)
    uplink = Uplink(
        network, settings.bootstraps, greeting=partial(fetch_configuration, book=parts.book)
    )
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()
        if opened.file is not None:
            _check_approved(parts.book, opened.file.kept.file)
        await _add_upstream(parts, models, changes, stack, nursery)
        journal = OwedJournal(settings.data_dir / "owed.journal")
        claims = ClaimDesk(
            journal, parts.key_pair, settings.network_id, uplink.call, clock_ms=parts.clock_ms
        )
        agent, advertiser = _make_agent(parts, models, network)
        changes.listeners += [advertiser.changed, agent.load_changed]
        agent.claims = claims
        reaching = _reaching(parts, network, uplink, advertiser)
        view = replace(_view(parts, agent, models, uplink, journal), reach=reaching.summary)
        observer = Observer(settings.data_dir / "status.json", view.look, view.ask_earnings)
        network.handle(JOBS_PROTOCOL, observer.counting(partial(_serve_session, agent, claims)))
        nursery.start_soon(observer.run)
        if settings.metrics_port is not None:
            await nursery.start(observer.serve_metrics, settings.metrics_port)
        nursery.start_soon(claims.run)
        _serve_calls(network, parts.membership, advertiser)
        nursery.start_soon(_follow_hours, agent, changes)
        nursery.start_soon(follow_configuration, network, parts.book)
        nursery.start_soon(enforce_bans, network, parts.book, parts.membership)
        nursery.start_soon(parts.standing.keep, uplink, network, settings.bootstraps)
        nursery.start_soon(reaching.run)
        await nursery.start(advertiser.run)
        names = ", ".join(served.facts.name for served in models.all())
        log.info("node %s serves %s", network.local, names)
        drain = partial(_drain, agent, advertiser, claims, network, settings.drain_s)
        account_id = parts.account.account_id
        task_status.started(
            RunningNode(network.local, network.addresses(), names, account_id, drain)
        )


def _reaching(parts: _Parts, network: Network, uplink: Uplink, advertiser: Advertiser) -> Reaching:
    reaching = Reaching(
        network,
        uplink,
        mode=parts.settings.hidden,
        announced=bool(parts.settings.announce),
        clock_ms=parts.clock_ms,
        on_change=advertiser.changed,
        is_banned=lambda peer_id: parts.book.current.is_banned(peer_id),
    )
    advertiser.where = reaching.where
    return reaching


async def _drain(
    agent: Agent, advertiser: Advertiser, claims: ClaimDesk, network: Network, patience_s: float
) -> None:
    """Withdraw, and wait for the jobs that run; what is left then goes on at other nodes."""
    agent.draining = advertiser.draining = True
    advertiser.changed()
    agent.load_changed()
    with trio.move_on_after(patience_s):
        while True:
            change = agent.load_change
            if not agent.jobs:
                break
            await change.wait()
    log.info("drained: %d jobs are left", agent.jobs)
    await claims.settle_up(lambda gateway_id: gateway_id in network.peers())


def _view(
    parts: _Parts,
    agent: Agent,
    models: ServedModels,
    uplink: Uplink,
    journal: OwedJournal,
) -> NodeView:
    return NodeView(
        agent,
        models,
        uplink,
        journal,
        parts.standing,
        parts.account.account_id,
        parts.sandboxed,
        parts.clock_ms(),
        parts.clock_ms,
        partial(machine_of, parts.hardware, models),
    )


async def _serve_session(agent: Agent, claims: ClaimDesk, stream: Stream) -> None:
    try:
        await agent.serve(stream)
    finally:
        claims.session_ended(stream.remote)


def _check_approved(book: ConfigurationBook, file: FileFacts) -> None:
    approved = book.current.model_with_digest(file.digest)
    if approved is None:
        names = ", ".join(model.name for model in book.current.models) or "none"
        raise ModelFileError(
            f"{file.path} is not approved by this network (sha256 {file.digest.hex()}); "
            f"approved models: {names}"
        )


def _make_agent(parts: _Parts, models: ServedModels, network: Network) -> tuple[Agent, Advertiser]:
    settings = parts.settings
    agent = Agent(
        key_pair=parts.key_pair,
        network=settings.network_id,
        membership=parts.membership,
        configuration=parts.book,
        models=models,
        queue_jobs_max=settings.queue_jobs_max,
        clock_ms=parts.clock_ms,
        accept_leases=settings.accept_leases,
        rules=settings.rules,
        cache_shared=settings.cache_shared,
    )
    advertiser = Advertiser(
        network, parts.membership, agent.adverts, software=SOFTWARE, clock_ms=parts.clock_ms
    )
    advertiser.hardware = partial(machine_of, parts.hardware, models)
    return agent, advertiser


async def _add_upstream(
    parts: _Parts,
    models: ServedModels,
    changes: _Changes,
    stack: AsyncExitStack,
    nursery: trio.Nursery,
) -> None:
    """Serve the models of another server too, if the operator names one."""
    settings = parts.settings
    if settings.upstream is None:
        return
    found = await stack.enter_async_context(
        open_upstream(
            settings.upstream,
            settings.upstream_models,
            key_file=settings.upstream_key_file,
            operator=Declared(
                slots=settings.upstream_slots,
                context_tokens=settings.upstream_context_tokens,
                images=settings.upstream_images,
                tools=settings.upstream_tools,
                image_urls=settings.upstream_image_urls,
                share_cache=settings.cache_shared == "all",
                rules=settings.rules,
            ),
            configuration=parts.book,
            network=settings.network_id,
            on_change=changes.tell,
        )
    )
    for model in found:
        await nursery.start(model.run)
        models.add(model)


async def _follow_hours(agent: Agent, changes: _Changes) -> None:
    """Tell when the node's hours begin and end."""
    working = agent.working
    while True:
        await trio.sleep(HOURS_LOOK_INTERVAL_S)
        if agent.working is not working:
            working = agent.working
            log.info("the node's hours have %s", "begun" if working else "ended")
            changes.tell()


def _serve_calls(network: Network, membership: Membership, advertiser: Advertiser) -> None:
    async def get(caller: Caller, body: bytes) -> bytes:
        return encode_message(advertiser.advert())

    handle_calls(network, CALLS_PROTOCOL, membership, {ADVERT_GET: get})
