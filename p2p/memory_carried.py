"""Owns connections inside of streams on the in-memory network: the twin of carried connections.

Theory of operation. The dialling end sends a token through the stream; whoever takes it out at the
other end is connected to the dialler. From then on all bytes of the connection travel through the
stream (see `p2p.memory_wire.Carrier`), so that a relay between the two counts, delays and cuts them
as it would real ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from p2p.errors import DeadlineError, PeerUnavailableError, UntrustedError
from p2p.limits import DIAL_TIMEOUT_S
from p2p.memory_wire import Carrier, MemoryStream, Wire
from p2p.network import Stream
from p2p.types import PeerId

if TYPE_CHECKING:
    from p2p.memory_peer import MemoryNetwork

TOKEN_BYTES = 8


@dataclass(slots=True)
class CarriedDial:
    """A connection that was asked for and not answered yet."""

    dialler: MemoryNetwork
    stream: MemoryStream
    answered: trio.Event = field(default_factory=trio.Event)
    wire: Wire | None = None


async def connect_over(
    network: MemoryNetwork, stream: Stream, peer_id: PeerId, received: bytes
) -> None:
    """Make a stream that leads to a peer the connection to it. Raises: P2PError."""
    assert isinstance(stream, MemoryStream)
    assert not received, "the other end says nothing before it is asked"
    dial = CarriedDial(network, stream)
    token = network.hub.random_for(network.local, peer_id).randbytes(TOKEN_BYTES)
    network.hub.carried[token] = dial
    done = False
    try:
        with trio.move_on_after(DIAL_TIMEOUT_S):
            await stream.send_all(token)
            await dial.answered.wait()
        wire = dial.wire
        if wire is None:
            raise DeadlineError(f"{peer_id} did not answer in {DIAL_TIMEOUT_S:g} s")
        if wire.ends[1].local != peer_id:
            wire.break_off()
            raise UntrustedError("another peer than was asked for answers through the relay")
        error = await network.greet_over(wire)
        if error is not None:
            raise error
        done = True
    finally:
        network.hub.carried.pop(token, None)
        if not done:
            stream.abort()


async def accept_over(network: MemoryNetwork, stream: Stream, received: bytes) -> None:
    """Serve a connection that comes inside of a stream, until it is gone. Raises: P2PError."""
    assert isinstance(stream, MemoryStream)
    token = received
    with trio.move_on_after(DIAL_TIMEOUT_S):
        while len(token) < TOKEN_BYTES:
            data = await stream.receive_some()
            if not data:
                break
            token += data
    dial = network.hub.carried.pop(token, None)
    if dial is None:
        raise PeerUnavailableError("no connection came through the relay")
    there, back = Carrier(dial.stream, stream), Carrier(stream, dial.stream)
    wire = network.hub.make_wire(dial.dialler, network, (there, back))
    for end in wire.ends:
        end.add_wire(wire)
    dial.wire = wire
    dial.answered.set()

    async def run(carrier: Carrier) -> None:
        await carrier.run()
        wire.break_off()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, there)
            nursery.start_soon(run, back)
            await wire.lost.wait()
            nursery.cancel_scope.cancel()
    finally:
        wire.break_off()
