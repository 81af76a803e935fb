"""Why py-libp2p's own circuit relay is not used: each test fails once upstream has repaired it.

docs/decisions/0011-our-own-relay.md says what follows from it.
"""

from __future__ import annotations

from typing import Any

import pytest
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.utils import read_exactly
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits

from tests.fakes.networks import pair

NODE = ID.from_base58(pair("node").peer_id)


class FakeHost:
    def get_peerstore(self) -> None:
        return None

    def get_id(self) -> ID:
        return NODE


class FakeStream:
    """Gives what it was made with, then the end; notes what happens to it."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.written: list[bytes] = []
        self.closed = False

    async def read(self, n: int | None = None) -> bytes:
        return self.chunks.pop(0) if self.chunks else b""

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def close(self) -> None:
        self.closed = True

    async def reset(self) -> None:
        self.closed = True


def protocol() -> Any:
    host: Any = FakeHost()
    return CircuitV2Protocol(host, RelayLimits(3600, 10, 4, 4), allow_hop=True)


async def test_a_circuit_over_its_cap_gets_a_message_into_its_bytes() -> None:
    source, target = FakeStream(b"x" * 20), FakeStream()
    await protocol()._relay_data(source, target, NODE, None, [10])
    assert source.written  # the end takes this for ciphertext
    assert target.written == []


async def test_one_circuits_end_closes_another_one_of_the_same_peer() -> None:
    relay = protocol()
    first, second = (FakeStream(), FakeStream()), (FakeStream(), FakeStream())
    relay._active_relays[NODE] = first
    relay._active_relays[NODE] = second  # another peer is joined to the same one
    await relay._relay_data(*first, NODE)
    assert [stream.closed for stream in second] == [True, True]
    assert [stream.closed for stream in first] == [False, False]


async def test_bytes_are_counted_for_a_circuit_only() -> None:
    relay = protocol()
    relay.resource_manager.create_reservation(NODE)
    await relay._relay_data(FakeStream(b"x" * 9), FakeStream(), NODE, None, [10])
    await relay._relay_data(FakeStream(b"x" * 9), FakeStream(), NODE, None, [10])
    assert relay.resource_manager._reservations[NODE].data_used == 0


async def test_a_message_in_many_pieces_is_given_up() -> None:
    class Dripping:
        async def read(self, n: int | None = None) -> bytes:
            return b"x"

    reader: Any = Dripping()
    with pytest.raises(IncompleteReadError):
        await read_exactly(reader, 200)
