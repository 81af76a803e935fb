"""What the gateway does when nodes, clients or the ledger fail; who pays for what then."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2p.job_messages import NodeReceipt
from tests.fakes.gateway_world import GatewayWorld, chat, script_next, streamed_text
from tests.fakes.nodes import WORDS, Script

CHAT = "/v1/chat/completions"
ANSWER = "".join(WORDS)
PRICE = 7 * 2 + 20 * 5


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path)


# --- another node takes over --------------------------------------------------------------------
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        Script(refuse="busy"),
        Script(refuse="runtime"),
        Script(refuse="not_entitled"),
        Script(stop_after=0, then="drop", input_tokens=9),
        Script(stop_after=0, then="fail", input_tokens=9),
    ],
    ids=["busy", "runtime", "not_entitled", "drop", "fail"],
)
async def test_retry_before_the_first_token(
    world: GatewayWorld, script: Script, streaming: bool
) -> None:
    script_next(world, script)
    async with world.run() as client:
        options = {"stream": True, "stream_options": {"include_usage": True}} if streaming else {}
        response = await client.post(CHAT, json=chat(**options))
        assert response.status_code == 200
        await world.ledger.settled(1)
    assert "word19" in response.text
    assert '"prompt_tokens": 7,' in response.text  # what the one that answered says
    jobs = [job for node in world.nodes for job in node.jobs]
    assert len(jobs) == 2
    assert len({job.offer.seed for job in jobs}) == 1
    assert len({job.offer.hold_id for job in jobs}) == 1
    assert world.ledger.started_holds == 1
    assert [(leg.input_tokens, leg.output_tokens) for leg in world.ledger.paid] == [(7, 20)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("then", ["drop", "fail"])
async def test_continued_in_mid_answer(world: GatewayWorld, streaming: bool, then: str) -> None:
    script_next(world, Script(stop_after=8, then=then))
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(stream=streaming))
        await world.ledger.settled(1)
    text = (
        streamed_text(response.text)
        if streaming
        else response.json()["choices"][0]["message"]["content"]
    )
    assert text == ANSWER
    resumed = [j for n in world.nodes for j in n.jobs if j.offer.resume_tokens]
    assert [job.offer.resume_tokens for job in resumed] == [tuple(range(8))]
    legs = [(leg.attempt, leg.input_tokens, leg.output_tokens) for leg in world.ledger.paid]
    assert legs == [(0, 7, 8), (1, 0, 12)]
    assert len({leg.node_id for leg in world.ledger.paid}) == 2
    assert world.ledger.spent == PRICE


def bad_hash(receipt: NodeReceipt) -> NodeReceipt:
    return replace(receipt, output_hash=bytes(32))


def too_many(receipt: NodeReceipt) -> NodeReceipt:
    return replace(receipt, output_tokens=receipt.output_tokens + 1)


def other_offer(receipt: NodeReceipt) -> NodeReceipt:
    return replace(receipt, offer_hash=bytes(32))


@pytest.mark.parametrize("forge", [bad_hash, too_many, other_offer])
async def test_lying_node_is_left(
    world: GatewayWorld, forge: Callable[[NodeReceipt], NodeReceipt]
) -> None:
    script_next(world, Script(forge=forge))
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
        await world.ledger.settled(1)
    assert response.json()["choices"][0]["message"]["content"] == ANSWER
    assert [(leg.input_tokens, leg.output_tokens) for leg in world.ledger.paid] == [(7, 20)]


async def test_forged_signature_is_not_paid(world: GatewayWorld) -> None:
    script_next(world, Script(forge_signature=True))
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
        await world.ledger.settled(1)
    assert response.json()["resultity"]["price_microcredits"] == 0
    assert world.ledger.paid == []
    assert world.ledger.available == 10**9


async def test_output_before_the_voucher_is_no_reason_to_trust(world: GatewayWorld) -> None:
    world.ledger.delay_s = 0.1
    script_next(world, Script(output_before_voucher=True))
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
        await world.ledger.settled(1)
    assert response.status_code == 200
    assert world.ledger.spent == PRICE


# --- nobody takes it ----------------------------------------------------------------------------
@pytest.mark.parametrize("streaming", [False, True])
async def test_all_nodes_busy(world: GatewayWorld, streaming: bool) -> None:
    for node in world.nodes:
        node.script = Script(refuse="busy")
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(stream=streaming))
        await world.ledger.settled(1)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    error = response.json()["error"]
    assert error["code"] == "no_node_available"
    assert "2 answered busy" in error["message"]
    assert world.ledger.available == 10**9


async def test_no_node_at_all(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, nodes=0)
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert world.ledger.started_holds in (0, 1)
    assert world.ledger.available == 10**9


async def test_nodes_that_take_no_work_are_not_asked(world: GatewayWorld) -> None:
    async with world.run() as client:
        for node in world.nodes:
            node.report(accepting=False)
        await trio.sleep(0.2)
        response = await client.post(CHAT, json=chat())
    assert response.status_code == 503
    assert "2 take no work" in response.json()["error"]["message"]
    assert not any(node.jobs for node in world.nodes)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("context_length_exceeded", "context_length_exceeded"),
        ("bad_request", "invalid_value"),
        ("unsupported", "unsupported_parameter"),
    ],
)
async def test_what_the_client_must_mend(world: GatewayWorld, code: str, expected: str) -> None:
    script_next(world, Script(refuse=code))
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
        await world.ledger.settled(1)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == expected
    if code == "context_length_exceeded":
        assert "1024" in error["message"]
        assert "2000" in error["message"]
    assert sum(len(node.jobs) for node in world.nodes) == 1
    assert world.ledger.available == 10**9


async def test_failed_after_output_streaming_pays_what_was_written(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, nodes=1)
    world.nodes[0].scripts = [Script(stop_after=8, then="fail")]
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(stream=True))
        await world.ledger.settled(1)
    assert response.status_code == 200
    last = [block for block in response.text.split("\n\n") if block][-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "answer_failed"
    assert "[DONE]" not in response.text
    assert world.ledger.spent == 7 * 2 + 8 * 5


async def test_failed_after_output_whole_pays_nothing(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, nodes=1)
    world.nodes[0].scripts = [Script(stop_after=8, then="fail")]
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
        await world.ledger.settled(1)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "answer_failed"
    assert world.ledger.spent == 0


# --- the client leaves --------------------------------------------------------------------------
async def test_client_leaves_a_stream(world: GatewayWorld) -> None:
    script_next(world, Script(batch=1, pause_s=0.05))
    async with world.run():
        async with await world.raw_post(CHAT, chat(stream=True)) as stream:
            seen = b""
            while b"word3" not in seen:
                seen += await stream.receive_some()
        (job,) = [job for node in world.nodes for job in node.jobs]
        with trio.fail_after(1):
            await job.cancelled.wait()
        await world.ledger.settled(1)
    (leg,) = world.ledger.paid
    assert leg.input_tokens == 7
    assert 4 <= leg.output_tokens < 20


async def test_client_leaves_before_the_answer(world: GatewayWorld) -> None:
    never = trio.Event()
    script_next(world, Script(hold_back=never))
    async with world.run() as client:
        with trio.move_on_after(0.5):
            await client.post(CHAT, json=chat())
        (job,) = [job for node in world.nodes for job in node.jobs]
        with trio.fail_after(1):
            await job.cancelled.wait()
        await world.ledger.settled(1)
    assert world.ledger.spent == 0


async def test_client_leaves_a_whole_answer_pays_what_was_generated(world: GatewayWorld) -> None:
    script_next(world, Script(batch=1, pause_s=0.1))
    async with world.run() as client:
        with trio.move_on_after(0.75):
            await client.post(CHAT, json=chat())
        await world.ledger.settled(1)
    (leg,) = world.ledger.paid
    assert leg.input_tokens == 7
    assert 1 <= leg.output_tokens < 20


async def test_nothing_runs_after_many_disconnects(world: GatewayWorld) -> None:
    for node in world.nodes:
        node.script = Script(batch=1, pause_s=0.05)
    async with world.run() as client:
        with trio.move_on_after(0.6):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(lambda: client.post(CHAT, json=chat(stream=True)))
        jobs = [job for node in world.nodes for job in node.jobs]
        assert len(jobs) == 10
        with trio.fail_after(1):
            for job in jobs:
                await job.ended.wait()
        await world.ledger.settled(10)
        health = (await client.get("/healthz")).json()
        assert health["jobs_running"] == 0
