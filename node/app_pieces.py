"""Owns how the pieces of a running node are made and put together: agent, adverts, reach, view."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from functools import partial

import trio

from node.agent.advertiser import Advertiser
from node.agent.agent import Agent
from node.app_parts import Changes, Parts
from node.claims.journal import OwedJournal
from node.errors import ModelFileError
from node.observation.looking import NodeView
from node.reaching import Reaching
from node.serving.machine import machine_of
from node.serving.models import ServedModels
from node.serving.shelf import FileFacts
from node.subclouds.benchmarking import serve_benchmarks
from node.subclouds.evidence_keeper import EvidenceKeeper
from node.subclouds.wishes import EVIDENCE_FOLDER, FOLDER
from node.upstream.making import open_upstream
from node.upstream.served import Declared
from p2p.network import Network
from p2p.software import SOFTWARE
from p2p.uplink import Uplink

log = logging.getLogger(__name__)


def make_reaching(
    parts: Parts, network: Network, uplink: Uplink, advertiser: Advertiser
) -> Reaching:
    """Make what finds out how others reach this node."""
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


def make_view(
    parts: Parts,
    agent: Agent,
    models: ServedModels,
    uplink: Uplink,
    journal: OwedJournal,
) -> NodeView:
    """Make what the operator's status is taken from."""
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
        subclouds=parts.subclouds.status,
        wishes_ns=lambda: parts.subclouds.service.answered_ns,
        evidence=lambda: parts.subclouds.evidence_lines(),
    )


def check_approved(parts: Parts, file: FileFacts) -> None:
    """Refuse a file that may not be served. Raises: ModelFileError."""
    current, subclouds = parts.book.current, parts.subclouds
    subclouds.manager.find_own_models()
    if current.model_with_digest(file.digest) or subclouds.manager.own_model(file.digest):
        return
    if subclouds.any_named:  # whose policy may come, and approve it
        log.warning("%s is approved neither by the network nor by a policy (yet)", file.path)
        return
    names = ", ".join(model.name for model in current.models) or "none"
    raise ModelFileError(
        f"{file.path} is not approved by this network (sha256 {file.digest.hex()}); "
        f"approved models: {names}"
    )


async def run_subclouds(
    parts: Parts,
    agent: Agent,
    models: ServedModels,
    network: Network,
    uplink: Uplink,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep the node's memberships; started after the first evaluation."""
    manager, service = parts.subclouds.manager, parts.subclouds.service
    manager.models = models.all
    manager.hardware = partial(machine_of, parts.hardware, models)
    parts.book.on_change(lambda _: manager.changed())
    keeper = EvidenceKeeper(
        network,
        parts.key_pair,
        parts.book,
        clock_ms=parts.clock_ms,
        folder=parts.settings.data_dir / FOLDER / EVIDENCE_FOLDER,
        country=lambda: parts.settings.country,
        on_change=manager.changed,
        addresses_of=lambda peer_id: tuple(
            address for address in parts.settings.bootstraps if address.endswith(f"/p2p/{peer_id}")
        ),
    )
    manager.evidence, manager.attestations = keeper.documents, keeper.attestations
    service.on_evidence = keeper.add
    parts.subclouds.evidence_lines = keeper.lines
    serve_benchmarks(network, agent, on_statement=keeper.add, admits=manager.admits_gateway)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await service.run(network, uplink, task_status=task_status)


def make_agent(parts: Parts, models: ServedModels, network: Network) -> tuple[Agent, Advertiser]:
    """Make the agent, and what tells the network what it serves."""
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
        subclouds=parts.subclouds.manager,
    )
    agent.refusals.quotes = not settings.stores_no_content
    advertiser = Advertiser(
        network, parts.membership, agent.adverts, software=SOFTWARE, clock_ms=parts.clock_ms
    )
    advertiser.hardware = partial(machine_of, parts.hardware, models)
    return agent, advertiser


async def add_upstream(
    parts: Parts,
    models: ServedModels,
    changes: Changes,
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
                own_model=parts.subclouds.manager.own_model,
                log_reasons=not settings.stores_no_content,
            ),
            configuration=parts.book,
            network=settings.network_id,
            on_change=changes.tell,
            unlisted_ok=parts.subclouds.any_named,
        )
    )
    for model in found:
        await nursery.start(model.run)
        models.add(model)
