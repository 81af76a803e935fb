"""Owns the in-memory network: the libp2p adapter's twin, seeded, in one process, on any trio clock.

Theory of operation. A `MemoryHub` is the internet: it knows who listens where, draws delays and
losses from its seed (one generator for each pair of peers, so that one pair's traffic does not
shift another's), and takes faults: partitions, crashes, frozen peers. A network opened on it
keeps the port's promises with the same rules as the libp2p adapter: hellos before anything else,
streams that are reliable until they break, gossip that travels along connections between members
and is passed on by subscribers only, and a directory that is kept by the members that serve it.
On `trio.testing.MockClock` hours pass in seconds.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import trio

from p2p.errors import PeerUnavailableError
from p2p.memory_carried import CarriedDial
from p2p.memory_peer import MemoryNetwork
from p2p.memory_wire import Carrier, Wire
from p2p.network import Gate, RecordCheck, Way
from p2p.signing import KeyPair
from p2p.types import NetworkId, PeerId

__all__ = ["MemoryHub", "MemoryNetwork"]

FIRST_PORT = 40_000


class MemoryHub:
    """The internet of one test: faults and delays are set here, at any time.

    Attributes:
        delay_s: bounds of the one-way delay of every chunk.
        gossip_loss: the share of gossip messages that each hop loses.
        dial_loss: the share of dials that fail.
    """

    def __init__(
        self,
        seed: int,
        *,
        delay_s: tuple[float, float] = (0.0, 0.0),
        gossip_loss: float = 0.0,
        dial_loss: float = 0.0,
    ) -> None:
        self.seed = seed
        self.delay_s = delay_s
        self.gossip_loss = gossip_loss
        self.dial_loss = dial_loss
        self.networks: dict[PeerId, MemoryNetwork] = {}
        self.wires: list[Wire] = []
        self._random_by_pair: dict[tuple[PeerId, PeerId], random.Random] = {}
        self._groups: list[frozenset[PeerId]] = []
        self._cuts: set[frozenset[PeerId]] = set()
        self._silent = False
        self._frozen: set[PeerId] = set()
        self._next_port = FIRST_PORT
        self.carried: dict[bytes, CarriedDial] = {}
        """Connections inside of streams whose other end has not answered yet, by their tokens."""

    # --- faults -----------------------------------------------------------------------------

    def partition(self, *groups: Iterable[PeerId], silent: bool = False) -> None:
        """Cut the network into groups; peers in none are a group of their own together.

        Connections across break at once or, if `silent`, carry nothing until `heal`.
        """
        self._groups = [frozenset(group) for group in groups]
        self._silent = silent
        for wire in list(self.wires):
            if wire.way is Way.RELAYED:
                continue  # it breaks with the streams that carry it
            if not silent and not self.reachable(wire.ends[0].local, wire.ends[1].local):
                wire.break_off()
        self._hold_wires()

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Let two peers not reach each other directly until `heal`; connections break at once."""
        self._cuts.add(frozenset((one, other)))
        for wire in list(self.wires):
            if wire.way is Way.DIRECT and {end.local for end in wire.ends} == {one, other}:
                wire.break_off()

    def heal(self) -> None:
        """End the partition, and all cuts."""
        self._groups = []
        self._cuts.clear()
        self._hold_wires()

    def freeze(self, peer_id: PeerId) -> None:
        """Stop a peer as SIGSTOP does: nothing arrives from it or at it."""
        self._frozen.add(peer_id)
        self._hold_wires()

    def thaw(self, peer_id: PeerId) -> None:
        """Let a frozen peer go on."""
        self._frozen.discard(peer_id)
        self._hold_wires()

    def crash(self, peer_id: PeerId) -> None:
        """End a peer as SIGKILL does: its connections break, its `open` block is cancelled."""
        network = self.networks.pop(peer_id, None)
        if network is not None:
            network.stop()

    def reachable(self, one: PeerId, other: PeerId) -> bool:
        """Tell whether no partition lies between two peers."""
        if frozenset((one, other)) in self._cuts:
            return False
        return self._group_of(one) == self._group_of(other)

    def _group_of(self, peer_id: PeerId) -> int:
        return next((i for i, group in enumerate(self._groups) if peer_id in group), -1)

    def _hold_wires(self) -> None:
        for wire in self.wires:
            self._hold(wire)

    def _hold(self, wire: Wire) -> None:
        if wire.way is Way.RELAYED:
            return
        ends = [end.local for end in wire.ends]
        wire.hold(not self.reachable(*ends) or any(end in self._frozen for end in ends))

    def silent_between(self, one: PeerId, other: PeerId) -> bool:
        """Tell whether a dial from one peer to the other would get no answer at all."""
        cut = not self.reachable(one, other)
        return cut or one in self._frozen or other in self._frozen

    # --- chance -----------------------------------------------------------------------------

    def random_for(self, one: PeerId, other: PeerId) -> random.Random:
        """The generator of one ordered pair of peers."""
        pair = (one, other)
        found = self._random_by_pair.get(pair)
        if found is None:
            found = random.Random(f"{self.seed}/{one}/{other}")
            self._random_by_pair[pair] = found
        return found

    def draw_delay_s(self, one: PeerId, other: PeerId) -> float:
        """Draw the one-way delay of one chunk."""
        low, high = self.delay_s
        return self.random_for(one, other).uniform(low, high) if high > 0 else 0.0

    # --- peers ------------------------------------------------------------------------------

    def new_port(self) -> int:
        """Give a port that nobody listens on."""
        self._next_port += 1
        return self._next_port

    def find(self, place: str) -> MemoryNetwork | None:
        """Give the network that listens at `/ip4/…/tcp/…`."""
        for network in self.networks.values():
            if place in network.places:
                return network
        return None

    def make_wire(
        self,
        dialler: MemoryNetwork,
        acceptor: MemoryNetwork,
        carriers: tuple[Carrier, Carrier] | None = None,
    ) -> Wire:
        """Connect two networks, directly or inside of the streams that carry the connection."""
        pair = (dialler.local, acceptor.local)
        wire = Wire((dialler, acceptor), lambda: self.draw_delay_s(*pair), self._wire_lost)
        wire.carriers = carriers
        self.wires.append(wire)
        self._hold(wire)
        return wire

    def _wire_lost(self, wire: Wire) -> None:
        self.wires.remove(wire)
        for end in wire.ends:
            end.wire_lost(wire)

    @asynccontextmanager
    async def open(
        self,
        key_pair: KeyPair,
        network_id: NetworkId,
        *,
        gate: Gate,
        record_check: RecordCheck,
        listen_addresses: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
        subscribes: bool = True,
        directory_server: bool = True,
        pre_shared_key: bytes | None = None,
    ) -> AsyncIterator[MemoryNetwork]:
        """Be a peer of the hub while the block runs (as `open_libp2p_network`).

        Raises: PeerUnavailableError if the address is taken, MalformedError if it is none.
        """
        network = MemoryNetwork(self, key_pair.peer_id, network_id, gate, record_check)
        network.listen(listen_addresses)
        network.subscribes = subscribes
        network.directory_server = directory_server
        network.pre_shared_key = pre_shared_key
        if key_pair.peer_id in self.networks:
            raise PeerUnavailableError("this peer is on the hub already")
        self.networks[key_pair.peer_id] = network
        body_error: list[BaseException] = []
        try:
            async with trio.open_nursery() as nursery:
                network.on_stop = nursery.cancel_scope.cancel
                await nursery.start(network.run)
                try:
                    yield network
                except BaseException as error:
                    body_error.append(error)
                    raise
                finally:
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup:
            if body_error and not isinstance(body_error[0], trio.Cancelled):
                raise body_error[0] from body_error[0].__cause__
            raise
        finally:
            if self.networks.get(key_pair.peer_id) is network:
                del self.networks[key_pair.peer_id]
            network.stop()
