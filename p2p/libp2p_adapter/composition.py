"""Owns the life of a libp2p network: puts the parts together, runs them, and ends them in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2p.errors import MalformedError, PeerUnavailableError
from p2p.libp2p_adapter.connections import Connections, Link
from p2p.libp2p_adapter.directory import Directory
from p2p.libp2p_adapter.gossip import Gossip
from p2p.libp2p_adapter.gossip_router import GossipRouter
from p2p.libp2p_adapter.host import GatedHost, make_swarm
from p2p.libp2p_adapter.isolation import enter_network
from p2p.libp2p_adapter.limits import CLOSE_TIMEOUT_S
from p2p.libp2p_adapter.network import LibP2PNetwork
from p2p.libp2p_adapter.repairs import RepairedSwarm, apply_repairs
from p2p.limits import PRE_SHARED_KEY_BYTES
from p2p.network import Gate, RecordCheck
from p2p.signing import KeyPair
from p2p.types import NetworkId, PeerId


@asynccontextmanager
async def run_network(
    key_pair: KeyPair,
    network_id: NetworkId,
    *,
    gate: Gate,
    record_check: RecordCheck,
    listen_addresses: Sequence[str],
    announce_addresses: Sequence[str] | None,
    subscribes: bool,
    directory_server: bool,
    pre_shared_key: bytes | None,
    clock: Callable[[], float],
) -> AsyncIterator[LibP2PNetwork]:
    """Run a network while the block runs (see `open_libp2p_network`)."""
    listen = [_parse(address) for address in listen_addresses]
    announce = None if announce_addresses is None else [_parse(a) for a in announce_addresses]
    if pre_shared_key is not None and len(pre_shared_key) != PRE_SHARED_KEY_BYTES:
        raise MalformedError(f"a pre-shared key has {PRE_SHARED_KEY_BYTES} bytes")
    apply_repairs()
    names = enter_network(network_id)
    swarm = make_swarm(key_pair, pre_shared_key)
    host = GatedHost(swarm, announce)

    def on_member(link: Link) -> None:
        gossip.admit(link)
        directory.admit(link)

    def on_lost(link: Link, last: bool) -> None:
        gossip.link_lost(link)
        if last:
            gossip.peer_gone(link)
            directory.peer_gone(link)

    def on_abuse(peer_id: PeerId) -> None:
        network.in_background(lambda: connections.close_peer(peer_id))

    connections = Connections(gate, names.hello, on_member, on_lost)
    host.attach(connections)
    router = GossipRouter()
    gossip = Gossip(host, router, names, clock, on_abuse)
    directory = Directory(host, names, record_check, server=directory_server)
    network = LibP2PNetwork(host, connections, gossip, directory, names, subscribes)
    async with _unwrapped(), AsyncExitStack() as stack:
        await stack.enter_async_context(background_trio_service(swarm))
        stack.push_async_callback(_close, host)
        for service in (gossip, router, directory.service):
            await stack.enter_async_context(background_trio_service(service))
        # The innermost: a cancelled scope around the services would swallow the block's exception.
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(connections.run)
        await nursery.start(network.run)
        await nursery.start(directory.run)
        await _listen(swarm, listen)
        try:
            yield network
        finally:
            nursery.cancel_scope.cancel()


def _parse(address: str) -> Multiaddr:
    try:
        parsed = Multiaddr(address)
        parsed.value_for_protocol("tcp")
    except Exception as error:  # multiaddr raises many kinds
        raise MalformedError(f"not a TCP multiaddress: {address[:200]!r}") from error
    return parsed


async def _listen(swarm: RepairedSwarm, addresses: Sequence[Multiaddr]) -> None:
    for address in addresses:
        if not await swarm.listen(address):
            raise PeerUnavailableError(
                f"cannot listen on {address}: is the port in use, or the address not ours?"
            )


async def _close(host: GatedHost) -> None:
    """Say goodbye on every connection: otherwise peers keep them until they fall silent."""
    with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT_S):
        async with trio.open_nursery() as nursery:  # upstream closes one after the other
            for conn in host.get_network().get_connections():
                nursery.start_soon(conn.close)
        await host.close()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


@asynccontextmanager
async def _unwrapped() -> AsyncIterator[None]:
    """Raise what the block raised as it is: the nurseries below wrap it in groups.

    Two different exceptions stay a group: then something of ours failed too.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = [leaf for leaf in _leaves(group) if not isinstance(leaf, trio.Cancelled)]
        if len({id(leaf) for leaf in leaves}) != 1:
            raise
        raise leaves[0] from leaves[0].__cause__
