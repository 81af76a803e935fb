"""Owns a gateway and nodes that cannot be dialled, on the in-memory network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import trio

from bootstrap.gateway_directory import GatewayDirectory
from gateway import app
from gateway.app import RunningGateway
from gateway.http.server import bind_http_socket
from gateway.settings import GatewaySettings
from node.reaching import Reaching
from p2p.adverts import HIDDEN, advert_topic
from p2p.call_service import handle_calls
from p2p.calls import CALLS_PROTOCOL, Caller
from p2p.codec import encode_message
from p2p.job_messages import JOBS_PROTOCOL
from p2p.network import Network, Way
from p2p.reaching.relay import Relay, RelayCaps
from p2p.signing import Signed
from p2p.types import Role
from p2p.uplink import Uplink
from tests.fakes import trust
from tests.fakes.gateway_world import GatewayWorld, _no_records
from tests.fakes.nodes import FakeNode

BOOTSTRAP_PLACE = "/ip4/127.0.0.1/tcp/4100"
BOOTSTRAP_ADDRESS = f"{BOOTSTRAP_PLACE}/p2p/{trust.BOOTSTRAP.peer_id}"


class HiddenNode:
    """A scripted node without a listener, kept within reach by the real `Reaching`."""

    def __init__(self, world: HiddenWorld, node: FakeNode) -> None:
        self.world = world
        self.node = node
        self.network: Any = None
        self.reaching: Any = None
        self._changed = trio.Event()

    def advert(self) -> Signed:
        addresses, reach = self.reaching.where()
        return self.node.advert(addresses=addresses, reach=reach)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        world = self.world
        gate = world._membership(self.node.key_pair, Role.NODE, self.node.chain, world._book())
        async with (
            world.hub.open(
                gate.key_pair,
                trust.NETWORK,
                gate=gate,
                record_check=_no_records,
                listen_addresses=(),
            ) as network,
            trio.open_nursery() as nursery,
        ):
            self.network = network
            network.handle(JOBS_PROTOCOL, self.node.serve)
            uplink = Uplink(network, (BOOTSTRAP_ADDRESS,))
            self.reaching = Reaching(
                network,
                uplink,
                mode="auto",
                announced=False,
                clock_ms=world.clock_ms,
                on_change=lambda: self._changed.set(),
                jitter=lambda: 0.1,
            )
            await nursery.start(uplink.run)
            nursery.start_soon(self.reaching.run)
            task_status.started()
            while True:
                await network.publish(advert_topic(), encode_message(self.advert()))
                with trio.move_on_after(1):
                    await self._changed.wait()
                self._changed = trio.Event()


class HiddenWorld(GatewayWorld):
    """A bootstrap with a relay, hidden nodes, and gateways that come and go."""

    def __init__(self, data_dir: Path, *, nodes: int = 1, **options: Any) -> None:
        super().__init__(data_dir, nodes=nodes, **options)
        self.hidden = [HiddenNode(self, node) for node in self.nodes]
        self.directory = GatewayDirectory(trust.NETWORK, clock_ms=self.clock_ms)
        self.relay: Any = None
        self.network: Any = None

    async def run_bootstrap(
        self, *, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Be the bootstrap until the scope that is given is cancelled."""
        chain = trust.bootstrap_chain(issued_ms=self.issued_ms)
        gate = self._membership(trust.BOOTSTRAP, Role.BOOTSTRAP, chain, self._book())
        directory = GatewayDirectory(trust.NETWORK, clock_ms=self.clock_ms)

        async def configuration(caller: Caller, body: bytes) -> bytes:
            return encode_message(self.signed_configuration)

        async def adverts(caller: Caller, body: bytes) -> bytes:
            return b""

        with trio.CancelScope() as scope:
            async with (
                self.hub.open(
                    trust.BOOTSTRAP,
                    trust.NETWORK,
                    gate=gate,
                    record_check=_no_records,
                    listen_addresses=(BOOTSTRAP_PLACE,),
                ) as network,
                trio.open_nursery() as nursery,
            ):
                self.bootstrap_network = network
                self.relay = Relay(
                    network, gate.certificate_of, RelayCaps(), clock_ms=self.clock_ms
                )
                self.relay.register()
                handlers = {"configuration.get": configuration, "adverts.list": adverts}
                handle_calls(network, CALLS_PROTOCOL, gate, {**handlers, **directory.handlers()})
                nursery.start_soon(directory.run, network)
                for topic in (advert_topic(),):
                    nursery.start_soon(_relay_topic, network, topic)
                task_status.started(scope)
                await trio.sleep_forever()

    @asynccontextmanager
    async def surroundings(self) -> AsyncIterator[trio.Nursery]:
        """Run bootstrap and nodes; `bootstrap_scope` ends the bootstrap."""
        async with trio.open_nursery() as nursery:
            self.bootstrap_scope = await nursery.start(self.run_bootstrap)
            for hidden in self.hidden:
                await nursery.start(hidden.run)
            yield nursery
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def gateway(
        self, listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",), **settings: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Run a gateway; gives a client as soon as all nodes are connected."""
        stop = trio.Event()
        membership = self._membership(trust.GATEWAY, Role.GATEWAY, self.peer.chain, self._book())
        peer = replace(self.peer, membership=membership)
        async with AsyncExitStack() as stack:
            network = await stack.enter_async_context(
                self.hub.open(
                    trust.GATEWAY,
                    trust.NETWORK,
                    gate=membership,
                    record_check=_no_records,
                    listen_addresses=listen,
                )
            )
            self.network = network
            options = GatewaySettings(
                data_dir=self.data_dir,
                network=trust.NETWORK,
                bootstraps=(BOOTSTRAP_ADDRESS,),
                certificate=self.data_dir / "unused",
                http_port=0,
                **{"stop_grace_s": 1.0, "reachable": "yes", **settings},
            )
            listener = bind_http_socket(options.http_host, 0)
            nursery = await stack.enter_async_context(trio.open_nursery())

            async def serve(
                *, task_status: trio.TaskStatus[RunningGateway] = trio.TASK_STATUS_IGNORED
            ) -> None:
                with trio.CancelScope(shield=True):
                    await app.serve(
                        options, peer, network, listener, stop,
                        ledger=self.ledger, task_status=task_status,
                    )  # fmt: skip

            self.running = await nursery.start(serve)
            async with self.client() as client:
                try:
                    await self._ready(client)
                    yield client
                finally:
                    stop.set()

    def ways(self) -> list[Way | None]:
        """How the gateway reaches each node."""
        return [self.network.way_to(hidden.node.key_pair.peer_id) for hidden in self.hidden]


async def _relay_topic(network: Network, topic: str) -> None:
    async for _ in network.subscribe(topic):
        pass


__all__ = ["HIDDEN", "HiddenNode", "HiddenWorld"]
