"""Owns a gateway for tests: the real one with real HTTP, on the in-memory network."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from gateway import app
from gateway.app import Peer, RunningGateway
from gateway.http.server import bind_http_socket
from gateway.settings import GatewaySettings
from p2p.adverts import ModelAdvert
from p2p.call_service import handle_calls
from p2p.calls import CALLS_PROTOCOL, Caller
from p2p.clock import system_clock_ms
from p2p.codec import encode_message, encode_messages
from p2p.configuration_book import ConfigurationBook
from p2p.job_messages import JOBS_PROTOCOL
from p2p.lease_messages import LEDGER_NOTICE_TOPIC, LedgerNotice
from p2p.ledger_notices import encode_notice
from p2p.membership import Membership
from p2p.memory_network import MemoryHub
from p2p.network_configuration import ApprovedModel, Limits, UnverifiedModel
from p2p.signing import KeyPair, Signed
from p2p.types import Role
from tests.fakes import trust
from tests.fakes.ledger import FakeLedger, api_key
from tests.fakes.nodes import FakeNode, Script

MODEL_ADVERT = ModelAdvert(
    name="tiny-chat",
    digest=trust.MODEL_DIGEST,
    model_id=trust.MODEL_ID,
    context_tokens=1024,
    quantisation="Q8_0",
    slots=4,
    tasks=("chat",),
    modalities=("text",),
)
NODES = (trust.NODE, trust.OTHER_NODE)


def _no_records(key: bytes, value: bytes) -> int:
    return 0


class GatewayWorld:
    """A bootstrap that only introduces, some nodes, a gateway, and a client.

    Without `lease_usable_s` its network has no leases.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        nodes: int = 2,
        lease_usable_s: int = 0,
        approved: tuple[ApprovedModel, ...] = (trust.MODEL,),
        unverified_models: tuple[UnverifiedModel, ...] = (),
        **ledger_options: Any,
    ) -> None:
        self.hub = MemoryHub(1)
        self.data_dir = data_dir
        self.clock_ms = system_clock_ms
        self.issued_ms = system_clock_ms() - 1000
        options = {"issued_ms": self.issued_ms}
        self.signed_configuration = trust.configuration(
            issued_ms=self.issued_ms,
            limits=Limits(lease_usable_s=lease_usable_s),
            models=approved,
            unverified_models=unverified_models,
        )
        chain = trust.gateway_chain(**options)
        book = self._book()
        membership = self._membership(trust.GATEWAY, Role.GATEWAY, chain, book)
        self.peer = Peer(trust.GATEWAY, trust.NETWORK, book, membership, self.clock_ms)
        self.ledger = FakeLedger(
            trust.NETWORK, trust.BOOTSTRAP, trust.GATEWAY.peer_id, self.clock_ms, **ledger_options
        )
        self.nodes = [
            FakeNode(
                pair,
                trust.NETWORK,
                self._node_chain(pair),
                model=MODEL_ADVERT,
                clock_ms=self.clock_ms,
            )
            for pair in NODES[:nodes]
        ]
        self.stop = trio.Event()
        self.running: RunningGateway | None = None
        self.bootstrap_network: Any = None
        self.key = api_key()

    def _node_chain(self, pair: KeyPair) -> tuple[Signed, ...]:
        leaf = trust.certificate(pair.peer_id, Role.NODE, trust.BOOTSTRAP, issued_ms=self.issued_ms)
        return (leaf, *trust.bootstrap_chain(issued_ms=self.issued_ms))

    def _book(self) -> ConfigurationBook:
        book = ConfigurationBook(trust.NETWORK)
        book.offer(self.signed_configuration)
        return book

    def _membership(
        self, pair: KeyPair, role: Role, chain: tuple[Signed, ...], book: ConfigurationBook
    ) -> Membership:
        return Membership(
            pair,
            trust.NETWORK,
            role,
            book,
            clock_ms=self.clock_ms,
            software="fake/1",
            chain=chain,
        )

    async def _open(self, stack: AsyncExitStack, gate: Membership) -> Any:
        return await stack.enter_async_context(
            self.hub.open(gate.key_pair, trust.NETWORK, gate=gate, record_check=_no_records)
        )

    async def _open_bootstrap(self, stack: AsyncExitStack) -> str:
        chain = trust.bootstrap_chain(issued_ms=self.issued_ms)
        gate = self._membership(trust.BOOTSTRAP, Role.BOOTSTRAP, chain, self._book())
        network = self.bootstrap_network = await self._open(stack, gate)

        async def configuration(caller: Caller, body: bytes) -> bytes:
            return encode_message(self.signed_configuration)

        async def adverts(caller: Caller, body: bytes) -> bytes:
            return encode_messages([node.advert() for node in self.nodes]) if self.nodes else b""

        handlers = {"configuration.get": configuration, "adverts.list": adverts}
        handle_calls(network, CALLS_PROTOCOL, gate, handlers)
        return str(network.addresses()[0])

    async def _open_node(self, stack: AsyncExitStack, node: FakeNode) -> None:
        gate = self._membership(node.key_pair, Role.NODE, node.chain, self._book())
        network = await self._open(stack, gate)
        node.addresses = network.addresses()
        network.handle(JOBS_PROTOCOL, node.serve)

    @asynccontextmanager
    async def run(self, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        """Run everything; gives a client with a valid key as soon as the nodes are connected."""
        async with AsyncExitStack() as stack:
            address = await self._open_bootstrap(stack)
            for node in self.nodes:
                await self._open_node(stack, node)
            network = await self._open(stack, self.peer.membership)
            options = GatewaySettings(
                data_dir=self.data_dir,
                network=trust.NETWORK,
                bootstraps=(address,),
                certificate=self.data_dir / "unused",
                http_port=0,
                **{"stop_grace_s": 2.0, **settings},
            )
            listener = bind_http_socket(options.http_host, 0)
            nursery = await stack.enter_async_context(trio.open_nursery())

            async def serve(
                *, task_status: trio.TaskStatus[RunningGateway] = trio.TASK_STATUS_IGNORED
            ) -> None:
                with trio.CancelScope(shield=True):
                    await app.serve(
                        options,
                        self.peer,
                        network,
                        listener,
                        self.stop,
                        ledger=self.ledger,
                        task_status=task_status,
                    )

            self.running = await nursery.start(serve)
            async with self.client() as client:
                try:
                    await self._ready(client)
                    yield client
                finally:
                    self.stop.set()

    async def notify(self, notice: LedgerNotice) -> None:
        """Gossip a ledger notice as the bootstrap."""
        chain = trust.bootstrap_chain(issued_ms=self.issued_ms)
        data = encode_notice(notice, trust.BOOTSTRAP, trust.NETWORK, chain)
        await self.bootstrap_network.publish(LEDGER_NOTICE_TOPIC, data)

    async def leases_at_gateway(self, client: httpx.AsyncClient, count: int) -> None:
        """Wait until the gateway has so many leases."""
        with trio.fail_after(20):
            while (await client.get("/healthz")).json()["leases"] != count:
                await trio.sleep(0.01)

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """A client of the gateway."""
        assert self.running is not None
        return httpx.AsyncClient(
            base_url=self.running.base_url.removesuffix("/v1"),
            headers={"authorization": f"Bearer {key or self.key.text}"},
            timeout=30,
            trust_env=False,
        )

    async def raw_post(self, path: str, body: dict[str, Any]) -> trio.SocketStream:
        """Send a request on a bare socket, to leave when one likes."""
        assert self.running is not None
        data = json.dumps(body).encode()
        stream = await trio.open_tcp_stream("127.0.0.1", self.running.http_port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key.text}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        await stream.send_all(head.encode() + data)
        return stream

    async def _ready(self, client: httpx.AsyncClient) -> None:
        with trio.fail_after(20):
            while True:
                health = (await client.get("/healthz")).json()
                if health["status"] == "ok" and health["nodes"] == len(self.nodes):
                    return
                await trio.sleep(0.02)


def chat(content: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": "tiny-chat", "messages": [{"role": "user", "content": content}], **fields}


def script_next(world: GatewayWorld, script: Script) -> None:
    """Whichever node gets the next job does this; later jobs are answered properly."""
    used: list[bool] = []

    class Once(list[Script]):
        def __bool__(self) -> bool:
            return not used

        def pop(self, index: Any = -1) -> Script:
            used.append(True)
            return script

    for node in world.nodes:
        node.scripts = Once()


def streamed_text(text: str) -> str:
    parts = []
    for block in text.split("\n\n"):
        data = block.removeprefix("data: ")
        if data and data != "[DONE]":
            choices = json.loads(data).get("choices", [])
            parts += [choice["delta"].get("content", "") for choice in choices]
    return "".join(parts)
