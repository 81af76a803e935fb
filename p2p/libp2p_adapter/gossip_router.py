"""Owns the gossip mesh: py-libp2p's gossipsub router, v1.1 with D=4, without what grows or costs.

Theory of operation. The mesh, its heartbeats, GRAFT, PRUNE, IHAVE and IWANT are py-libp2p's.
Replaced is what happens for every message: upstream queues each message once more for every
connected peer that is not subscribed (up to 100, sorted out anew each time), appends a time to a
list that nobody shortens, and attaches a signed address record to every RPC that the receiver
verifies. Peer exchange is off, scores are off (all weights are zero upstream); bounds are in
`gossip_guard`.
"""

from __future__ import annotations

import time
from typing import Any

from libp2p.peer.id import ID
from libp2p.pubsub import gossipsub as gossipsub_module
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2

from p2p.libp2p_adapter.limits import (
    GOSSIP_HEARTBEAT_S,
    IWANT_REPLY_BYTES_MAX,
    MESH_DEGREE,
    MESH_DEGREE_HIGH,
    MESH_DEGREE_LOW,
    PRUNE_BACK_OFF_S,
    RECENT_MESSAGES_MAX,
    UNSUBSCRIBE_BACK_OFF_S,
)


class GossipRouter(GossipSub):
    """The router of one peer."""

    def __init__(self) -> None:
        super().__init__(
            # Read here, not imported by name: the constant is rebound to the network's ID.
            protocols=[gossipsub_module.PROTOCOL_ID_V11],
            degree=MESH_DEGREE,
            degree_low=MESH_DEGREE_LOW,
            degree_high=MESH_DEGREE_HIGH,
            heartbeat_interval=GOSSIP_HEARTBEAT_S,
            prune_back_off=PRUNE_BACK_OFF_S,
            unsubscribe_back_off=UNSUBSCRIBE_BACK_OFF_S,
            do_px=False,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        self.scorer = None

    async def publish(self, msg_forwarder: ID, pubsub_msg: Any) -> None:
        """Send a message on to the mesh (or, if we are not subscribed, to the fan-out)."""
        assert self.pubsub is not None
        if len(self.mcache.msgs) < RECENT_MESSAGES_MAX:
            self.mcache.put(pubsub_msg)
        rpc = rpc_pb2.RPC(publish=[pubsub_msg])
        origin = ID(pubsub_msg.from_id)
        data = rpc.SerializeToString()
        for peer_id in self._get_peers_to_send(pubsub_msg.topicIDs, msg_forwarder, origin):
            self.pubsub.send_data(peer_id, data)
        now_s = int(time.time())
        for topic in pubsub_msg.topicIDs:
            if topic not in self.mesh:
                self.time_since_last_publish[topic] = now_s

    def send_rpc(self, peer_id: ID, rpc: Any, priority: bool = False) -> None:
        """Queue an RPC for a peer."""
        assert self.pubsub is not None
        self.pubsub.send_data(peer_id, rpc.SerializeToString())

    async def emit_control_message(self, control_msg: Any, to_peer: ID) -> None:
        """Queue a control message for a peer."""
        packet = rpc_pb2.RPC()
        packet.control.CopyFrom(control_msg)
        self.send_rpc(to_peer, packet)

    async def handle_rpc(self, rpc: Any, sender_peer_id: ID) -> None:
        """Handle a control message that the guard has cut down."""
        control = rpc.control
        for ihave in control.ihave:
            await self.handle_ihave(ihave, sender_peer_id)
        for iwant in control.iwant:
            await self.handle_iwant(iwant, sender_peer_id)
        for graft in control.graft:
            await self.handle_graft(graft, sender_peer_id)
        for prune in control.prune:
            await self.handle_prune(prune, sender_peer_id)

    async def handle_iwant(self, iwant_msg: Any, sender_peer_id: ID) -> None:
        """Answer with messages of the last seconds, up to a size."""
        if not self._check_iwant_rate_limit(sender_peer_id):
            return
        packet = rpc_pb2.RPC()
        size_bytes = 0
        for message_id in iwant_msg.messageIDs:
            message = self.mcache.get(bytes(message_id))
            if message is None:
                continue
            size_bytes += len(message.data) + 200
            if size_bytes > IWANT_REPLY_BYTES_MAX:
                break
            packet.publish.append(message)
        if packet.publish:
            self.send_rpc(sender_peer_id, packet)

    async def flush_pending_messages(self, peer_id: ID) -> None:
        """Nothing is queued for peers that have not subscribed."""

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        """Give a new subscriber the messages of the last seconds."""
        assert self.pubsub is not None
        packet = rpc_pb2.RPC()
        size_bytes = 0
        for message_id in self.mcache.window(topic):
            message = self.mcache.get(message_id)
            if message is not None:
                size_bytes += len(message.data) + 200
                if size_bytes > IWANT_REPLY_BYTES_MAX:
                    break
                packet.publish.append(message)
        if packet.publish:
            self.send_rpc(peer_id, packet)

    def _periodic_security_cleanup(self) -> None:
        """Forget back-offs that are over and fan-outs of peers that are gone (each heartbeat)."""
        super()._periodic_security_cleanup()
        now_s = int(time.time())
        for topic, until_by_peer in list(self.back_off.items()):
            for peer_id, until_s in list(until_by_peer.items()):
                if until_s <= now_s:
                    del until_by_peer[peer_id]
            if not until_by_peer:
                del self.back_off[topic]
        for topic in list(self.time_since_last_publish):
            if topic not in self.fanout:
                del self.time_since_last_publish[topic]
