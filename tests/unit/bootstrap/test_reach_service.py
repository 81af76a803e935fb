"""The reachability check: whom a bootstrap dials back, and whom it does not."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from bootstrap.limits import REACH_BURST_PER_PEER, REACH_PORTS_MAX
from bootstrap.reach_service import ReachService
from p2p.calls import Caller
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, PeerUnavailableError, RateLimitedError, RefusedError
from p2p.limits import REACH_TIMEOUT_S
from p2p.reaching.relay_messages import ReachAnswer, ReachQuestion
from p2p.types import PeerId

NODE = PeerId("node")


class Dialler:
    """Notes what is probed; `answers` are the addresses that answer."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.probed: list[str] = []
        self.silent = False

    async def probe(self, address: str) -> None:
        self.probed.append(address)
        if self.silent:
            await trio.sleep_forever()
        if address not in self.answers:
            raise PeerUnavailableError("connection refused")


async def ask(service: ReachService, address: str, *ports: int) -> ReachAnswer:
    body = encode_message(ReachQuestion(ports))
    return decode_message(await service.check(Caller(NODE, None, address), body), ReachAnswer)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("203.0.113.5", "/ip4/203.0.113.5"),
        ("::ffff:203.0.113.5", "/ip4/203.0.113.5"),
        ("2001:db8::1", "/ip6/2001:db8::1"),
    ],
)
async def test_the_callers_own_address_is_dialled(address: str, host: str) -> None:
    dialler: Any = Dialler(f"{host}/tcp/4002/p2p/node")
    answer = await ask(ReachService(dialler), address, 4001, 4002)
    assert answer.address == f"{host}/tcp/4002/p2p/node"
    assert dialler.probed == [f"{host}/tcp/{port}/p2p/node" for port in (4001, 4002)]


async def test_who_does_not_answer_is_told_why() -> None:
    dialler: Any = Dialler()
    answer = await ask(ReachService(dialler), "203.0.113.5", *range(4001, 4008))
    assert (answer.address, answer.reason) == ("", "connection refused")
    assert len(dialler.probed) == REACH_PORTS_MAX


async def test_a_silent_address_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    dialler: Any = Dialler()
    dialler.silent = True
    began = trio.current_time()
    answer = await ask(ReachService(dialler), "203.0.113.5", 4001)
    assert "did not answer" in answer.reason
    assert trio.current_time() - began <= REACH_TIMEOUT_S


@pytest.mark.parametrize("address", ["", "node.example", "203.0.113.5/tcp/1"])
async def test_no_address_no_dial(address: str) -> None:
    dialler: Any = Dialler()
    with pytest.raises(RefusedError):
        await ask(ReachService(dialler), address, 4001)
    assert dialler.probed == []


async def test_checks_are_few() -> None:
    dialler: Any = Dialler()
    service = ReachService(dialler)
    for _ in range(int(REACH_BURST_PER_PEER)):
        await ask(service, "203.0.113.5", 4001)
    with pytest.raises(RateLimitedError):
        await ask(service, "203.0.113.5", 4001)
    with pytest.raises(MalformedError):
        await service.check(Caller(NODE, None, "203.0.113.5"), encode_message(ReachAnswer("")))
