"""The landmark protocol on both adapters: what is measured, for whom, over which connections."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from node.subclouds.evidence_keeper import EvidenceKeeper, give_to_inbox
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError, RefusedError, SessionLostError, UntrustedError
from p2p.job_messages import RefuseFrame
from p2p.limits import (
    LANDMARK_BURST_PER_PEER,
    LANDMARK_LIFETIME_S,
    LANDMARK_MEASURE_TIMEOUT_S,
)
from p2p.network import Way, way_of
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import Signed
from p2p.subclouds.evidence_documents import open_document
from p2p.subclouds.evidence_messages import (
    LANDMARK_PROTOCOL,
    LandmarkChallenge,
    LandmarkEcho,
    LandmarkStatement,
)
from p2p.subclouds.landmarks import ask_landmark, serve_landmark
from p2p.subclouds.message_stream import MessageStream
from tests.fakes.clocks import FakeClock
from tests.fakes.networks import NETWORK, MemoryWorld, World, eventually, pair

WAIT_S = 10.0


def a_configuration(*names: str, **fields: Any) -> NetworkConfiguration:
    """These peers are landmarks of Germany."""
    landmarks = [
        {"peer_id": pair(name).peer_id, "countries": ["DE"], "round_trip_ms_max": 1000.0}
        for name in names
    ]
    content = {"network_id": NETWORK, "version": 1, "issued_ms": 0, "landmarks": landmarks}
    return NetworkConfiguration.model_validate(content | fields)


class Known(ConfigurationBook):
    """A book that holds what a test says."""

    def __init__(self, configuration: NetworkConfiguration) -> None:
        super().__init__(NETWORK)
        self.said = configuration

    @property
    def known(self) -> bool:
        return True

    @property
    def current(self) -> NetworkConfiguration:
        return self.said


@asynccontextmanager
async def landmarks_and_node(world: World, clock: FakeClock, *names: str):
    """A node that is connected to landmarks."""
    async with (
        world.open("node") as node,
        _landmarks(world, clock, list(names), a_configuration(*names)) as opened,
    ):
        for landmark in opened:
            await node.connect(landmark.addresses()[0])
        yield node, opened


@asynccontextmanager
async def _landmarks(world, clock, names, configuration):
    if not names:
        yield []
        return
    async with world.open(names[0]) as landmark:
        serve_landmark(landmark, pair(names[0]), Known(configuration), clock)
        async with _landmarks(world, clock, names[1:], configuration) as others:
            yield [landmark, *others]


async def test_a_landmark_measures_the_node_that_asks(world: World) -> None:
    clock = FakeClock()
    async with landmarks_and_node(world, clock, "one") as (node, (one,)):
        with trio.fail_after(WAIT_S):
            signed = await ask_landmark(node, pair("node"), one.local)
        statement = open_document(signed, NETWORK, node.local, clock.now_ms)
        assert isinstance(statement, LandmarkStatement)
        assert (statement.landmark, statement.node) == (one.local, node.local)
        assert 0 < statement.round_trip_us < WAIT_S * 10**6
        assert statement.expires_ms - clock.now_ms == LANDMARK_LIFETIME_S * 1000
        # Not more often than a few times an hour, whatever the node wants.
        with pytest.raises(RefusedError) as refused:
            for _ in range(int(LANDMARK_BURST_PER_PEER)):
                await ask_landmark(node, pair("node"), one.local)
        assert refused.value.code == "rate_limited"


async def test_only_who_is_named_is_a_landmark(world: World) -> None:
    async with world.open("node") as node, world.open("other") as other:
        serve_landmark(other, pair("other"), Known(a_configuration("one")), FakeClock())
        await node.connect(other.addresses()[0])
        with pytest.raises(RefusedError) as refused, trio.fail_after(WAIT_S):
            await ask_landmark(node, pair("node"), other.local)
        assert refused.value.code == "no_landmark"


@asynccontextmanager
async def carried(world: World):
    """A node that reaches a landmark through a third peer only."""
    async with (
        world.open("relay") as relay,
        world.open("node", listen_addresses=()) as node,
        world.open("one") as one,
        trio.open_nursery() as nursery,
    ):
        serve_landmark(one, pair("one"), Known(a_configuration("one")), FakeClock())
        await node.connect(relay.addresses()[0])
        await one.connect(relay.addresses()[0])
        await eventually(lambda: set(relay.peers()) >= {node.local, one.local})

        async def splice(stream: Any) -> None:
            there = await relay.open_stream(one.local, "carried/1")
            async with trio.open_nursery() as both:
                both.start_soon(pump, stream, there)
                both.start_soon(pump, there, stream)

        async def pump(source: Any, sink: Any) -> None:
            try:
                while data := await source.receive_some():
                    await sink.send_all(data)
            except SessionLostError:
                pass

        async def accept(stream: Any) -> None:
            await one.accept_over(stream)

        relay.handle("carry/1", splice)
        one.handle("carried/1", accept)
        stream = await node.open_stream(relay.local, "carry/1")
        await node.connect_over(stream, one.local)
        yield node, one
        nursery.cancel_scope.cancel()


async def test_a_relayed_way_is_not_measured(world: World) -> None:
    async with carried(world) as (node, one):
        assert node.way_to(one.local) is Way.RELAYED
        ways: list[Way | None] = []

        async def look(stream: Any) -> None:
            ways.append(way_of(stream))

        one.handle("look/1", look)
        await (await node.open_stream(one.local, "look/1")).close()
        await eventually(lambda: bool(ways))
        assert ways[0] is not Way.DIRECT
        with pytest.raises(RefusedError) as refused, trio.fail_after(WAIT_S):
            await ask_landmark(node, pair("node"), one.local)
        assert refused.value.code == "relayed"


def echo_of(nonce: bytes, **fields: Any) -> LandmarkEcho:
    content = {"landmark": pair("one").peer_id, "node": pair("node").peer_id, "nonce": nonce}
    return LandmarkEcho(**content | fields)


@pytest.mark.parametrize("lie", ["nonce", "landmark", "signer", "replay"])
async def test_a_wrong_echo_gets_no_statement(world: World, lie: str) -> None:
    async with landmarks_and_node(world, FakeClock(), "one") as (node, (one,)):
        messages = MessageStream(await node.open_stream(one.local, LANDMARK_PROTOCOL))
        before: Signed | None = None
        with pytest.raises(P2PError), trio.fail_after(WAIT_S):
            while True:
                item = await messages.next(WAIT_S, LandmarkChallenge, Signed)
                assert isinstance(item, LandmarkChallenge), "a statement for a lie"
                signer = pair("helper") if lie == "signer" else pair("node")
                echo = echo_of(item.nonce)
                if lie == "nonce":
                    echo = echo_of(bytes(32))
                elif lie == "landmark":
                    echo = echo_of(item.nonce, landmark=pair("two").peer_id)
                signed = signer.sign(NETWORK, echo)
                if lie == "replay":
                    before, signed = before or signed, before or signed
                await messages.send(signed, WAIT_S)


async def test_landmarks_that_are_too_far_make_room_for_others(tmp_path: Path) -> None:
    names = ("one", "two", "three", "four", "five")
    clock = FakeClock()
    async with landmarks_and_node(MemoryWorld(), clock, *names) as (node, landmarks):
        configuration = a_configuration(*names)
        far = [a.model_copy(update={"round_trip_ms_max": 1e-6}) for a in configuration.landmarks]
        book = Known(
            configuration.model_copy(update={"landmarks": (*far[:3], *configuration.landmarks[3:])})
        )
        keeper = EvidenceKeeper(
            node, pair("node"), book, clock_ms=clock, folder=tmp_path, country=lambda: "DE"
        )
        with trio.fail_after(WAIT_S):
            await keeper.measure()
            assert keeper.documents() == ()
            await keeper.measure()
        found = {signed.peer_id for signed in keeper.documents()}
        assert found == {landmark.local for landmark in landmarks[3:]}


async def test_a_node_believes_no_landmark_blindly(world: World) -> None:
    """A statement of another landmark, or about another node, and challenges without end."""
    async with world.open("node") as node, world.open("one") as one:
        answers: list[Any] = []

        async def lie(stream: Any) -> None:
            messages = MessageStream(stream)
            for item in answers:
                await messages.send(item, WAIT_S)
            await trio.sleep_forever()

        one.handle(LANDMARK_PROTOCOL, lie)
        await node.connect(one.addresses()[0])
        fields = (4000, bytes(32), 0, 2**50)
        ours = LandmarkStatement(one.local, node.local, *fields)
        others = LandmarkStatement(pair("two").peer_id, node.local, *fields)
        foreign = LandmarkStatement(one.local, pair("two").peer_id, *fields)
        for said in (
            [pair("two").sign(NETWORK, others)],
            [pair("one").sign(NETWORK, others)],
            [pair("two").sign(NETWORK, ours)],
            [pair("one").sign(NETWORK, foreign)],
            [LandmarkChallenge(bytes(32))] * 40,
            [RefuseFrame(0, "busy", "")],
        ):
            answers[:] = said
            with pytest.raises(P2PError), trio.fail_after(WAIT_S):
                await ask_landmark(node, pair("node"), one.local)
        answers[:] = [pair("one").sign(NETWORK, ours)]
        assert await ask_landmark(node, pair("node"), one.local) == answers[0]


async def test_a_node_collects_from_the_landmarks_of_its_country(
    world: World, tmp_path: Path
) -> None:
    clock = FakeClock()
    country = [""]
    changes: list[int] = []
    async with landmarks_and_node(world, clock, "one", "two") as (node, landmarks):
        book = Known(a_configuration("one", "two", "gone"))
        keeper = EvidenceKeeper(
            node,
            pair("node"),
            book,
            clock_ms=clock,
            folder=tmp_path,
            country=lambda: country[0],
            on_change=lambda: changes.append(1),
        )
        await keeper.measure()
        assert keeper.documents() == ()  # it says nothing of its country: nothing is measured
        country[0] = "FR"
        await keeper.measure()
        assert keeper.documents() == ()
        country[0] = "DE"
        with trio.fail_after(WAIT_S):
            await keeper.measure()
        found = [open_document(s, NETWORK, node.local, clock.now_ms) for s in keeper.documents()]
        assert {d.landmark for d in found if isinstance(d, LandmarkStatement)} == {
            landmark.local for landmark in landmarks
        }
        assert len(changes) == 2
        assert all("ms there and back" in line for line in keeper.lines())
        await keeper.measure()
        assert len(changes) == 2  # fresh as they are
        clock.advance(LANDMARK_LIFETIME_S)
        assert keeper.documents() == ()
        with pytest.raises(UntrustedError):
            keeper.add(pair("two").sign(NETWORK, found[0]))
        give_to_inbox(tmp_path, pair("two").sign(NETWORK, found[0]))
        keeper.take_inbox()  # is told to the operator's log, and gone
        assert not list((tmp_path / "inbox").iterdir())


@pytest.mark.parametrize("echoes", [0, 2])
async def test_a_slow_node_does_not_keep_a_landmark_busy(
    autojump_clock: trio.testing.MockClock, echoes: int
) -> None:
    async with landmarks_and_node(MemoryWorld(), FakeClock(), "one") as (node, (one,)):
        messages = MessageStream(await node.open_stream(one.local, LANDMARK_PROTOCOL))
        began_s = trio.current_time()
        with pytest.raises(SessionLostError):
            for _ in range(echoes):
                item = await messages.next(WAIT_S, LandmarkChallenge)
                await trio.sleep(1.9)
                await messages.send(pair("node").sign(NETWORK, echo_of(item.nonce)), WAIT_S)
            await messages.next(WAIT_S, LandmarkChallenge)
            await messages.next(WAIT_S, LandmarkChallenge)
        assert trio.current_time() - began_s < LANDMARK_MEASURE_TIMEOUT_S + 1
