"""Owns what tests need to open networks of both adapters: simple gates, worlds, and waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Protocol

import trio

from p2p.errors import (
    MalformedError,
    SessionLostError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.memory_network import MemoryHub
from p2p.network import Access, Network, Stream
from p2p.signing import KeyPair
from p2p.types import NetworkId, PeerId

NETWORK = NetworkId("contract-" + "0" * 32)
PATIENCE_S = 20.0
"""Against hanging only: nothing is measured by it."""


def pair(name: str) -> KeyPair:
    """Make the key pair of a name."""
    return KeyPair(name.encode().ljust(32, b"."))


class SimpleGate:
    """A gate that exchanges labels: `network/access`, and refuses whom it is told to refuse."""

    def __init__(
        self, *, network: str = "one", claims: Access = Access.MEMBER, silent: bool = False
    ) -> None:
        self.network = network
        self.claims = claims
        self.silent = silent
        self.refused: set[PeerId] = set()
        self.greeted: list[PeerId] = []
        self.forgotten: list[PeerId] = []

    async def greet(self, stream: Stream, *, dialled: bool) -> Access:
        if self.silent:
            await trio.sleep_forever()
        mine = f"{self.network}/{self.claims.value}\n".encode()
        if dialled:
            await stream.send_all(mine)
            theirs = await self._read(stream)
        else:
            theirs = await self._read(stream)
            if stream.remote in self.refused:
                raise UntrustedError(f"{stream.remote} is refused")
            await stream.send_all(mine)
        network, _, access = theirs.partition("/")
        if network != self.network:
            raise WrongNetworkError(f"{network} is another network than {self.network}")
        self.greeted.append(stream.remote)
        return Access(access)

    async def _read(self, stream: Stream) -> str:
        line = b""
        while not line.endswith(b"\n"):
            chunk = await stream.receive_some()
            if not chunk:
                raise SessionLostError("the other side ended the hello")
            line += chunk
            if len(line) > 100:
                raise MalformedError("this is not a hello")
        try:
            return line[:-1].decode()
        except UnicodeDecodeError as error:
            raise MalformedError("this is not a hello") from error

    def forget(self, peer_id: PeerId) -> None:
        self.forgotten.append(peer_id)


def simple_records(key: bytes, value: bytes) -> int:
    """Records are `<sequence>:<anything>`."""
    head, separator, _ = value.partition(b":")
    if not separator or not head.isdigit():
        raise UntrustedError("not a record")
    return int(head)


class World(Protocol):
    """Opens networks of one adapter."""

    def open(self, name: str, gate: Any = None, **options: Any) -> Any: ...

    async def crash(self, network: Any) -> None: ...


class MemoryWorld:
    """Networks on one hub."""

    def __init__(self, seed: int = 1) -> None:
        self.hub = MemoryHub(seed, delay_s=(0.0002, 0.001))

    def open(self, name: str, gate: Any = None, **options: Any) -> Any:
        options.setdefault("record_check", simple_records)
        return self.hub.open(pair(name), NETWORK, gate=gate or SimpleGate(), **options)

    async def crash(self, network: Any) -> None:
        self.hub.crash(network.local)


class LibP2PWorld:
    """Networks on loopback sockets."""

    def open(self, name: str, gate: Any = None, **options: Any) -> Any:
        from p2p.libp2p_adapter import open_libp2p_network

        options.setdefault("record_check", simple_records)
        return open_libp2p_network(pair(name), NETWORK, gate=gate or SimpleGate(), **options)

    async def crash(self, network: Any) -> None:
        for link in network._connections.links():
            await link.muxer._close_socket()


WORLDS: dict[str, Callable[[], World]] = {"memory": MemoryWorld, "libp2p": LibP2PWorld}


@asynccontextmanager
async def connected_pair(world: World, **options: Any) -> AsyncIterator[tuple[Network, Network]]:
    """Open two networks, the first connected to the second."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(world.open("one", **options))
        two = await stack.enter_async_context(world.open("two", **options))
        await one.connect(two.addresses()[0])
        await eventually(lambda: two.access_of(one.local) is not None)
        yield one, two


async def eventually(
    check: Callable[[], bool] | Callable[[], Awaitable[bool]], timeout_s: float = PATIENCE_S
) -> None:
    """Wait until a check holds (it may be async)."""
    with trio.fail_after(timeout_s):
        while True:
            result = check()
            if not isinstance(result, bool):
                result = await result
            if result:
                return
            await trio.sleep(0.01)


async def receive_all(stream: Stream) -> bytes:
    """Read a stream to its end."""
    parts = []
    while chunk := await stream.receive_some():
        parts.append(chunk)
    return b"".join(parts)


async def receive_exactly(stream: Stream, size_bytes: int) -> bytes:
    """Read that many bytes (fewer if the stream ends before)."""
    data = bytearray()
    while len(data) < size_bytes:
        chunk = await stream.receive_some()
        if not chunk:
            break
        data += chunk
    return bytes(data)


@contextmanager
def process_free_of_networks() -> Iterator[None]:
    """Let this process serve another network than the tests before and after (none may be open).

    A real process serves one network for life: names are bound in py-libp2p's modules. Only a test
    run, where many networks follow each other, takes them back.
    """
    _unbind()
    try:
        yield
    finally:
        _unbind()


def _unbind() -> None:
    from p2p.libp2p_adapter import isolation

    for network_id in isolation._serving:
        names = isolation.Names(network_id)
        kad, gossip = isolation._KAD_MODULES, isolation._GOSSIP_MODULES
        isolation._rebind("libp2p.kad_dht", kad, names.directory, "/ipfs/kad/1.0.0")
        isolation._rebind("libp2p.pubsub", gossip, names.gossip, "/meshsub/1.1.0")
    isolation._serving.clear()
