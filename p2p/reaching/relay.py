"""Owns the relay: a bootstrap joins a gateway's stream to a hidden node's, counts, and cuts.

Theory of operation. A hidden node opens a stream on `relay/1` and reserves: for as long as that
stream is open, the relay passes connections on to it. A gateway with no direct way to the node
opens a stream on `relay/1` and names the node; the relay opens one on `relayed/1` to the node, and
from then on copies bytes in both directions. Inside of them the two ends make a connection of
their own, with Noise and hello as on any other, so the relay reads ciphertext and neither end
believes the relay anything. Both must be certified members: a node to reserve, a gateway to
connect.

A relay's bytes are somebody's money. They are counted in both directions, and a circuit is cut
when it, its node's part of the day, or the day is used up, or when its time is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from p2p.certificates import Certificate
from p2p.clock import Clock
from p2p.errors import MalformedError, P2PError, RefusedError, SessionLostError
from p2p.limits import (
    RELAY_BYTES_PER_DAY_MAX,
    RELAY_CIRCUIT_BYTES_MAX,
    RELAY_CIRCUIT_S_MAX,
    RELAY_CIRCUITS_MAX,
    RELAY_CIRCUITS_PER_NODE_MAX,
    RELAY_CIRCUITS_PER_PAIR_MAX,
    RELAY_NODE_SHARE,
    RELAY_NODES_PER_DAY_MAX,
    RELAY_RESERVATIONS_MAX,
)
from p2p.network import Network, Stream, Way, remote_address_of
from p2p.opening_messages import is_public_prefix, network_prefix
from p2p.reaching.relay_messages import (
    RELAY_PROTOCOL,
    RELAYED_PROTOCOL,
    RelayConnect,
    RelayIncoming,
    RelayReserve,
    RelayVerdict,
)
from p2p.reaching.relay_wire import read_one, send_one
from p2p.types import PeerId, Role

log = logging.getLogger(__name__)
MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class RelayCaps:
    """What a relay gives at most."""

    bytes_per_day: int = RELAY_BYTES_PER_DAY_MAX
    bytes_per_circuit: int = RELAY_CIRCUIT_BYTES_MAX
    circuits: int = RELAY_CIRCUITS_MAX
    reservations: int = RELAY_RESERVATIONS_MAX
    circuit_s: float = RELAY_CIRCUIT_S_MAX

    @property
    def bytes_per_node_and_day(self) -> int:
        """One node's part of the day."""
        return max(self.bytes_per_day // RELAY_NODE_SHARE, min(1, self.bytes_per_day))

    @property
    def reservations_per_source(self) -> int:
        """What the nodes of one network of the internet may reserve."""
        return max(self.reservations // RELAY_NODE_SHARE, 1)


class RelayBudget:
    """The bytes of a day (UTC), together and for each node. Pure."""

    def __init__(self, caps: RelayCaps) -> None:
        """Start with nothing used."""
        self._caps = caps
        self._day = -1
        self.used_bytes = 0
        self._used_by_node: dict[PeerId, int] = {}

    def _turn(self, now_ms: int) -> None:
        day = now_ms // MS_PER_DAY
        if day != self._day:
            self._day, self.used_bytes = day, 0
            self._used_by_node.clear()

    def left(self, node: PeerId, now_ms: int) -> int:
        """How many bytes a node may still have relayed today."""
        self._turn(now_ms)
        used = self._used_by_node.get(node)
        if used is None and len(self._used_by_node) >= RELAY_NODES_PER_DAY_MAX:
            return 0
        of_node = self._caps.bytes_per_node_and_day - (used or 0)
        return max(0, min(of_node, self._caps.bytes_per_day - self.used_bytes))

    def take(self, node: PeerId, size_bytes: int, now_ms: int) -> bool:
        """Use bytes up. Returns: False, with nothing used, if there are not so many left."""
        if size_bytes > self.left(node, now_ms):
            return False
        self.used_bytes += size_bytes
        self._used_by_node[node] = self._used_by_node.get(node, 0) + size_bytes
        return True


class Relay:
    """Serves `relay/1` on one bootstrap."""

    def __init__(
        self,
        network: Network,
        certificate_of: Callable[[PeerId], Certificate | None],
        caps: RelayCaps,
        *,
        clock_ms: Clock,
    ) -> None:
        """`certificate_of` gives the certificate of a connected member."""
        self._network = network
        self._certificate_of = certificate_of
        self._caps = caps
        self._clock_ms = clock_ms
        self.budget = RelayBudget(caps)
        self._reserved: dict[PeerId, Stream] = {}
        self._circuits: dict[PeerId, list[PeerId]] = {}
        """The gateways of each node's open circuits."""

    def register(self) -> None:
        """Serve from now on."""
        self._network.handle(RELAY_PROTOCOL, self.serve)

    @property
    def reservations(self) -> int:
        """How many nodes have reserved."""
        return len(self._reserved)

    @property
    def circuits(self) -> int:
        """How many circuits are open."""
        return sum(len(gateways) for gateways in self._circuits.values())

    async def serve(self, stream: Stream) -> None:
        """Serve one stream: a reservation or a circuit (a `StreamHandler`)."""
        first, rest = await read_one(stream, RelayReserve, RelayConnect)
        try:
            if rest:
                raise MalformedError("bytes before the relay's answer")
            if isinstance(first, RelayReserve):
                await self._reserve(stream)
            elif isinstance(first, RelayConnect):
                await self._connect(stream, first.peer_id)
        except RefusedError as refusal:
            log.info("relay: %s: %s", stream.remote, refusal)
            await send_one(stream, RelayVerdict(refusal.code, str(refusal)))

    def _require(self, peer_id: PeerId, role: Role) -> None:
        certificate = self._certificate_of(peer_id)
        if certificate is None or certificate.role is not role:
            raise RefusedError("not_allowed", f"only a certified {role} may ask this of a relay")

    async def _reserve(self, stream: Stream) -> None:
        node = stream.remote
        self._require(node, Role.NODE)
        if node not in self._reserved:
            self._check_reservations(network_prefix(remote_address_of(stream)))
        older, self._reserved[node] = self._reserved.get(node), stream
        try:
            if older is not None:
                await older.reset()
            await send_one(stream, self._terms(node))
            while await stream.receive_some():
                pass
        finally:
            if self._reserved.get(node) is stream:
                del self._reserved[node]

    def _check_reservations(self, source: str) -> None:
        if len(self._reserved) >= self._caps.reservations:
            raise RefusedError("relay_full", "the relay has no reservation left", 60)
        if not is_public_prefix(source):
            return
        sources = (network_prefix(remote_address_of(held)) for held in self._reserved.values())
        if sum(one == source for one in sources) >= self._caps.reservations_per_source:
            raise RefusedError("relay_full", f"too many nodes of {source} have reserved", 60)

    def _terms(self, node: PeerId) -> RelayVerdict:
        left = self.budget.left(node, self._clock_ms())
        return RelayVerdict(
            bytes_max=min(left, self._caps.bytes_per_circuit),
            duration_ms=int(self._caps.circuit_s * 1000),
        )

    def _check_room(self, gateway: PeerId, node: PeerId) -> None:
        if node not in self._reserved or self._network.way_to(node) is not Way.DIRECT:
            raise RefusedError("no_reservation", "this node has no reservation here", 5)
        if self.circuits >= self._caps.circuits:
            raise RefusedError("relay_full", "the relay has no circuit left", 60)
        gateways = self._circuits.get(node, [])
        if len(gateways) >= RELAY_CIRCUITS_PER_NODE_MAX:
            raise RefusedError("relay_full", "this node has no circuit left", 60)
        if gateways.count(gateway) >= RELAY_CIRCUITS_PER_PAIR_MAX:
            raise RefusedError("relay_full", "you are joined to this node already", 60)
        if not self.budget.left(node, self._clock_ms()):
            raise RefusedError("relay_used_up", "the bytes of this day are used up", 3600)

    async def _connect(self, stream: Stream, node: PeerId) -> None:
        gateway = stream.remote
        self._require(gateway, Role.GATEWAY)
        self._check_room(gateway, node)
        self._circuits.setdefault(node, []).append(gateway)
        try:
            await self._run_circuit(stream, node)
        finally:
            self._circuits[node].remove(gateway)
            if not self._circuits[node]:
                del self._circuits[node]

    async def _run_circuit(self, stream: Stream, node: PeerId) -> None:
        try:
            onward = await self._network.open_stream(node, RELAYED_PROTOCOL)
        except P2PError as error:
            raise RefusedError("node_gone", f"the node does not answer: {error}", 5) from error
        circuit = _Circuit(self.budget, self._caps, node, self._clock_ms)
        began = trio.current_time()
        try:
            try:
                await send_one(onward, RelayIncoming(stream.remote))
                verdict, rest = await read_one(onward, RelayVerdict)
            except P2PError as error:
                raise RefusedError("node_gone", f"the node does not answer: {error}", 5) from error
            if verdict.code:
                raise RefusedError("node_refused", "the node does not take the connection", 5)
            await send_one(stream, self._terms(node))
            log.info("circuit from %s to %s opened", stream.remote, node)
            ending = await circuit.run(stream, onward, rest)
            seconds = trio.current_time() - began
            log.info(
                "circuit from %s to %s ended after %.0f s and %d bytes: %s",
                stream.remote, node, seconds, circuit.size_bytes, ending,
            )  # fmt: skip
        finally:
            with trio.CancelScope(shield=True):
                await onward.reset()
        await stream.reset()


class _Circuit:
    """Two streams that are joined."""

    def __init__(self, budget: RelayBudget, caps: RelayCaps, node: PeerId, clock_ms: Clock) -> None:
        self._budget = budget
        self._caps = caps
        self._node = node
        self._clock_ms = clock_ms
        self.size_bytes = 0
        self._ending = "its time is over"

    async def run(self, gateway: Stream, node: Stream, first: bytes) -> str:
        """Copy bytes until either side ends or a cap is reached; says which."""
        with trio.move_on_after(self._caps.circuit_s):
            async with trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                nursery.start_soon(self._copy, node, gateway, first, scope)
                nursery.start_soon(self._copy, gateway, node, b"", scope)
        return self._ending

    async def _copy(
        self, source: Stream, target: Stream, data: bytes, scope: trio.CancelScope
    ) -> None:
        try:
            while True:
                if data:
                    if not self._take(len(data)):
                        self._ending = "its bytes are used up"
                        break
                    await target.send_all(data)
                data = await source.receive_some()
                if not data:
                    self._ending = "closed"
                    break
        except SessionLostError:
            self._ending = "one side is gone"
        scope.cancel()

    def _take(self, size_bytes: int) -> bool:
        if self.size_bytes + size_bytes > self._caps.bytes_per_circuit:
            return False
        if not self._budget.take(self._node, size_bytes, self._clock_ms()):
            return False
        self.size_bytes += size_bytes
        return True
