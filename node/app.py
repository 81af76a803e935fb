"""Owns the composition of a node: agent and runtime, admitted by a bootstrap, serving models."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

import trio

from node.agent.advertiser import Advertiser
from node.agent.agent import Agent
from node.app_parts import Changes, Parts, make_parts, open_network
from node.app_pieces import (
    add_upstream,
    check_approved,
    make_agent,
    make_reaching,
    make_view,
    run_subclouds,
)
from node.claims.desk import ClaimDesk
from node.claims.journal import OwedJournal
from node.limits import HOURS_LOOK_INTERVAL_S
from node.observation.observer import Observer
from node.sandbox import forbid_core_dumps
from node.serving.opening import OpenModels, open_models
from node.settings import NodeSettings
from p2p.call_service import handle_calls
from p2p.calls import CALLS_PROTOCOL, Caller
from p2p.clock import Clock, system_clock_ms
from p2p.codec import encode_message
from p2p.configuration_sync import enforce_bans, fetch_configuration, follow_configuration
from p2p.job_messages import JOBS_PROTOCOL
from p2p.membership import Membership
from p2p.network import Network, Stream
from p2p.types import PeerId
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
    if settings.stores_no_content:
        forbid_core_dumps()
    parts = make_parts(settings, clock_ms)
    changes = Changes()
    own_model = parts.subclouds.manager.own_model
    async with open_models(settings, parts.book, changes.tell, own_model) as opened:
        parts.sandboxed = opened.sandboxed
        async with open_network(parts) as network:
            await _serve(parts, opened, changes, network, task_status)


async def _serve(
    parts: Parts,
    opened: OpenModels,
    changes: Changes,
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
            check_approved(parts, opened.file.kept.file)
        await add_upstream(parts, models, changes, stack, nursery)
        journal = OwedJournal(settings.data_dir / "owed.journal")
        claims = ClaimDesk(
            journal, parts.key_pair, settings.network_id, uplink.call, clock_ms=parts.clock_ms
        )
        agent, advertiser = make_agent(parts, models, network)
        changes.listeners += [advertiser.changed, agent.load_changed, parts.subclouds.changed]
        agent.claims = claims
        await nursery.start(run_subclouds, parts, agent, models, network, uplink)
        reaching = make_reaching(parts, network, uplink, advertiser)
        view = replace(make_view(parts, agent, models, uplink, journal), reach=reaching.summary)
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


async def _serve_session(agent: Agent, claims: ClaimDesk, stream: Stream) -> None:
    try:
        await agent.serve(stream)
    finally:
        claims.session_ended(stream.remote)


async def _follow_hours(agent: Agent, changes: Changes) -> None:
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
