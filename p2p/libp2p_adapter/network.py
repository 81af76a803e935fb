"""Owns the network object of the libp2p adapter: the port's methods, each handed to its part."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p.errors import (
    DeadlineError,
    MalformedError,
    P2PError,
    PeerUnavailableError,
    RefusedError,
)
from p2p.libp2p_adapter.connections import Connections, Link
from p2p.libp2p_adapter.directory import Directory
from p2p.libp2p_adapter.gossip import Gossip
from p2p.libp2p_adapter.host import GatedHost, RawHandler
from p2p.libp2p_adapter.isolation import Names
from p2p.libp2p_adapter.limits import BACKGROUND_JOBS_MAX, NEGOTIATION_TIMEOUT_S
from p2p.libp2p_adapter.streams import LibP2PStream, finish
from p2p.network import (
    Access,
    GossipMessage,
    Provider,
    Stream,
    StreamHandler,
    Way,
    WayWatcher,
)
from p2p.types import NetworkId, PeerId

_logger = logging.getLogger(__name__)

_Job = Callable[[], Awaitable[None]]


class LibP2PNetwork:
    """One peer's view of its libp2p network (see `p2p.network.Network`)."""

    def __init__(
        self,
        host: GatedHost,
        connections: Connections,
        gossip: Gossip,
        directory: Directory,
        names: Names,
        subscribes: bool,
    ) -> None:
        self._host = host
        self._connections = connections
        self._gossip = gossip
        self._directory = directory
        self._names = names
        self._subscribes = subscribes
        self._local = PeerId(str(host.get_id()))
        self._jobs_send, self._jobs_receive = trio.open_memory_channel[_Job](BACKGROUND_JOBS_MAX)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do in the background what plain methods asked for, for ever."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for job in self._jobs_receive:
                nursery.start_soon(self._run_job, job)

    async def _run_job(self, job: _Job) -> None:
        try:
            await job()
        except Exception:
            _logger.exception("a background task of the network failed")

    def in_background(self, job: _Job) -> None:
        """Let `run` do something (dropped, with a warning, if too much is waiting)."""
        try:
            self._jobs_send.send_nowait(job)
        except (trio.WouldBlock, trio.BrokenResourceError):
            _logger.warning("too many background tasks of the network wait: one is dropped")

    # --- who we are -------------------------------------------------------------------------

    @property
    def local(self) -> PeerId:
        """Our own peer ID."""
        return self._local

    @property
    def network_id(self) -> NetworkId:
        """The network that this object serves."""
        return self._names.network_id

    def addresses(self) -> tuple[str, ...]:
        """Multiaddresses others can dial."""
        return tuple(str(address) for address in self._host.get_addrs())

    # --- connections ------------------------------------------------------------------------

    async def connect(self, address: str) -> PeerId:
        """Dial a multiaddress that names its peer, exchange hellos, and give the peer's ID."""
        peer_id, bare = _parse_address(address)
        link = self._connections.greeted(PeerId(str(peer_id)), Way.DIRECT)
        if link is None:
            link = await self._host.dial(peer_id, [bare])
        return link.peer_id

    async def probe(self, address: str) -> None:
        """Find out whether a peer can be dialled at an address."""
        await self._host.probe(*_parse_address(address))

    async def connect_over(self, stream: Stream, peer_id: PeerId, received: bytes = b"") -> None:
        """Make a stream that leads to a peer the connection to it."""
        assert isinstance(stream, LibP2PStream)
        await self._host.dial_over(stream.muxed_stream, ID.from_base58(peer_id), received)

    async def accept_over(self, stream: Stream, received: bytes = b"") -> None:
        """Serve a connection that another peer makes over a stream, until it is gone."""
        assert isinstance(stream, LibP2PStream)
        await self._host.accept_over(stream.muxed_stream, received)

    def way_to(self, peer_id: PeerId) -> Way | None:
        """The best way to a connected and greeted peer."""
        link = self._connections.greeted(peer_id)
        return None if link is None else link.way

    def watch_ways(self, watcher: WayWatcher) -> None:
        """Call `watcher` whenever the best way to a peer has become another one."""
        self._connections.watch_ways(watcher)

    async def disconnect(self, peer_id: PeerId, *, only: Way | None = None) -> None:
        """Close all connections to a peer, or only those of one way."""
        await self._connections.close_peer(peer_id, only)

    def access_of(self, peer_id: PeerId) -> Access | None:
        """What a connected and greeted peer may use."""
        link = self._connections.greeted(peer_id)
        return None if link is None else link.access

    def peers(self) -> tuple[PeerId, ...]:
        """The peers with a greeted connection."""
        return self._connections.peers()

    # --- streams ----------------------------------------------------------------------------

    def handle(self, protocol: str, handler: StreamHandler, *, newcomers: bool = False) -> None:
        """Serve inbound streams of a protocol."""
        self._host.serve(
            self._names.protocol(protocol), _guarded(protocol, handler), newcomers=newcomers
        )

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        """Open a stream on an existing greeted connection."""
        link: Link | None = self._connections.greeted(peer_id)
        if link is None:
            raise PeerUnavailableError(f"there is no connection to {peer_id}")
        try:
            with trio.fail_after(NEGOTIATION_TIMEOUT_S):
                return await link.open(self._names.protocol(protocol))
        except trio.TooSlowError as error:
            raise DeadlineError(
                f"{peer_id} did not answer in {NEGOTIATION_TIMEOUT_S:g} s to {protocol}"
            ) from error
        except RefusedError as error:
            raise RefusedError(error.code, f"{peer_id} does not serve {protocol} to us") from error

    # --- gossip -----------------------------------------------------------------------------

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Receive a topic's messages (at most once for each topic)."""
        if not self._subscribes:
            raise MalformedError("this network was opened without subscriptions")
        subscription = self._gossip.open_subscription(topic)
        self.in_background(lambda: self._gossip.join(topic))
        return subscription.channel

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to all subscribers of a topic."""
        await self._gossip.send(topic, data)

    # --- directory --------------------------------------------------------------------------

    async def provide(self, key: bytes) -> None:
        """Say on the DHT that we provide a key."""
        await self._directory.provide(key)

    async def find_providers(self, key: bytes) -> list[Provider]:
        """Ask the DHT who provides a key."""
        return await self._directory.find_providers(key)

    async def put_record(self, key: bytes, value: bytes) -> None:
        """Store a record that passes the RecordCheck."""
        await self._directory.put_record(key, value)

    async def get_record(self, key: bytes) -> bytes | None:
        """Look a record up on the DHT, newest wins."""
        return await self._directory.get_record(key)


def _parse_address(address: str) -> tuple[ID, Multiaddr]:
    """Cut a peer's address into its ID and where it listens. Raises: MalformedError."""
    try:
        whole = Multiaddr(address)
        if "/p2p-circuit" in address:
            raise ValueError("a relayed address is dialled by p2p.reaching.relay_client")
        name = whole.value_for_protocol("p2p")
        bare = whole.decapsulate(Multiaddr(f"/p2p/{name}"))
        bare.value_for_protocol("tcp")
        return ID.from_base58(name), bare
    except Exception as error:  # multiaddr and base58 raise many kinds
        raise MalformedError(
            f"not an address of a peer (/ip4/…/tcp/…/p2p/…): {address[:200]!r}"
        ) from error


def _guarded(protocol: str, handler: StreamHandler) -> RawHandler:
    """Close the stream when the handler returns, reset it when it raises, and never raise."""

    async def serve(net_stream: Any) -> None:
        stream = LibP2PStream(net_stream, PeerId(str(net_stream.muxed_conn.peer_id)))
        broken = True
        try:
            await handler(stream)
            broken = False
        except P2PError as error:
            _logger.debug("the handler of %s ended for %s: %s", protocol, stream.remote, error)
        except Exception:
            _logger.exception("the handler of %s failed for %s", protocol, stream.remote)
        finally:
            await finish(stream, broken=broken)

    return serve
