"""Owns gossip of the in-memory network: along direct connections, passed on by subscribers only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from p2p.errors import MalformedError
from p2p.limits import GOSSIP_MESSAGE_BYTES_MAX
from p2p.memory_wire import Wire
from p2p.network import Access, GossipMessage, Way
from p2p.subscriptions import Subscription
from p2p.types import PeerId

if TYPE_CHECKING:
    from p2p.memory_peer import MemoryNetwork


async def publish(network: MemoryNetwork, topic: str, data: bytes) -> None:
    """Send to all subscribers of a topic that are reachable along connections.

    Raises: MalformedError.
    """
    if len(data) > GOSSIP_MESSAGE_BYTES_MAX:
        raise MalformedError(
            f"a gossip message has at most {GOSSIP_MESSAGE_BYTES_MAX} bytes, not {len(data)}"
        )
    await trio.lowlevel.checkpoint()
    message = GossipMessage(network.local, bytes(data))
    hub = network.hub
    seen = {network.local}
    todo: list[tuple[MemoryNetwork, float]] = [(network, 0.0)]
    while todo:
        relay, delay_s = todo.pop(0)
        for other, hop_s in relay.gossip_hops():
            subscription = other.subscriptions.get(topic)
            if other.local in seen or subscription is None:
                continue
            if hub.random_for(relay.local, other.local).random() < hub.gossip_loss:
                continue
            seen.add(other.local)
            todo.append((other, delay_s + hop_s))
            _deliver_after(other, delay_s + hop_s, subscription, message)


def hops(network: MemoryNetwork, wires: Iterable[Wire]) -> list[tuple[MemoryNetwork, float]]:
    """Give the members next to a network and the delay to each, in a fixed order."""
    found: dict[PeerId, tuple[MemoryNetwork, float]] = {}
    for wire in wires:
        other = wire.other(network)
        members = all(wire.access.get(end.local) is Access.MEMBER for end in wire.ends)
        direct = wire.way is Way.DIRECT
        if members and direct and not wire.held and other.local not in found:
            found[other.local] = (other, wire.draw_delay_s())
    return [found[peer_id] for peer_id in sorted(found)]


def _deliver_after(
    network: MemoryNetwork, delay_s: float, subscription: Subscription, message: GossipMessage
) -> None:
    """Put a message into a subscription after a delay."""
    if delay_s <= 0:
        subscription.put(message)
        return

    async def deliver() -> None:
        await trio.sleep(delay_s)
        subscription.put(message)

    network.start_soon(deliver)
