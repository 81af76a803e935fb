"""Owns the composition of a node: agent and runtime, admitted by a bootstrap, serving one model."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from node.agent.advertiser import Advertiser
from node.agent.model_state import ServedModel
from node.agent.sessions import Agent
from node.claims.desk import ClaimDesk
from node.claims.journal import OwedJournal
from node.errors import ModelFileError
from node.joining import NodeStanding
from node.limits import CONTEXT_TOKENS_DEFAULT, SLOTS_DEFAULT
from node.model_file import ModelFile, read_model_file
from node.observation.looking import NodeView
from node.observation.observer import Observer
from node.runtime_process import RuntimeProcess, runtime_command
from node.sandbox import sandbox_prefix
from node.settings import NodeSettings
from p2p.account_file import AccountKeys, load_or_create_account
from p2p.adverts import check_record
from p2p.call_service import handle_calls
from p2p.calls import CALLS_PROTOCOL, Caller
from p2p.clock import Clock, system_clock_ms
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import enforce_bans, fetch_configuration, follow_configuration
from p2p.identity import load_or_create_key
from p2p.job_messages import JOBS_PROTOCOL
from p2p.listening import choose_listen_addresses, remember_port
from p2p.membership import Membership
from p2p.network import Network, Stream
from p2p.opening_messages import InviteSecret, parse_invite
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
    model = await trio.to_thread.run_sync(read_model_file, settings.model)
    log.info("model %s: sha256 %s", model.name, model.digest.hex())
    command = settings.runtime_command or runtime_command(
        settings.model,
        slots=settings.slots or SLOTS_DEFAULT,
        context_tokens=min(settings.context_tokens or CONTEXT_TOKENS_DEFAULT, model.context_tokens),
        threads=settings.threads,
    )
    prefix = await trio.to_thread.run_sync(sandbox_prefix, settings.sandbox)
    parts.sandboxed = bool(prefix)
    if prefix:
        log.info("the runtime has no network: user and network namespaces of its own")
    else:
        log.warning("the runtime is not kept from the network (sandbox=%s)", settings.sandbox)
    command = (*prefix, *command)
    with (settings.data_dir / "runtime.log").open("ab") as runtime_log:
        runtime = RuntimeProcess(command, log_file=runtime_log)
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            async with _open_network(parts) as network:
                await _serve(parts, model, runtime, network, task_status)


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
    return parse_invite(path.read_text(encoding="utf-8", errors="replace"), settings.network_id)


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
        record_check=check,
        subscribes=True,
    ) as network:
        remember_port(network.addresses(), port_file)
        yield network


async def _serve(
    parts: _Parts,
    file: ModelFile,
    runtime: RuntimeProcess,
    network: Network,
    task_status: trio.TaskStatus[RunningNode],
) -> None:
    settings = parts.settings
    if not parts.standing.certified:
        log.info("asking for admission to %s", settings.network)
        await parts.standing.join(network, settings.bootstraps)
    uplink = Uplink(
        network, settings.bootstraps, greeting=partial(fetch_configuration, book=parts.book)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()
        _check_approved(parts.book, file, settings.model)
        journal = OwedJournal(settings.data_dir / "owed.journal")
        claims = ClaimDesk(
            journal, parts.key_pair, settings.network_id, uplink.call, clock_ms=parts.clock_ms
        )
        served, agent, advertiser = _make_agent(parts, file, runtime, network)
        await served.prove()
        agent.claims = claims
        view = _view(parts, agent, served, runtime, uplink, journal)
        observer = Observer(settings.data_dir / "status.json", view.look, view.ask_earnings)
        network.handle(JOBS_PROTOCOL, observer.counting(partial(_serve_session, agent, claims)))
        nursery.start_soon(observer.run)
        if settings.metrics_port is not None:
            await nursery.start(observer.serve_metrics, settings.metrics_port)
        nursery.start_soon(claims.run)
        _serve_calls(network, parts.membership, advertiser)
        nursery.start_soon(served.watch)
        nursery.start_soon(follow_configuration, network, parts.book)
        nursery.start_soon(enforce_bans, network, parts.book, parts.membership)
        nursery.start_soon(parts.standing.keep, uplink)
        await nursery.start(advertiser.run)
        log.info("node %s serves %s", network.local, file.name)
        drain = partial(_drain, agent, advertiser, settings.drain_s)
        account_id = parts.account.account_id
        task_status.started(
            RunningNode(network.local, network.addresses(), file.name, account_id, drain)
        )


async def _drain(agent: Agent, advertiser: Advertiser, patience_s: float) -> None:
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


def _view(
    parts: _Parts,
    agent: Agent,
    served: ServedModel,
    runtime: RuntimeProcess,
    uplink: Uplink,
    journal: OwedJournal,
) -> NodeView:
    return NodeView(
        agent,
        served,
        runtime,
        uplink,
        journal,
        parts.standing,
        parts.account.account_id,
        parts.sandboxed,
        parts.clock_ms(),
        parts.clock_ms,
    )


async def _serve_session(agent: Agent, claims: ClaimDesk, stream: Stream) -> None:
    try:
        await agent.serve(stream)
    finally:
        claims.session_ended(stream.remote)


def _check_approved(book: ConfigurationBook, file: ModelFile, path: Path) -> None:
    approved = book.current.model_with_digest(file.digest)
    if approved is None:
        names = ", ".join(model.name for model in book.current.models) or "none"
        raise ModelFileError(
            f"{path} is not approved by this network (sha256 {file.digest.hex()}); "
            f"approved models: {names}"
        )


def _make_agent(
    parts: _Parts, file: ModelFile, runtime: RuntimeProcess, network: Network
) -> tuple[ServedModel, Agent, Advertiser]:
    def changed() -> None:
        advertiser.changed()
        agent.load_changed()

    served = ServedModel(file, runtime, parts.book, on_change=changed)
    advertiser = Advertiser(
        network, parts.membership, served.adverts, software=SOFTWARE, clock_ms=parts.clock_ms
    )
    agent = Agent(
        key_pair=parts.key_pair,
        network=parts.settings.network_id,
        membership=parts.membership,
        configuration=parts.book,
        runtime=runtime,
        model_digest=file.digest,
        model_id=file.model_id,
        slots=runtime.facts.slots,
        queue_jobs_max=parts.settings.queue_jobs_max,
        active=lambda: served.active,
        tokens_per_second=lambda: runtime.stats.tokens_per_second,
        clock_ms=parts.clock_ms,
        accept_leases=parts.settings.accept_leases,
    )
    return served, agent, advertiser


def _serve_calls(network: Network, membership: Membership, advertiser: Advertiser) -> None:
    async def get(caller: Caller, body: bytes) -> bytes:
        return encode_message(advertiser.advert())

    handle_calls(network, CALLS_PROTOCOL, membership, {ADVERT_GET: get})
