"""Owns the libp2p host: what it is made of, who may open which stream, and how it dials.

Theory of operation. py-libp2p's gossip and DHT open streams and dial through their host. This
host lets them do both only through the gate: a stream goes out on a greeted connection to a
member, a dial ends with the hello, and a stream that comes in is answered `na` unless its
connection's access allows the protocol. Every handler runs behind a guard, because one exception
ends py-libp2p's whole host.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.pnet.protector import new_protected_conn
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from p2p.errors import DeadlineError, MalformedError, P2PError, PeerUnavailableError
from p2p.libp2p_adapter.carried import CarriedConnection
from p2p.libp2p_adapter.connections import Connections, Link
from p2p.libp2p_adapter.errors import dial_error
from p2p.libp2p_adapter.limits import (
    CLOSE_FLUSH_S,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_PEER_MAX,
    NEGOTIATION_TIMEOUT_S,
    STREAMS_WAITING_PER_CONNECTION_MAX,
)
from p2p.libp2p_adapter.muxer import Muxer
from p2p.libp2p_adapter.muxer_stream import MuxerStream
from p2p.libp2p_adapter.repairs import RepairedSwarm
from p2p.libp2p_adapter.streams import answer, read_choice, read_request
from p2p.limits import DIAL_TIMEOUT_S
from p2p.network import Access, Way
from p2p.signing import KeyPair
from p2p.types import PeerId

_logger = logging.getLogger(__name__)

RawHandler = Callable[[Any], Awaitable[None]]
_ADDRESS_TTL_S = 3600


@dataclass(frozen=True, slots=True)
class Served:
    """A protocol that we serve, and whether newcomers may use it."""

    handler: RawHandler
    newcomers: bool


class _OurMuxers(MuxerMultistream):
    """Negotiates yamux and makes our multiplexer (upstream always makes its own)."""

    async def new_conn(self, conn: Any, peer_id: Any) -> Any:
        """Agree on yamux and wrap the secured connection."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxer = Muxer(conn, peer_id, is_initiator=conn.is_initiator)
        return self._annotate_connection(muxer, conn, protocol)


def make_swarm(key_pair: KeyPair, pre_shared_key: bytes | None) -> RepairedSwarm:
    """Make a swarm that speaks TCP, Noise and yamux, and nothing else."""
    keys = create_new_key_pair(key_pair.seed)
    local_id = ID.from_pubkey(keys.public_key)
    assert str(local_id) == key_pair.peer_id
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    muxers = {TProtocol(YAMUX): Muxer}
    upgrader = TransportUpgrader({NOISE: noise}, muxers, int(NEGOTIATION_TIMEOUT_S))
    upgrader.muxer_multistream = _OurMuxers(muxers, int(NEGOTIATION_TIMEOUT_S))
    peer_store = PeerStore()
    peer_store.add_key_pair(local_id, keys)
    config = ConnectionConfig(
        max_connections=CONNECTIONS_MAX,
        high_watermark=CONNECTIONS_MAX,
        low_watermark=0,
        min_connections=0,
        max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
        inbound_upgrade_timeout=NEGOTIATION_TIMEOUT_S,
        outbound_upgrade_timeout=NEGOTIATION_TIMEOUT_S,
        auto_connect_interval=1e9,
    )
    return RepairedSwarm(
        local_id,
        peer_store,
        upgrader,
        [TCP()],
        RetryConfig(max_retries=0),
        config,
        psk=None if pre_shared_key is None else pre_shared_key.hex(),
    )


class GatedHost(BasicHost):
    """A host whose streams and dials go through the gate."""

    def __init__(self, swarm: RepairedSwarm, announce: Sequence[Multiaddr] | None) -> None:
        self.served: dict[str, Served] = {}
        self.connections: Connections | None = None
        self._dial_locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        super().__init__(swarm, announce_addrs=announce, disable_identify_address_discovery=True)
        self.served.clear()
        for protocol in list(self.multiselect.handlers):
            self.multiselect.remove_handler(protocol)
        self.set_stream_handler(IDENTIFY, identify_handler_for(self, use_varint_format=True))

    def attach(self, connections: Connections) -> None:
        """Set whom to ask about connections (before the swarm runs)."""
        self.connections = connections
        self._network.register_notifee(connections)

    # --- serving ----------------------------------------------------------------------------

    def set_stream_handler(self, protocol_id: str, stream_handler: RawHandler) -> None:
        """Serve a protocol of py-libp2p's own (identify, gossip, DHT) to members."""
        self.serve(str(protocol_id), stream_handler, newcomers=False)

    def serve(self, protocol: str, handler: RawHandler, *, newcomers: bool) -> None:
        """Serve a protocol."""
        self.served[protocol] = Served(handler, newcomers)
        self.multiselect.add_handler(TProtocol(protocol), handler)

    async def _swarm_stream_handler(self, net_stream: Any) -> None:
        """Agree on the protocol of a stream that came in, and serve it (never raises)."""
        handler: RawHandler | None = None
        try:
            with trio.fail_after(NEGOTIATION_TIMEOUT_S):
                handler = await self._agree(net_stream)
        except (P2PError, trio.TooSlowError) as error:
            _logger.debug("a stream was not accepted: %s", error)
        if handler is None:
            await net_stream.reset()
            return
        try:
            await handler(net_stream)
        except Exception:
            _logger.exception("the handler of %s failed", net_stream.get_protocol())
            await net_stream.reset()

    async def _agree(self, net_stream: Any) -> RawHandler:
        assert self.connections is not None
        link = self.connections.link_of(net_stream.swarm_conn)
        stream = net_stream.muxed_stream
        protocol = await read_request(stream)
        while True:
            handler = await self._allowed_handler(link, protocol)
            await answer(stream, None if handler is None else protocol)
            if handler is not None:
                net_stream.set_protocol(TProtocol(protocol))
                return handler
            protocol = await read_choice(stream)

    async def _allowed_handler(self, link: Link, protocol: str) -> RawHandler | None:
        assert self.connections is not None
        if protocol == self.connections.hello_protocol:
            if link.dialled or link.hello_begun:
                return None
            link.hello_begun = True
            connections = self.connections
            return lambda net_stream: connections.serve_hello(link, net_stream)
        served = self.served.get(protocol)
        if served is None:
            return None
        if not link.settled.is_set():
            if link.waiting >= STREAMS_WAITING_PER_CONNECTION_MAX:
                return None
            link.waiting += 1
            try:
                await link.settled.wait()
            finally:
                link.waiting -= 1
        if link.access is None:
            return None
        if link.access is not Access.MEMBER and not served.newcomers:
            return None
        return served.handler

    # --- opening and dialling ---------------------------------------------------------------

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[str]) -> Any:
        """Open a stream to a member, for py-libp2p's own protocols; dial it if it is not connected.

        Raises: SwarmException.
        """
        assert self.connections is not None
        link = self.connections.greeted(PeerId(str(peer_id)), Way.DIRECT)
        try:
            if link is None:
                link = await self.dial_known(peer_id)
            if link.access is not Access.MEMBER:
                raise PeerUnavailableError(f"{link.peer_id} is not a member")
            with trio.fail_after(NEGOTIATION_TIMEOUT_S):
                return await link.open_raw(str(protocol_ids[0]))
        except (P2PError, trio.TooSlowError) as error:
            raise SwarmException(f"no stream to {peer_id}: {error}") from error

    async def connect(self, peer_info: Any) -> None:
        """Connect for py-libp2p's own purposes. Raises: SwarmException."""
        self.peerstore.add_addrs(peer_info.peer_id, peer_info.addrs, _ADDRESS_TTL_S)
        try:
            await self.dial_known(peer_info.peer_id)
        except P2PError as error:
            raise SwarmException(f"cannot connect to {peer_info.peer_id}: {error}") from error

    async def dial_known(self, peer_id: ID) -> Link:
        """Connect to a peer at the addresses that the peer store has. Raises: P2PError."""
        try:
            addresses = list(self.peerstore.addrs(peer_id))
        except Exception:  # the peer store has its own exception for "none"
            addresses = []
        return await self.dial(peer_id, addresses)

    async def dial(self, peer_id: ID, addresses: Sequence[Multiaddr]) -> Link:
        """Give a greeted link to a peer, dialling its addresses in turn if there is none.

        Raises: PeerUnavailableError, DeadlineError, UntrustedError, MalformedError.
        """
        assert self.connections is not None
        name = PeerId(str(peer_id))
        if peer_id == self.get_id():
            raise MalformedError("this is our own address")
        lock = self._dial_locks.setdefault(name, trio.Lock())
        error: P2PError = PeerUnavailableError(f"no address of {name} is known")
        async with lock:
            for address in addresses:
                link = self.connections.greeted(name, Way.DIRECT)
                if link is not None:
                    return link
                try:
                    return await self._dial_one(peer_id, address)
                except P2PError as failure:
                    error = failure
            link = self.connections.greeted(name, Way.DIRECT)
            if link is not None:
                return link
        raise error

    async def _dial_one(self, peer_id: ID, address: Multiaddr) -> Link:
        assert self.connections is not None
        self._network.unblock_peer(peer_id)
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                conn = await self._network.dial_addr(address, peer_id)
        except trio.TooSlowError as error:
            raise DeadlineError(f"{address} did not answer in {DIAL_TIMEOUT_S:g} s") from error
        except Exception as error:  # any layer of py-libp2p may raise anything here
            raise dial_error(error, str(address)) from error
        link = await self._settled(conn, str(address))
        self.peerstore.add_addrs(peer_id, [address], _ADDRESS_TTL_S)
        return link

    async def _settled(self, conn: Any, address: str) -> Link:
        assert self.connections is not None
        link = self.connections.link_of(conn)
        await link.settled.wait()
        if link.access is None:
            raise link.error or PeerUnavailableError(f"{address} closed the connection")
        return link

    # --- connections inside of streams ------------------------------------------------------

    async def dial_over(self, stream: MuxerStream, peer_id: ID, received: bytes) -> Link:
        """Make a stream that leads to a peer a greeted link to it. Raises: as `dial`."""
        swarm: Any = self._network
        raw: Any = CarriedConnection(stream, received, initiator=True)
        protected = raw if swarm.psk is None else new_protected_conn(raw, swarm.psk)
        conn: Any = None
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                conn = await swarm.upgrade_outbound_raw_conn(protected, peer_id)
        except trio.TooSlowError as error:
            raise DeadlineError(f"{peer_id} did not answer in {DIAL_TIMEOUT_S:g} s") from error
        except Exception as error:  # any layer of py-libp2p may raise anything here
            raise dial_error(error, f"{peer_id} through a relay") from error
        finally:
            if conn is None:
                with trio.CancelScope(shield=True):
                    await stream.reset()
        return await self._settled(conn, f"{peer_id} through a relay")

    async def accept_over(self, stream: MuxerStream, received: bytes) -> None:
        """Serve a connection that comes inside of a stream, until it is gone. Raises: as `dial`."""
        assert self.connections is not None
        swarm: Any = self._network
        raw: Any = CarriedConnection(stream, received, initiator=False)
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                muxed = await swarm.upgrade_inbound_raw_conn(raw, Multiaddr("/p2p-circuit"))
        except trio.TooSlowError as error:
            raise DeadlineError(f"no handshake through a relay in {DIAL_TIMEOUT_S:g} s") from error
        except Exception as error:  # any layer of py-libp2p may raise anything here
            raise dial_error(error, "us through a relay") from error
        try:
            await muxed.event_closed.wait()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_FLUSH_S):
                await muxed.close()

    async def probe(self, peer_id: ID, address: Multiaddr) -> None:
        """Dial and authenticate a peer, and hang up. Raises: as `dial`."""
        swarm: Any = self._network
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                raw: Any = await swarm.transport_manager.transport_for_dialing(address).dial(
                    address
                )
                try:
                    protected = raw if swarm.psk is None else new_protected_conn(raw, swarm.psk)
                    await swarm.upgrader.upgrade_security(protected, True, peer_id)
                finally:
                    with trio.CancelScope(shield=True):
                        await raw.close()
        except trio.TooSlowError as error:
            raise DeadlineError(f"{address} did not answer in {DIAL_TIMEOUT_S:g} s") from error
        except Exception as error:  # any layer of py-libp2p may raise anything here
            raise dial_error(error, str(address)) from error

    # --- identify, after the hello ----------------------------------------------------------

    async def _on_notifee_connected(self, conn: Any) -> None:
        """Wait for the hello: strangers are not asked who they are."""

    async def _push_identify_to_all_peers(self) -> None:
        """Our addresses do not change while we run."""

    async def identify(self, link: Link) -> None:
        """Ask a new member for its addresses and protocols."""
        await self._identify_peer(link.libp2p_id, reason="member")
