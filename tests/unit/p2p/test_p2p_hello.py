"""Owns the tests of hellos that break the rules: forged, replayed, malformed, late."""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio

from p2p.admission import NodeBinding
from p2p.codec import encode_message
from p2p.errors import (
    MalformedError,
    P2PError,
    SessionLostError,
    StaleError,
    UntrustedError,
)
from p2p.limits import CLOCK_SKEW_MS_MAX, HELLO_TIMEOUT_S
from p2p.membership import (
    HELLO_BYTES_MAX,
    HELLO_LIFETIME_MS,
    Hello,
    HelloVerdict,
    Membership,
)
from p2p.network import Access
from p2p.signing import KeyPair, Signed
from p2p.types import Role
from p2p.wire import FrameDecoder, encode_frame
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.streams import MemoryStream, stream_pair
from tests.fakes.trust import (
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_GATEWAY,
    OTHER_NETWORK,
    OTHER_NODE,
    gateway_chain,
    membership,
    node_chain,
)


@dataclass
class Side:
    """One peer, and what became of its hello."""

    standing: Membership
    outcome: Access | P2PError | None = None
    streams: list[MemoryStream] = field(default_factory=list)

    async def greet(self, stream: MemoryStream, dialled: bool) -> None:
        self.streams.append(stream)
        try:
            self.outcome = await self.standing.greet(stream, dialled=dialled)
        except P2PError as error:
            self.outcome = error
            await (
                trio.lowlevel.checkpoint()
            )  # as the adapter: the verdict leaves before the stream does
            await stream.close()


def gateway(clock: FakeClock, **options: Any) -> Membership:
    return membership(GATEWAY, Role.GATEWAY, gateway_chain(), clock, **options)


class Speaker:
    """The other end of a hello, driven by hand."""

    def __init__(self, remote: Membership, pair: KeyPair = NODE) -> None:
        self.pair = pair
        self.remote = remote.key_pair.peer_id
        self.stream, self.their_stream = stream_pair(pair.peer_id, self.remote)

    def hello(self, **changes: Any) -> Hello:
        base = Hello(
            network_id=NETWORK,
            peer_id=self.pair.peer_id,
            remote_peer_id=self.remote,
            role="node",
            chain=node_chain(self.pair),
            generation=1,
            software="test",
            nonce=secrets.token_bytes(16),
            issued_ms=START_MS,
        )
        return replace(base, **changes)

    def signed(self, **changes: Any) -> Signed:
        return self.pair.sign(NETWORK, self.hello(**changes))


async def outcome_of(standing: Membership, speaker: Speaker, *said: bytes) -> Any:
    """Let somebody say these bytes and then nothing; gives what the greeting peer made of it."""
    side = Side(standing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(side.greet, speaker.their_stream, False)
        for data in said:
            await speaker.stream.send_all(data)
    return side.outcome


def framed(*items: Any) -> bytes:
    return b"".join(encode_frame(encode_message(item)) for item in items)


YES = HelloVerdict("", "")


async def test_a_hello_by_hand_gets_in() -> None:
    standing = gateway(FakeClock())
    speaker = Speaker(standing)
    data = framed(speaker.signed(), YES)
    assert await outcome_of(standing, speaker, *(data[i : i + 1] for i in range(len(data)))) is (
        Access.MEMBER
    )


async def test_a_replayed_hello() -> None:
    standing = gateway(FakeClock())
    speaker = Speaker(standing)
    data = framed(speaker.signed(), YES)
    assert await outcome_of(standing, speaker, data) is Access.MEMBER
    standing.forget(NODE.peer_id)
    again = Speaker(standing)
    assert isinstance(await outcome_of(standing, again, data), StaleError)
    assert standing.certificate_of(NODE.peer_id) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"network_id": OTHER_NETWORK},
        {"network_id": ""},
        {"peer_id": OTHER_NODE.peer_id},
        {"remote_peer_id": OTHER_GATEWAY.peer_id},
        {"role": "gateway"},
        {"role": ""},
        {"chain": ()},
        {"chain": node_chain(OTHER_NODE)},
        {"issued_ms": START_MS - HELLO_LIFETIME_MS},
        {"issued_ms": START_MS + CLOCK_SKEW_MS_MAX + 1},
    ],
)
async def test_hellos_that_claim_something_else(changes: dict[str, Any]) -> None:
    standing = gateway(FakeClock())
    speaker = Speaker(standing)
    outcome = await outcome_of(standing, speaker, framed(speaker.signed(**changes), YES))
    assert isinstance(outcome, UntrustedError)


async def test_hellos_signed_by_or_for_somebody_else() -> None:
    standing = gateway(FakeClock())
    for signed in (
        OTHER_NODE.sign(NETWORK, Speaker(standing).hello()),
        NODE.sign(OTHER_NETWORK, Speaker(standing).hello()),
        OTHER_NODE.sign(
            NETWORK,
            Speaker(standing).hello(peer_id=OTHER_NODE.peer_id, chain=node_chain(OTHER_NODE)),
        ),
        replace(Speaker(standing).signed(), signature=bytes(64)),
        NODE.sign(NETWORK, NodeBinding(standing.chain[0].peer_id, NODE.peer_id, 1)),  # type: ignore[arg-type]
    ):
        outcome = await outcome_of(standing, Speaker(standing), framed(signed, YES))
        assert isinstance(outcome, UntrustedError)


async def test_the_refused_peer_is_told_why_in_a_verdict() -> None:
    standing = gateway(FakeClock())
    speaker = Speaker(standing)
    await outcome_of(standing, speaker, framed(speaker.signed(network_id=OTHER_NETWORK)))
    frames = FrameDecoder().feed(await speaker.stream.receive_some())
    while len(frames) < 2:
        frames += FrameDecoder().feed(await speaker.stream.receive_some())
    assert b"wrong_network" in frames[1]


@pytest.mark.parametrize("said", [0, 1, 20], ids=["nothing", "a byte", "half a hello"])
async def test_a_silent_peer(autojump_clock: trio.abc.Clock, said: int) -> None:
    standing = gateway(FakeClock())
    speaker = Speaker(standing)
    started = trio.current_time()
    data = framed(speaker.signed())[:said]
    outcome = await outcome_of(standing, speaker, data)
    assert isinstance(outcome, SessionLostError)
    assert trio.current_time() - started == pytest.approx(HELLO_TIMEOUT_S)


async def test_a_peer_without_a_verdict_is_no_member(autojump_clock: trio.abc.Clock) -> None:
    standing = gateway(FakeClock())
    speaker = Speaker(standing)
    outcome = await outcome_of(standing, speaker, framed(speaker.signed()))
    assert isinstance(outcome, SessionLostError)
    assert standing.certificate_of(NODE.peer_id) is None
    assert standing.members(Role.NODE) == ()


async def test_a_peer_that_leaves_or_does_not_read(autojump_clock: trio.abc.Clock) -> None:
    standing = gateway(FakeClock())
    speaker = Speaker(standing)
    await speaker.stream.close()
    side = Side(standing)
    await side.greet(speaker.their_stream, False)
    assert isinstance(side.outcome, SessionLostError)
    stopped = Speaker(standing)
    stopped.stream, stopped.their_stream = stream_pair(
        NODE.peer_id, GATEWAY.peer_id, window_bytes=8
    )
    await side.greet(stopped.their_stream, False)
    assert isinstance(side.outcome, SessionLostError)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x00",
        (HELLO_BYTES_MAX + 1).to_bytes(4, "big"),
        framed(YES),
        framed(YES, YES, YES),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_something_that_is_no_hello(data: bytes) -> None:
    standing = gateway(FakeClock())
    outcome = await outcome_of(standing, Speaker(standing), data)
    assert isinstance(outcome, UntrustedError | MalformedError)


async def test_a_thousand_malformed_hellos(autojump_clock: trio.abc.Clock) -> None:
    standing = gateway(FakeClock())
    draw = random.Random(7)
    good = framed(Speaker(standing).signed(), YES)
    for _ in range(1_000):
        data = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(good))
            if draw.random() < 0.7:
                data[place % len(data)] ^= 1 << draw.randrange(8)
            else:
                del data[place : place + draw.randint(1, 8)]
        outcome = await outcome_of(standing, Speaker(standing), bytes(data))
        assert isinstance(outcome, P2PError | Access)
        standing.forget(NODE.peer_id)
    assert not any(standing.members(role) for role in Role)
