"""Nodes that cannot be dialled, served by a gateway: by their own dials, and through the relay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.network import Way
from tests.fakes import trust
from tests.fakes.gateway_world import chat, script_next, streamed_text
from tests.fakes.hidden_world import HiddenWorld
from tests.fakes.networks import eventually
from tests.fakes.nodes import WORDS, Script

CHAT = "/v1/chat/completions"
ANSWER = "".join(WORDS)
PLACE = "/ip4/127.0.0.1/tcp/4200"


@pytest.fixture
def world(tmp_path: Path) -> HiddenWorld:
    return HiddenWorld(tmp_path)


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.peer.sessions.RELAY_PATIENCE_S", 0.5)


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


async def test_a_hidden_node_dials_the_gateway_and_serves(world: HiddenWorld) -> None:
    async with world.surroundings(), world.gateway() as client:
        assert text_of(await client.post(CHAT, json=chat())) == ANSWER
        assert world.ways() == [Way.DIRECT]
        assert world.hidden[0].network.addresses() == ()
        assert world.relay.budget.used_bytes == 0
        await eventually(lambda: world.relay.reservations == 1)
        # What consumers see names neither the node nor the way to it.
        response = await client.post(CHAT, json=chat())
        assert world.nodes[0].key_pair.peer_id not in response.text + str(response.headers)
        assert "circuit" not in response.text


@pytest.mark.parametrize("moves", [False, True])
async def test_a_gateway_that_restarts_is_dialled_again(world: HiddenWorld, moves: bool) -> None:
    async with world.surroundings():
        for number in range(2):
            place = f"/ip4/127.0.0.1/tcp/{4200 + (number if moves else 0)}"
            async with world.gateway((place,)) as client:
                assert text_of(await client.post(CHAT, json=chat())) == ANSWER
                await eventually(lambda: world.ways() == [Way.DIRECT])


async def test_a_bootstrap_that_restarts_loses_nothing(world: HiddenWorld) -> None:
    async with world.surroundings() as nursery, world.gateway((PLACE,)) as client:
        world.bootstrap_scope.cancel()
        await eventually(lambda: trust.BOOTSTRAP.peer_id not in world.hub.networks)
        assert text_of(await client.post(CHAT, json=chat())) == ANSWER
        await world.hidden[0].network.disconnect(trust.GATEWAY.peer_id)  # it is found again
        await eventually(lambda: world.ways() == [Way.DIRECT])
        await nursery.start(world.run_bootstrap)
        await eventually(lambda: world.relay.reservations == 1)
        await world._ready(client)
        assert text_of(await client.post(CHAT, json=chat())) == ANSWER


async def test_a_connection_that_breaks_in_mid_stream_is_resumed_elsewhere(tmp_path: Path) -> None:
    world = HiddenWorld(tmp_path, nodes=2)
    script_next(world, Script(stop_after=8, then="hang"))
    async with world.surroundings(), world.gateway() as client:
        async with trio.open_nursery() as nursery:
            answers: list[str] = []

            async def ask() -> None:
                response = await client.post(CHAT, json=chat(stream=True))
                answers.append(streamed_text(response.text))

            nursery.start_soon(ask)
            await eventually(lambda: any(j.sent_tokens == 8 for n in world.nodes for j in n.jobs))
            [broken] = [h for h in world.hidden if any(j.sent_tokens == 8 for j in h.node.jobs)]
            await broken.network.disconnect(trust.GATEWAY.peer_id)
        assert answers == [ANSWER]
        resumed = [j for n in world.nodes for j in n.jobs if j.offer.resume_tokens]
        assert [job.offer.resume_tokens for job in resumed] == [tuple(range(8))]
        await world._ready(client)  # and the node is back
        assert world.ways() == [Way.DIRECT, Way.DIRECT]


async def test_the_relay_is_the_fallback_and_gives_way(world: HiddenWorld) -> None:
    """A gateway that cannot be dialled either; until, in the middle of a job, it can."""
    node = world.nodes[0]
    go_on = trio.Event()
    script_next(world, Script(hold_back=go_on))
    async with world.surroundings(), world.gateway(reachable="no") as client:
        assert world.ways() == [Way.RELAYED]
        [old_link] = node.links
        async with trio.open_nursery() as nursery:
            answers: list[str] = []

            async def ask() -> None:
                answers.append(text_of(await client.post(CHAT, json=chat())))

            nursery.start_soon(ask)
            await eventually(lambda: len(node.jobs) == 1)
            await world.hidden[0].network.connect(world.network.addresses()[0])
            await eventually(lambda: len(node.links) == 2)
            assert text_of(await client.post(CHAT, json=chat())) == ANSWER  # by the direct way
            assert old_link.is_open
            assert answers == []
            go_on.set()
        assert answers == [ANSWER]  # the running job finished where it was
        await eventually(lambda: world.relay.circuits == 0)
        assert not old_link.is_open
        assert world.ways() == [Way.DIRECT]
        used = world.relay.budget.used_bytes
        assert text_of(await client.post(CHAT, json=chat())) == ANSWER
        assert world.relay.budget.used_bytes == used > 0


async def test_a_circuit_that_is_cut_is_made_again(tmp_path: Path) -> None:
    world = HiddenWorld(tmp_path, nodes=2)
    script_next(world, Script(stop_after=8, then="hang"))
    async with world.surroundings(), world.gateway(reachable="no") as client:
        async with trio.open_nursery() as nursery:
            answers: list[str] = []

            async def ask() -> None:
                response = await client.post(CHAT, json=chat(stream=True))
                answers.append(streamed_text(response.text))

            nursery.start_soon(ask)
            await eventually(lambda: any(j.sent_tokens == 8 for n in world.nodes for j in n.jobs))
            [broken] = [h for h in world.hidden if any(j.sent_tokens == 8 for j in h.node.jobs)]
            await broken.network.disconnect(trust.GATEWAY.peer_id, only=Way.RELAYED)
        assert answers == [ANSWER]
        await world._ready(client)
        assert world.ways() == [Way.RELAYED, Way.RELAYED]


async def test_many_jobs_through_the_relay(world: HiddenWorld) -> None:
    async with world.surroundings(), world.gateway(reachable="no") as client:
        answers: list[str] = []

        async def ask() -> None:
            answers.append(text_of(await client.post(CHAT, json=chat())))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert answers == [ANSWER] * 20
        assert world.ways() == [Way.RELAYED]
        assert world.relay.circuits == 1
