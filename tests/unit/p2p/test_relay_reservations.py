"""Who may reserve how much at a relay: identities of nodes cost nothing, networks do."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from p2p.certificates import Certificate
from p2p.codec import encode_message
from p2p.errors import SessionLostError
from p2p.reaching.relay import Relay, RelayCaps
from p2p.reaching.relay_messages import RelayReserve, RelayVerdict
from p2p.reaching.relay_wire import read_one
from p2p.types import AccountId, PeerId, Role
from p2p.wire import encode_frame
from tests.fakes.networks import NETWORK, eventually

REQUEST = encode_frame(encode_message(RelayReserve()), 4096)


class Reserving:
    """The stream of a node that reserves, as the relay sees it: open until `gone`."""

    def __init__(self, name: str, address: str) -> None:
        self.remote, self.remote_address = PeerId(name), address
        self.gone = trio.Event()
        self._asked = [REQUEST]
        self._answer = b""

    async def send_all(self, data: bytes) -> None:
        self._answer += data

    async def receive_some(self) -> bytes:
        if self._asked:
            return self._asked.pop()
        await self.gone.wait()
        return b""

    async def code(self) -> str:
        await eventually(lambda: bool(self._answer))
        answer: Any = Said(self._answer)
        verdict, _ = await read_one(answer, RelayVerdict)
        return verdict.code


class Said:
    """What was said, to be read."""

    remote = PeerId("relay")

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self) -> bytes:
        data, self._data = self._data, b""
        if not data:
            raise SessionLostError("the end")
        return data


def certificate_of(peer_id: PeerId) -> Certificate:
    return Certificate(NETWORK, peer_id, Role.NODE, AccountId("a"), 0, 2**50)


@pytest.mark.parametrize(
    ("addresses", "codes"),
    [
        (["8.8.8.1", "8.8.8.2", "8.8.8.3"], ["", "", "relay_full"]),
        (["2606:4700:1::1", "2606:4700:1:2::1", "2606:4700:1:3::1"], ["", "", "relay_full"]),
        (["8.8.8.1", "8.8.8.1", "8.8.9.1"], ["", "", ""]),
        (["192.168.0.1", "192.168.0.2", "192.168.0.3"], ["", "", ""]),  # behind the same router
        (["", "", ""], ["", "", ""]),
    ],
)
async def test_one_network_does_not_reserve_everything(
    addresses: list[str], codes: list[str]
) -> None:
    network: Any = None
    relay = Relay(network, certificate_of, RelayCaps(reservations=8), clock_ms=lambda: 0)
    async with trio.open_nursery() as nursery:
        found, streams = [], []
        for number, address in enumerate(addresses):
            stream: Any = Reserving(f"node-{number}", address)
            streams.append(stream)
            nursery.start_soon(relay.serve, stream)
            found.append(await stream.code())
        assert found == codes
        streams[0].gone.set()  # whoever goes makes room
        await eventually(lambda: relay.reservations == codes.count("") - 1)
        again: Any = Reserving("node-9", addresses[0])
        nursery.start_soon(relay.serve, again)
        assert await again.code() == ""
        nursery.cancel_scope.cancel()
