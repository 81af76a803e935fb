"""Owns a gateway for tests whose nodes offer other servers: the real agent and the real upstream
runtime, real HTTP at both ends, and the in-memory network between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from node.agent.agent import Agent
from node.agent.runtime_port import ModelState, Served
from node.upstream.client import UpstreamTimes
from node.upstream.making import open_upstream
from node.upstream.served import Declared, UpstreamModel
from p2p.adverts import Advert
from p2p.job_messages import JOBS_PROTOCOL
from p2p.network_configuration import UnverifiedModel
from p2p.signing import KeyPair, Signed
from p2p.types import Role
from tests.fakes import trust
from tests.fakes.gateway_world import NODES, GatewayWorld
from tests.fakes.upstream_server import FakeUpstream, run_upstream

BIG = UnverifiedModel(
    name="big",
    context_tokens=8192,
    default_output_tokens=64,
    input_microcredits_per_million_tokens=100_000,
    output_microcredits_per_million_tokens=200_000,
    modalities=("text", "image"),
    image_tokens_max=500,
)
TIMES = UpstreamTimes(connect_s=20, first_byte_s=60, stall_s=60, probe_s=20)


class OneModel:
    """The models of a node that has one."""

    def __init__(self, model: UpstreamModel) -> None:
        self.model = model

    def get(self, digest: bytes) -> Served | None:
        return self.model if digest == self.model.digest else None

    def all(self) -> Iterable[Served]:
        return (self.model,)


class UpstreamNode:
    """One node with a server behind it."""

    def __init__(self, world: UpstreamWorld, key_pair: KeyPair, server: FakeUpstream) -> None:
        self.key_pair = key_pair
        self.chain = world.node_chain(key_pair)
        self.server = server
        self.addresses: tuple[str, ...] = ()
        self.book = world.book()
        self.membership = world.membership(key_pair, Role.NODE, self.chain, self.book)
        self.model: UpstreamModel
        self.agent: Agent
        self._world = world
        self._sequence = 0

    def start(self, model: UpstreamModel) -> None:
        self.model = model
        self.agent = Agent(
            key_pair=self.key_pair,
            network=trust.NETWORK,
            membership=self.membership,
            configuration=self.book,
            models=OneModel(model),
            queue_jobs_max=8,
            clock_ms=self._world.clock_ms,
        )

    def advert(self) -> Signed:
        self._sequence += 1
        now_ms = self._world.clock_ms()
        model = self.model.advert()
        document = Advert(
            peer_id=self.key_pair.peer_id,
            sequence=now_ms + self._sequence,
            issued_ms=now_ms,
            expires_ms=now_ms + 45_000,
            chain=self.chain,
            addresses=self.addresses,
            models=() if model is None else (model,),
            software="fake/1",
        )
        return self.key_pair.sign(trust.NETWORK, document)


class UpstreamWorld(GatewayWorld):
    """A gateway and nodes with servers behind them."""

    def __init__(self, data_dir: Path, model: UnverifiedModel = BIG, **options: Any) -> None:
        super().__init__(data_dir, nodes=0, unverified_models=(model,), **options)
        self.upstream_nodes: list[UpstreamNode] = []

    # What the nodes need of the world.
    def node_chain(self, pair: KeyPair) -> tuple[Signed, ...]:
        return self._node_chain(pair)

    def book(self) -> Any:
        return self._book()

    def membership(self, *arguments: Any) -> Any:
        return self._membership(*arguments)

    async def _open_node(self, stack: AsyncExitStack, node: Any) -> None:
        network = await self._open(stack, node.membership)
        node.addresses = network.addresses()
        network.handle(JOBS_PROTOCOL, node.agent.serve)

    @asynccontextmanager
    async def run_with(
        self, *servers: FakeUpstream, declared: Declared | None = None, **settings: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Run everything, a node for each server."""
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            for pair, server in zip(NODES, servers, strict=False):
                await stack.enter_async_context(run_upstream(server))
                node = UpstreamNode(self, pair, server)
                models = await stack.enter_async_context(
                    open_upstream(
                        server.url,
                        (),
                        key_file=None,
                        operator=declared or Declared(slots=4),
                        configuration=node.book,
                        network=trust.NETWORK,
                        on_change=lambda: None,
                        environment={},
                        times=TIMES,
                    )
                )
                await nursery.start(models[0].run)
                assert models[0].state is ModelState.ACTIVE, models[0].reason
                server.questions.clear()
                node.start(models[0])
                self.upstream_nodes.append(node)
            self.nodes = self.upstream_nodes  # type: ignore[assignment]
            async with self.run(**settings) as client:
                yield client
            nursery.cancel_scope.cancel()
