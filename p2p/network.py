"""Owns the network port: what the rest of the system asks of a peer-to-peer network.

Two adapters implement it: `p2p.libp2p_adapter` (py-libp2p over TCP, Noise and Yamux) and
`p2p.memory_network` (a seeded twin in one process). One contract suite runs on both.

Theory of operation. A connection is worth nothing until both sides have exchanged hellos: the
adapter opens the hello stream on every new connection and hands it to the `Gate`, which says what
the other side may do. Until then, and for good if it is refused, the peer gets no stream, gossip or
DHT entry, and its connection is closed after `HELLO_TIMEOUT_S`. A newcomer (right network, no
certificate yet) reaches only the protocols that were registered with `newcomers=True`. A member
reaches everything.

One `Network` object serves one network: the network's ID is part of every protocol ID, topic and
DHT key that the adapter puts on the wire. Names given to this port are short (`jobs/1`).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from p2p.types import NetworkId, PeerId


class Access(enum.Enum):
    """What a connected peer may use."""

    NEWCOMER = "newcomer"
    MEMBER = "member"


class Way(enum.Enum):
    """How a connected peer is reached."""

    DIRECT = "direct"
    RELAYED = "relayed"


WayWatcher = Callable[[PeerId, Way | None], None]
"""Told when the best way to a peer is another one now (None: it is gone). Returns at once."""


@dataclass(frozen=True, slots=True)
class GossipMessage:
    """A message of a topic: its author (verified by the adapter) and its bytes."""

    author: PeerId
    data: bytes


@dataclass(frozen=True, slots=True)
class Provider:
    """Somebody who said on the DHT that they provide a key: a hint to dial, never liveness."""

    peer_id: PeerId
    addresses: tuple[str, ...]


class Stream(Protocol):
    """A reliable, ordered byte stream to one peer, until it breaks."""

    @property
    def remote(self) -> PeerId:
        """The authenticated peer at the other end."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Send all bytes. Raises: SessionLostError if the stream or connection is gone."""
        ...

    async def receive_some(self) -> bytes:
        """Wait for bytes; `b""` is the end (which proves nothing). Raises: SessionLostError."""
        ...

    async def close(self) -> None:
        """Close in both directions; never raises for a stream that is gone already."""
        ...

    async def reset(self) -> None:
        """Abort in both directions; never raises for a stream that is gone already."""
        ...


def remote_address_of(stream: Stream) -> str:
    """Give the IP address that a stream comes from; empty if the adapter does not know it."""
    return str(getattr(stream, "remote_address", ""))


def way_of(stream: Stream) -> Way | None:
    """Tell how the connection below a stream leads to the other side; None if that is not known."""
    way = getattr(stream, "way", None)
    return way if isinstance(way, Way) else None


StreamHandler = Callable[[Stream], Awaitable[None]]
"""Serves one inbound stream: closed by the adapter when it returns, reset when it raises."""


class ConnectionCarrier(Protocol):
    """What the relay needs beside the port's other methods: connections inside of streams.

    A carried connection is secured end to end and greeted like any other; who carries it sees
    ciphertext. It serves streams only: gossip and the DHT stay on direct connections.
    """

    async def connect_over(self, stream: Stream, peer_id: PeerId, received: bytes = b"") -> None:
        """Make a stream that leads to a peer the connection to it (it belongs to us from now on).

        Args:
            received: bytes of the connection that were read from the stream already.
        Raises: as `Network.connect`.
        """
        ...

    async def accept_over(self, stream: Stream, received: bytes = b"") -> None:
        """Serve a connection that another peer makes over a stream, until it is gone.

        Raises: PeerUnavailableError, DeadlineError, UntrustedError if it was not greeted.
        """
        ...

    def way_to(self, peer_id: PeerId) -> Way | None:
        """The best way to a connected and greeted peer: direct before relayed."""
        ...

    def watch_ways(self, watcher: WayWatcher) -> None:
        """Call `watcher` whenever the best way to a peer has become another one."""
        ...

    async def probe(self, address: str) -> None:
        """Find out whether a peer can be dialled at an address, connected already or not.

        It is authenticated and hung up on: nothing else happens on that connection.
        Raises: MalformedError, PeerUnavailableError, DeadlineError, UntrustedError.
        """
        ...


class Gate(Protocol):
    """Decides who may come in. Implemented by `p2p.membership.Membership`."""

    async def greet(self, stream: Stream, *, dialled: bool) -> Access:
        """Exchange hellos on a fresh connection (`dialled`: by us) and say what the peer may use.

        Raises: UntrustedError (WrongNetworkError, StaleError, ...) or MalformedError to have the
        connection closed; SessionLostError if the peer went away.
        """
        ...

    def forget(self, peer_id: PeerId) -> None:
        """The last connection to this peer is gone."""
        ...


RecordCheck = Callable[[bytes, bytes], int]
"""DHT record validator: (key, value) -> sequence number. Raises a P2PError for what is not valid.

Of two valid values for one key the higher sequence number wins."""


class Network(ConnectionCarrier, Protocol):
    """One peer's view of its network."""

    @property
    def local(self) -> PeerId:
        """Our own peer ID."""
        ...

    @property
    def network_id(self) -> NetworkId:
        """The network that this object serves."""
        ...

    def addresses(self) -> tuple[str, ...]:
        """Multiaddresses others can dial, each ending in `/p2p/<our peer ID>`."""
        ...

    def handle(self, protocol: str, handler: StreamHandler, *, newcomers: bool = False) -> None:
        """Serve inbound streams of a protocol; `newcomers` may use it without a certificate."""
        ...

    async def connect(self, address: str) -> PeerId:
        """Dial a multiaddress that names its peer, exchange hellos, and give the peer's ID.

        Does nothing if a greeted, direct connection exists.
        Raises: MalformedError (address), PeerUnavailableError, DeadlineError, UntrustedError (the
        peer, or we in its eyes, do not belong: WrongNetworkError if it is another network).
        """
        ...

    async def disconnect(self, peer_id: PeerId, *, only: Way | None = None) -> None:
        """Close all connections to a peer, or `only` those of one way (no error for none)."""
        ...

    def access_of(self, peer_id: PeerId) -> Access | None:
        """What a connected and greeted peer may use; None if there is no such connection."""
        ...

    def peers(self) -> tuple[PeerId, ...]:
        """The peers with a greeted connection."""
        ...

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        """Open a stream on an existing greeted connection.

        Raises: PeerUnavailableError (no connection), RefusedError (protocol not served),
        DeadlineError.
        """
        ...

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Receive a topic's messages (at most once for each topic in a process's lifetime).

        The channel is bounded; when the reader lags, the oldest unread messages are dropped.
        """
        ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to all subscribers of a topic; works without being subscribed.

        Raises: MalformedError if larger than GOSSIP_MESSAGE_BYTES_MAX.
        """
        ...

    async def provide(self, key: bytes) -> None:
        """Say on the DHT that we provide a key (32 bytes). Raises: PeerUnavailableError."""
        ...

    async def find_providers(self, key: bytes) -> list[Provider]:
        """Ask the DHT who provides a key (not from the local cache, no duplicates)."""
        ...

    async def put_record(self, key: bytes, value: bytes) -> None:
        """Store a record that passes the RecordCheck. Raises: MalformedError, UntrustedError,
        PeerUnavailableError.
        """
        ...

    async def get_record(self, key: bytes) -> bytes | None:
        """Look a record up on the DHT, newest wins; None if nobody has a valid one."""
        ...


async def first_of(*waits: Callable[[], Awaitable[None]]) -> None:
    """Run several waits and return when the first one does (the others are cancelled)."""
    async with trio.open_nursery() as nursery:

        async def one(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(one, wait)
