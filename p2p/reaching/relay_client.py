"""Owns both ends of the relay: a hidden node that reserves, a gateway that dials through it.

Theory of operation. The address of a hidden node at a relay is the relay's own, then
`/p2p-circuit/p2p/<node>`. The relay is reached like any peer and must be a certified bootstrap;
what it joins is secured end to end, so it can only refuse, delay and cut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from p2p.errors import MalformedError, P2PError, PeerUnavailableError, RefusedError, UntrustedError
from p2p.limits import REDIAL_PAUSE_S_MAX, RELAY_CIRCUITS_PER_NODE_MAX
from p2p.network import Network, Stream
from p2p.reaching.relay_messages import (
    CIRCUIT,
    RELAY_PROTOCOL,
    RELAYED_PROTOCOL,
    RelayConnect,
    RelayIncoming,
    RelayReserve,
    RelayVerdict,
)
from p2p.reaching.relay_wire import read_one, send_one
from p2p.types import PeerId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)
RESERVE_PAUSE_S_MAX = 60.0
"""A relay that is full is asked again after a minute."""


def is_relayed(address: str) -> bool:
    """Tell whether an address leads through a relay."""
    return CIRCUIT in address


async def connect_through(
    network: Network, address: str, may_relay: Callable[[PeerId], bool]
) -> PeerId:
    """Connect to a hidden node through the relay that its address names.

    Args:
        may_relay: whether a connected peer is one that may relay (a certified bootstrap).
    Raises: as `Network.connect`; PeerUnavailableError if the relay refuses.
    """
    relay_address, _, name = address.partition(CIRCUIT)
    if not name or "/" in name:
        raise MalformedError(f"not the address of a node at a relay: {address[:200]!r}")
    node = PeerId(name)
    known = network.way_to(PeerId(relay_address.rpartition("/p2p/")[2])) is not None
    relay = await network.connect(relay_address)
    if not may_relay(relay):
        if not known:
            await network.disconnect(relay)
        raise UntrustedError(f"{relay} is no bootstrap: nothing is relayed by it")
    stream = await network.open_stream(relay, RELAY_PROTOCOL)
    joined = False
    try:
        await send_one(stream, RelayConnect(node))
        verdict, rest = await read_one(stream, RelayVerdict)
        if verdict.code:
            raise PeerUnavailableError(f"the relay refused: {verdict.reason} ({verdict.code})")
        await network.connect_over(stream, node, rest)
        joined = True
    finally:
        if not joined:
            with trio.CancelScope(shield=True):
                await stream.reset()
    log.info("connected to %s through the relay %s", node, relay)
    return node


class RelayReservation:
    """A hidden node's place at the bootstrap that it is linked to."""

    def __init__(self, network: Network, uplink: Uplink, on_change: Callable[[], None]) -> None:
        """`on_change` is called when `address` is another one."""
        self._network = network
        self._uplink = uplink
        self._on_change = on_change
        self._relay: PeerId | None = None
        self._open = 0
        self.address = ""
        """Where gateways reach us through the relay; empty while we have no reservation."""
        self.bytes_max = 0
        """What one connection may carry."""

    async def run(self) -> None:
        """Keep a reservation until cancelled."""
        self._network.handle(RELAYED_PROTOCOL, self._take)
        pause_s = REDIAL_PAUSE_S_MAX
        said = ""
        while True:
            await self._uplink.wait_up()
            try:
                await self._hold()
                pause_s, said = REDIAL_PAUSE_S_MAX, ""
            except P2PError as error:
                if str(error) != said:
                    log.info("no reservation at a relay: %s", error)
                said = str(error)
            finally:
                self._set("", None)
            await trio.sleep(pause_s)
            pause_s = min(RESERVE_PAUSE_S_MAX, 2 * pause_s)

    async def _hold(self) -> None:
        relay, address = self._uplink.bootstrap, self._uplink.address
        if relay is None:
            return
        stream = await self._network.open_stream(relay, RELAY_PROTOCOL)
        try:
            await send_one(stream, RelayReserve())
            verdict, _ = await read_one(stream, RelayVerdict)
            if verdict.code:
                raise RefusedError(verdict.code, verdict.reason)
            self.bytes_max = verdict.bytes_max
            self._set(f"{address}{CIRCUIT}{self._network.local}", relay)
            log.info("reserved at the relay %s", relay)
            while await stream.receive_some():
                pass
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()

    def _set(self, address: str, relay: PeerId | None) -> None:
        changed, self.address, self._relay = address != self.address, address, relay
        if changed:
            self._on_change()

    async def _take(self, stream: Stream) -> None:
        """Serve one connection that the relay passes on (a `StreamHandler`)."""
        incoming, rest = await read_one(stream, RelayIncoming)
        if stream.remote != self._relay or self._open >= RELAY_CIRCUITS_PER_NODE_MAX:
            await send_one(stream, RelayVerdict("not_allowed", "no reservation, or too many"))
            return
        self._open += 1
        try:
            await send_one(stream, RelayVerdict())
            log.info("a connection from %s comes through the relay", incoming.peer_id)
            await self._network.accept_over(stream, rest)
        finally:
            self._open -= 1
