"""Owns gossip: who takes part, what is believed, and where messages go.

Theory of operation. Only members take part: our gossip stream to a peer is opened when its hello
made it a member, and one that a peer opens is refused before that (see `host`). Messages are
signed by their author (libp2p's strict signing: the key is in the author's peer ID); a message
counts only if it names exactly one topic that we are subscribed to, fits the size, and verifies.
Each is handed to the topic's subscription once and sent on to the mesh. Own messages are not
delivered to ourselves.

py-libp2p's `Pubsub` keeps the tables of peers and topics; reading, verifying, queueing and
sending are here (upstream: a task for each message, a queue of 32 RPCs, a validation cache that
is searched linearly, and one exception in a validator ends the host).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from google.protobuf.message import DecodeError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.pubsub_notifee import PubsubNotifee
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2p.errors import MalformedError, P2PError
from p2p.libp2p_adapter.connections import Link
from p2p.libp2p_adapter.gossip_guard import PeerGuard, SeenMessages
from p2p.libp2p_adapter.gossip_router import GossipRouter
from p2p.libp2p_adapter.gossip_wire import SIGNING_PREFIX, Outbound, complete_size, is_signed
from p2p.libp2p_adapter.host import GatedHost
from p2p.libp2p_adapter.isolation import Names
from p2p.libp2p_adapter.limits import (
    GOSSIP_JOBS_MAX,
    GOSSIP_RETRY_S,
    GOSSIP_STREAMS_PER_PEER_MAX,
    GUARDS_KEPT_MAX,
    NEGOTIATION_TIMEOUT_S,
    TOPIC_CHARACTERS_MAX,
    TOPICS_KNOWN_MAX,
    TOPICS_MAX,
    TOPICS_PER_PEER_MAX,
)
from p2p.limits import GOSSIP_MESSAGE_BYTES_MAX
from p2p.network import Access, GossipMessage, Way
from p2p.subscriptions import Subscription
from p2p.types import PeerId

_logger = logging.getLogger(__name__)

_JobFunction = Callable[..., Awaitable[Any]]
_Job = tuple[_JobFunction, tuple[Any, ...]]
_SEQUENCE_BYTES = 8


class Gossip(Pubsub):
    """Gossip of one peer."""

    seen_messages: SeenMessages

    def __init__(
        self,
        host: GatedHost,
        router: GossipRouter,
        names: Names,
        clock: Callable[[], float],
        on_abuse: Callable[[PeerId], None],
    ) -> None:
        super().__init__(host, router, strict_signing=True)
        upstream_cache: Any = self.seen_messages
        upstream_cache.stop()
        self.seen_messages = SeenMessages()
        self.counter = int(clock() * 1e9)
        self._names = names
        self._on_abuse = on_abuse
        self._subscriptions: dict[str, Subscription] = {}
        self._published_topics: set[str] = set()
        self._outbound: dict[ID, Outbound] = {}
        self._opening: set[ID] = set()
        self._inbound: dict[ID, set[Any]] = {}
        self._guards: dict[ID, PeerGuard] = {}
        self._topic_prefix = names.topic("")
        self._jobs_send, self._jobs_receive = trio.open_memory_channel[_Job](GOSSIP_JOBS_MAX)
        network = host.get_network()
        network.notifees = [n for n in network.notifees if not isinstance(n, PubsubNotifee)]

    async def run(self) -> None:
        """Do what the other methods ask for in the background, for ever."""
        async with trio.open_nursery() as nursery:
            self.event_handle_peer_queue_started.set()
            self.event_handle_dead_peer_queue_started.set()
            async for function, arguments in self._jobs_receive:
                nursery.start_soon(self._run_job, function, arguments)

    async def _run_job(self, function: _JobFunction, arguments: tuple[Any, ...]) -> None:
        try:
            await function(*arguments)
        except Exception:
            _logger.exception("gossip: %s failed", function.__name__)

    def _spawn(self, function: _JobFunction, *arguments: Any) -> None:
        try:
            self._jobs_send.send_nowait((function, arguments))
        except (trio.WouldBlock, trio.BrokenResourceError):
            _logger.warning("gossip is overloaded: a task is dropped")

    # --- peers ------------------------------------------------------------------------------

    def admit(self, link: Link, after_s: float = 0.0) -> None:
        """A peer became a member (or our stream to it broke): open our gossip stream to it."""
        if link.libp2p_id not in self._outbound and link.libp2p_id not in self._opening:
            self._opening.add(link.libp2p_id)
            self._spawn(self._handle_new_peer_with_retry, link.libp2p_id, after_s)

    def link_lost(self, link: Link) -> None:
        """A connection to a member is gone: forget it, or move to another connection."""
        outbound = self._outbound.get(link.libp2p_id)
        if outbound is not None and outbound.link is link:
            self._handle_dead_peer(link.libp2p_id)

    def peer_gone(self, link: Link) -> None:
        """The last connection to a peer is gone."""
        self._handle_dead_peer(link.libp2p_id)
        self._inbound.pop(link.libp2p_id, None)
        self._forget_all_subscriptions(link.libp2p_id)

    def _member_link(self, peer_id: ID) -> Link | None:
        assert self.host.connections is not None
        peer = PeerId(str(peer_id))
        link: Link | None = self.host.connections.greeted(peer, Way.DIRECT)
        return link if link is not None and link.access is Access.MEMBER else None

    def _peer_is_connected(self, peer_id: ID) -> bool:
        return self._member_link(peer_id) is not None

    async def _handle_new_peer_with_retry(self, peer_id: ID, timeout: float | None = None) -> None:
        """Open our stream to a member after a while, again while it stays one (never raises)."""
        try:
            await trio.sleep(timeout or 0.0)
            await self._open_outbound(peer_id)
        finally:
            self._opening.discard(peer_id)

    async def _open_outbound(self, peer_id: ID) -> None:
        while peer_id not in self._outbound:
            link = self._member_link(peer_id)
            if link is None:
                return
            try:
                with trio.fail_after(NEGOTIATION_TIMEOUT_S):
                    net_stream = await link.open_raw(self._names.gossip)
            except (P2PError, trio.TooSlowError) as error:
                _logger.debug("no gossip stream to %s: %s", peer_id, error)
                await trio.sleep(GOSSIP_RETRY_S)
                continue
            if peer_id in self._outbound or not link.alive:
                await net_stream.reset()
                continue
            self._start_outbound(peer_id, Outbound(link, net_stream))

    def _start_outbound(self, peer_id: ID, outbound: Outbound) -> None:
        self._outbound[peer_id] = outbound
        self.peers[peer_id] = outbound.net_stream
        self.router.add_peer(peer_id, self.router.protocols[0])
        hello = rpc_pb2.RPC()
        for topic in self.topic_ids:
            hello.subscriptions.append(rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic))
        outbound.put(hello.SerializeToString())
        self._spawn(self._send_loop, peer_id, outbound)
        for topic, subscribers in list(self.peer_topics.items()):
            if peer_id in subscribers:
                self._welcome(peer_id, topic)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """Our stream to a peer is dead; open another one if the peer is still a member."""
        outbound = self._outbound.pop(peer_id, None)
        if outbound is None:
            return
        outbound.close()
        self.peers.pop(peer_id, None)
        self.router.remove_peer(peer_id)
        self._replayed_recent_topics.pop(peer_id, None)
        link = self._member_link(peer_id)
        if link is not None:
            self.admit(link, 0.0 if link is not outbound.link else GOSSIP_RETRY_S)

    # --- sending ----------------------------------------------------------------------------

    def send_data(self, peer_id: ID, data: bytes) -> None:
        """Queue a serialized RPC for a peer; dropped if the peer is gone or reads too slowly."""
        outbound = self._outbound.get(peer_id)
        if outbound is not None and not outbound.put(data):
            _logger.debug("gossip for %s is dropped: it reads too slowly", peer_id)

    async def _send_loop(self, peer_id: ID, outbound: Outbound) -> None:
        write = outbound.net_stream.muxed_stream.write
        try:
            while not outbound.closed:
                if outbound.queue:
                    await write(outbound.take())
                else:
                    await outbound.ready.wait()
        except MuxedStreamError as error:
            _logger.debug("the gossip stream to %s broke: %s", peer_id, error)
        if self._outbound.get(peer_id) is outbound:
            self._handle_dead_peer(peer_id)
        await outbound.net_stream.reset()

    async def message_all_peers(self, raw_msg: bytes, announce: Any = None) -> None:
        """Queue an RPC for every peer."""
        for peer_id in list(self._outbound):
            self.send_data(peer_id, raw_msg)

    def _build_announce_rpc(self, topic_id: str, subscribe: bool) -> tuple[Any, Any]:
        option = rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=topic_id)
        return rpc_pb2.RPC(subscriptions=[option]), option

    def _welcome(self, peer_id: ID, topic: str) -> None:
        self._spawn(self._replay_recent_messages, peer_id, topic)
        self._spawn(self.router.on_peer_subscribed, peer_id, topic)

    # --- receiving --------------------------------------------------------------------------

    async def stream_handler(self, stream: Any) -> None:
        """Read what a member sends, until its stream ends (never raises)."""
        peer_id = stream.muxed_conn.peer_id
        streams = self._inbound.setdefault(peer_id, set())
        if len(streams) >= GOSSIP_STREAMS_PER_PEER_MAX:
            await stream.reset()
            return
        streams.add(stream)
        try:
            await self.continuously_read_stream(stream)
        except MuxedStreamError as error:
            _logger.debug("the gossip stream of %s broke: %s", peer_id, error)
        except (DecodeError, MalformedError) as error:
            _logger.warning("%s sends what is not gossip (%s): disconnecting it", peer_id, error)
            self._on_abuse(PeerId(str(peer_id)))
        finally:
            streams.discard(stream)
            if not streams and self._inbound.get(peer_id) is streams:
                del self._inbound[peer_id]
                self._forget_all_subscriptions(peer_id)
        await stream.reset()

    async def continuously_read_stream(self, stream: Any) -> None:
        """Read and handle RPCs. Raises: MuxedStreamError, DecodeError, MalformedError."""
        peer_id = stream.muxed_conn.peer_id
        guard = self._guard_of(peer_id)
        receive = stream.muxed_stream.receive_some
        buffer = bytearray()
        while True:
            chunk = await receive()
            if not chunk:
                return
            buffer += chunk
            while (size := complete_size(buffer)) is not None:
                start, end = size
                rpc = rpc_pb2.RPC()
                rpc.ParseFromString(bytes(buffer[start:end]))
                del buffer[:end]
                if self._member_link(peer_id) is None:
                    return
                if not await self._handle_rpc(peer_id, guard, rpc):
                    return
                await trio.lowlevel.checkpoint()

    def _guard_of(self, peer_id: ID) -> PeerGuard:
        """Give a peer's bounds; they outlive its connections, or reconnecting would renew them."""
        guard = self._guards.pop(peer_id, None) or PeerGuard(trio.current_time())
        self._guards[peer_id] = guard
        while len(self._guards) > GUARDS_KEPT_MAX:
            self._guards.pop(next(iter(self._guards)))
        return guard

    async def _handle_rpc(self, peer_id: ID, guard: PeerGuard, rpc: Any) -> bool:
        """Handle one RPC; False if the peer is disconnected for it."""
        verdict = guard.judge(rpc, self.router.mesh, trio.current_time())
        if verdict.disconnect:
            _logger.warning("%s floods us with gossip: disconnecting it", peer_id)
            self._on_abuse(PeerId(str(peer_id)))
            return False
        for message in verdict.messages:
            await self.push_msg(peer_id, message)
        for option in verdict.subscriptions:
            self.handle_subscription(peer_id, option)
        if verdict.has_control:
            await self.router.handle_rpc(rpc, peer_id)
        return True

    def handle_subscription(self, origin_id: ID, sub_message: Any) -> None:
        """Note that a peer wants a topic of our network, or no longer wants it."""
        topic = sub_message.topicid
        if not sub_message.subscribe:
            self._forget_subscription(origin_id, topic)
            for members in (self.router.mesh.get(topic), self.router.fanout.get(topic)):
                if members is not None:
                    members.discard(origin_id)
            return
        if not topic.startswith(self._topic_prefix) or len(topic) > TOPIC_CHARACTERS_MAX:
            return
        subscribers = self.peer_topics.get(topic)
        if subscribers is None:
            ours = topic in self._subscriptions or topic in self._published_topics
            if not ours and len(self.peer_topics) >= TOPICS_KNOWN_MAX:
                return
        elif origin_id in subscribers:
            return
        count = self._peer_subscription_count.get(origin_id, 0)
        if count >= TOPICS_PER_PEER_MAX:
            return
        self._peer_subscription_count[origin_id] = count + 1
        self.peer_topics.setdefault(topic, set()).add(origin_id)
        if origin_id in self._outbound:
            self._welcome(origin_id, topic)

    async def push_msg(self, msg_forwarder: ID, msg: Any) -> None:
        """Believe, deliver and send on a message, once."""
        if len(msg.topicIDs) != 1 or len(msg.data) > GOSSIP_MESSAGE_BYTES_MAX:
            return
        subscription = self._subscriptions.get(msg.topicIDs[0])
        if subscription is None or len(msg.seqno) != _SEQUENCE_BYTES:
            return
        author_bytes = msg.from_id
        message_id = author_bytes + msg.seqno
        if self.seen_messages.has(message_id) or not is_signed(msg):
            return
        if author_bytes == self.my_id.to_bytes():
            return
        self.seen_messages.add(message_id, trio.current_time())
        author = PeerId(ID(author_bytes).to_base58())
        subscription.put(GossipMessage(author, bytes(msg.data)))
        await self.router.publish(msg_forwarder, msg)

    # --- the port ---------------------------------------------------------------------------

    def open_subscription(self, topic: str) -> Subscription:
        """Prepare to receive a topic (`join` announces it).

        Raises: MalformedError if it is subscribed already, or there are too many.
        """
        full = self._names.topic(topic)
        if full in self._subscriptions:
            raise MalformedError(f"{topic} is subscribed already")
        if len(self._subscriptions) >= TOPICS_MAX or len(full) > TOPIC_CHARACTERS_MAX:
            raise MalformedError("too many topics, or a name that is too long")
        subscription = self._subscriptions[full] = Subscription()
        return subscription

    async def join(self, topic: str) -> None:
        """Announce a subscription and join the topic's mesh."""
        await self.subscribe(self._names.topic(topic))

    async def send(self, topic: str, data: bytes) -> None:
        """Publish. Raises: MalformedError if it is too large, or there are too many topics."""
        if len(data) > GOSSIP_MESSAGE_BYTES_MAX:
            raise MalformedError(
                f"a gossip message has at most {GOSSIP_MESSAGE_BYTES_MAX} bytes, not {len(data)}"
            )
        full = self._names.topic(topic)
        if full not in self._published_topics:
            if len(self._published_topics) >= TOPICS_MAX or len(full) > TOPIC_CHARACTERS_MAX:
                raise MalformedError("too many topics, or a name that is too long")
            self._published_topics.add(full)
        message = rpc_pb2.Message(
            data=data, topicIDs=[full], from_id=self.my_id.to_bytes(), seqno=self._next_seqno()
        )
        message.signature = self.sign_key.sign(SIGNING_PREFIX + message.SerializeToString())
        self.seen_messages.add(message.from_id + message.seqno, trio.current_time())
        await self.router.publish(self.my_id, message)
        await trio.lowlevel.checkpoint()
