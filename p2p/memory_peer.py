"""Owns one peer's network on a `MemoryHub`: the port's promises, by the libp2p adapter's rules."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from p2p import memory_carried, memory_gossip
from p2p.errors import (
    DeadlineError,
    MalformedError,
    P2PError,
    PeerUnavailableError,
    RefusedError,
    SessionLostError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.limits import DIAL_TIMEOUT_S, HELLO_TIMEOUT_S
from p2p.memory_directory import MemoryDirectory
from p2p.memory_wire import MemoryStream, Wire
from p2p.network import (
    Access,
    Gate,
    GossipMessage,
    Provider,
    RecordCheck,
    Stream,
    StreamHandler,
    Way,
    WayWatcher,
)
from p2p.subscriptions import Subscription
from p2p.types import NetworkId, PeerId

if TYPE_CHECKING:
    from p2p.memory_network import MemoryHub

_logger = logging.getLogger(__name__)

JOBS_MAX = 100_000
REFUSAL_LINGER_S = 0.5
OPEN_TIMEOUT_S = 5.0

_Job = Callable[[], Awaitable[Any]]


class MemoryNetwork:
    """One peer's view of a hub (see `p2p.network.Network`)."""

    def __init__(
        self,
        hub: MemoryHub,
        local: PeerId,
        network_id: NetworkId,
        gate: Gate,
        record_check: RecordCheck,
    ) -> None:
        self.hub = hub
        self.local = local
        self.network_id = network_id
        self.places: tuple[str, ...] = ()
        self.subscribes = True
        self.directory_server = True
        self.pre_shared_key: bytes | None = None
        self.on_stop: Callable[[], None] | None = None
        self._gate = gate
        self.directory = MemoryDirectory(self, record_check)
        self._handlers: dict[str, tuple[StreamHandler, bool]] = {}
        self._wires: list[Wire] = []
        self.subscriptions: dict[str, Subscription] = {}
        self._dial_locks: dict[PeerId, trio.Lock] = {}
        self._way_watchers: list[WayWatcher] = []
        self._ways_told: dict[PeerId, Way] = {}
        self._stopped = False
        self._jobs_send, self._jobs_receive = trio.open_memory_channel[_Job](JOBS_MAX)

    # --- life -------------------------------------------------------------------------------

    def listen(self, addresses: Sequence[str]) -> None:
        """Take the places to listen on. Raises: MalformedError, PeerUnavailableError."""
        places: list[str] = []
        for address in addresses:
            parts = address.split("/")
            if len(parts) != 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
                raise MalformedError(f"not a TCP multiaddress: {address[:200]!r}")
            if parts[4] == "0":
                parts[4] = str(self.hub.new_port())
            place = "/".join(parts)
            if self.hub.find(place) is not None:
                raise PeerUnavailableError(f"cannot listen on {place}: the port is in use")
            places.append(place)
        self.places = tuple(places)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve streams and deliver gossip, for ever."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for job in self._jobs_receive:
                nursery.start_soon(self._run_job, job)

    async def _run_job(self, job: _Job) -> None:
        try:
            await job()
        except Exception:
            _logger.exception("a background task of the network failed")

    def start_soon(self, job: _Job) -> None:
        """Let `run` do something."""
        if not self._stopped:
            self._jobs_send.send_nowait(job)

    def stop(self) -> None:
        """Be gone: every connection breaks and the `open` block is cancelled."""
        if self._stopped:
            return
        self._stopped = True
        for wire in list(self._wires):
            wire.break_off()
        for subscription in self.subscriptions.values():
            subscription.close()
        if self.on_stop is not None:
            self.on_stop()

    def addresses(self) -> tuple[str, ...]:
        """Multiaddresses others can dial."""
        return tuple(f"{place}/p2p/{self.local}" for place in self.places)

    # --- connections ------------------------------------------------------------------------

    def _wire_to(self, peer_id: PeerId, way: Way | None = None) -> Wire | None:
        best: Wire | None = None
        best_rank = -1
        for wire in reversed(self._wires):
            if wire.other(self).local == peer_id and peer_id in wire.access and wire.alive:
                rank = 2 * (wire.access[peer_id] is Access.MEMBER) + (wire.way is Way.DIRECT)
                if rank > best_rank and way in (None, wire.way):
                    best, best_rank = wire, rank
        return best

    def way_to(self, peer_id: PeerId) -> Way | None:
        """The best way to a connected and greeted peer."""
        wire = self._wire_to(peer_id)
        return None if wire is None else wire.way

    def watch_ways(self, watcher: WayWatcher) -> None:
        """Call `watcher` whenever the best way to a peer has become another one."""
        self._way_watchers.append(watcher)

    def _tell_way(self, peer_id: PeerId) -> None:
        way = self.way_to(peer_id)
        if way is self._ways_told.get(peer_id):
            return
        if way is None:
            del self._ways_told[peer_id]
        else:
            self._ways_told[peer_id] = way
        for watcher in self._way_watchers:
            watcher(peer_id, way)

    def access_of(self, peer_id: PeerId) -> Access | None:
        """What a connected and greeted peer may use."""
        wire = self._wire_to(peer_id)
        return None if wire is None else wire.access[peer_id]

    def peers(self) -> tuple[PeerId, ...]:
        """The peers with a greeted connection."""
        found: dict[PeerId, None] = {}
        for wire in self._wires:
            peer_id = wire.other(self).local
            if peer_id in wire.access and wire.alive:
                found[peer_id] = None
        return tuple(found)

    async def connect(self, address: str) -> PeerId:
        """Dial an address that names its peer, exchange hellos, and give the peer's ID."""
        place, peer_id = _parse_address(address)
        if peer_id == self.local:
            raise MalformedError("this is our own address")
        async with self._dial_locks.setdefault(peer_id, trio.Lock()):
            if self._wire_to(peer_id, Way.DIRECT) is None:
                await self._dial(place, peer_id)
        return peer_id

    async def _dial(self, place: str, peer_id: PeerId) -> None:
        hub = self.hub
        await trio.sleep(hub.draw_delay_s(self.local, peer_id))
        if self._stopped:
            raise PeerUnavailableError("this peer is stopped")
        if hub.silent_between(self.local, peer_id):
            await trio.sleep(DIAL_TIMEOUT_S)
            raise DeadlineError(f"{place} did not answer in {DIAL_TIMEOUT_S:g} s")
        other = self._answering(place, peer_id)
        if other.pre_shared_key != self.pre_shared_key:
            raise PeerUnavailableError(f"{place} answers, but with another pre-shared key")
        if other.network_id != self.network_id:
            raise WrongNetworkError(f"{peer_id} belongs to another network")
        wire = hub.make_wire(self, other)
        for end in wire.ends:
            end.add_wire(wire)
        error = await self.greet_over(wire)
        if error is not None:
            raise error

    def _answering(self, place: str, peer_id: PeerId) -> MemoryNetwork:
        """Give who answers at a place. Raises: PeerUnavailableError, UntrustedError."""
        other = self.hub.find(place)
        if other is None or self.hub.random_for(self.local, peer_id).random() < self.hub.dial_loss:
            raise PeerUnavailableError(f"cannot reach {place}: connection refused")
        if other.local != peer_id:
            raise UntrustedError(f"another peer than the address names answers at {place}")
        return other

    async def greet_over(self, wire: Wire) -> P2PError | None:
        """Exchange hellos on a wire that we dialled; gives why it was refused."""
        other = wire.other(self)
        ours, theirs = wire.open_pair(self)
        other.start_soon(lambda: other._greet(wire, theirs, dialled=False))
        return await self._greet(wire, ours, dialled=True)

    def add_wire(self, wire: Wire) -> None:
        """A connection was made, by us or to us."""
        self._wires.append(wire)

    async def connect_over(self, stream: Stream, peer_id: PeerId, received: bytes = b"") -> None:
        """Make a stream that leads to a peer the connection to it."""
        await memory_carried.connect_over(self, stream, peer_id, received)

    async def accept_over(self, stream: Stream, received: bytes = b"") -> None:
        """Serve a connection that another peer makes over a stream, until it is gone."""
        await memory_carried.accept_over(self, stream, received)

    async def probe(self, address: str) -> None:
        """Find out whether a peer can be dialled at an address."""
        self._answering(*_parse_address(address))
        await trio.sleep(self.hub.draw_delay_s(self.local, self.local))

    async def _greet(self, wire: Wire, stream: MemoryStream, *, dialled: bool) -> P2PError | None:
        peer_id = stream.remote
        error: P2PError | None = DeadlineError(f"no hello from {peer_id} in time")
        with trio.move_on_after(HELLO_TIMEOUT_S):
            error = await self._ask_gate(wire, stream, dialled=dialled)
        if error is None:
            return None
        await stream.close()
        if not dialled and wire.alive:
            with trio.move_on_after(REFUSAL_LINGER_S):
                await wire.lost.wait()
        wire.break_off()
        return error

    async def _ask_gate(
        self, wire: Wire, stream: MemoryStream, *, dialled: bool
    ) -> P2PError | None:
        peer_id = stream.remote
        try:
            access = await self._gate.greet(stream, dialled=dialled)
        except SessionLostError as lost:
            if dialled and wire.alive:
                return UntrustedError(f"{peer_id} refused our hello")
            return lost
        except P2PError as refusal:
            return refusal
        except Exception as fault:
            _logger.exception("the gate failed on the hello of %s", peer_id)
            return MalformedError(f"the hello of {peer_id} could not be read: {fault!r}")
        await stream.close()
        if not wire.alive:
            return PeerUnavailableError(f"{peer_id} closed the connection after its hello")
        wire.access[peer_id] = access
        wire.settled[self.local].set()
        self._tell_way(peer_id)
        return None

    def wire_lost(self, wire: Wire) -> None:
        """A connection of ours broke."""
        if wire not in self._wires:
            return
        self._wires.remove(wire)
        peer_id = wire.other(self).local
        self._tell_way(peer_id)
        if peer_id in wire.access and self._wire_to(peer_id) is None:
            try:
                self._gate.forget(peer_id)
            except Exception:
                _logger.exception("the gate failed to forget %s", peer_id)

    async def disconnect(self, peer_id: PeerId, *, only: Way | None = None) -> None:
        """Close all connections to a peer, or only those of one way."""
        await trio.lowlevel.checkpoint()
        for wire in list(self._wires):
            if wire.other(self).local == peer_id and only in (None, wire.way):
                wire.break_off()

    # --- streams ----------------------------------------------------------------------------

    def handle(self, protocol: str, handler: StreamHandler, *, newcomers: bool = False) -> None:
        """Serve inbound streams of a protocol."""
        self._handlers[protocol] = (handler, newcomers)

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        """Open a stream on an existing greeted connection."""
        wire = self._wire_to(peer_id)
        if wire is None:
            raise PeerUnavailableError(f"there is no connection to {peer_id}")
        other = wire.other(self)
        with trio.move_on_after(OPEN_TIMEOUT_S):
            await trio.sleep(wire.draw_delay_s())
            await wire.wait_released()
            await wire.settled[other.local].wait()
            await trio.sleep(wire.draw_delay_s())
            if not wire.alive:
                raise SessionLostError(f"the connection to {peer_id} is gone")
            handler = other.handler_for(wire, self.local, protocol)
            if handler is None:
                raise RefusedError(
                    "protocol_not_served", f"{peer_id} does not serve {protocol} to us"
                )
            ours, theirs = wire.open_pair(self)
            other.start_soon(lambda: other.serve(protocol, handler, theirs))
            return ours
        raise DeadlineError(f"{peer_id} did not answer in {OPEN_TIMEOUT_S:g} s to {protocol}")

    def handler_for(self, wire: Wire, peer_id: PeerId, protocol: str) -> StreamHandler | None:
        """Give the handler of a protocol if the peer may use it on this connection."""
        found = self._handlers.get(protocol)
        if found is None or (wire.access.get(peer_id) is not Access.MEMBER and not found[1]):
            return None
        return found[0]

    async def serve(self, protocol: str, handler: StreamHandler, stream: MemoryStream) -> None:
        """Run a handler: close the stream when it returns, reset it when it raises."""
        broken = True
        try:
            await handler(stream)
            broken = False
        except P2PError as error:
            _logger.debug("the handler of %s ended for %s: %s", protocol, stream.remote, error)
        except Exception:
            _logger.exception("the handler of %s failed for %s", protocol, stream.remote)
        finally:
            with trio.CancelScope(shield=True):
                await (stream.reset() if broken else stream.close())

    # --- gossip -----------------------------------------------------------------------------

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Receive a topic's messages (at most once for each topic)."""
        if not self.subscribes:
            raise MalformedError("this network was opened without subscriptions")
        if topic in self.subscriptions:
            raise MalformedError(f"{topic} is subscribed already")
        self.subscriptions[topic] = subscription = Subscription()
        return subscription.channel

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to all subscribers of a topic that are reachable along connections."""
        await memory_gossip.publish(self, topic, data)

    def gossip_hops(self) -> list[tuple[MemoryNetwork, float]]:
        """Give the members next to us and the delay to each, in a fixed order."""
        return memory_gossip.hops(self, self._wires)

    # --- directory --------------------------------------------------------------------------

    async def provide(self, key: bytes) -> None:
        """Say on the directory that we provide a key."""
        await self.directory.provide(key)

    async def find_providers(self, key: bytes) -> list[Provider]:
        """Ask the directory who provides a key."""
        return await self.directory.find_providers(key)

    async def put_record(self, key: bytes, value: bytes) -> None:
        """Store a record that passes the RecordCheck."""
        await self.directory.put_record(key, value)

    async def get_record(self, key: bytes) -> bytes | None:
        """Look a record up on the directory, newest wins."""
        return await self.directory.get_record(key)


def _parse_address(address: str) -> tuple[str, PeerId]:
    """Cut an address into its place and its peer. Raises: MalformedError."""
    place, separator, name = address.rpartition("/p2p/")
    if not separator or not name or place.count("/") != 4 or "/tcp/" not in place:
        raise MalformedError(f"not an address of a peer: {address[:200]!r}")
    return place, PeerId(name)
