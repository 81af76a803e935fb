"""Several choices and logprobs, as clients meet them; who is paid what when a node is lost."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import trio

from gateway.http.call_objects import Call
from gateway.http.sse import call_object
from gateway.jobs import texts_as_one
from p2p.codec import decode_message
from p2p.ledger_messages import ConsumerReceipt
from p2p.prices import charge
from p2p.signing import Signed, open_signed
from tests.fakes import trust
from tests.fakes.gateway_world import GatewayWorld, chat, script_next
from tests.fakes.nodes import WORDS, Script, choice_words

CHAT = "/v1/chat/completions"
ANSWERS = ["".join(choice_words(WORDS, choice)) for choice in range(8)]
T = TypeVar("T")


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny-chat", "messages": [{"role": "user", "content": "Hello"}], **fields}


async def with_openai(world: GatewayWorld, use: Callable[[openai.OpenAI], T]) -> T:
    """Use the openai package in a thread of its own."""
    assert world.running is not None
    url = world.running.base_url

    def work() -> T:
        http_client = openai.DefaultHttpxClient(trust_env=False)
        with openai.OpenAI(
            base_url=url, api_key=world.key.text, max_retries=0, http_client=http_client
        ) as client:
            return use(client)

    return await trio.to_thread.run_sync(work)


def check_receipt(note: dict[str, Any], texts: list[str]) -> ConsumerReceipt:
    whole = texts_as_one(texts) if len(texts) > 1 else texts[0]
    if len(texts) > 1:
        assert note["answer_text"] == whole
    signed = decode_message(base64.b64decode(note["receipt"]), Signed)
    receipt = open_signed(signed, ConsumerReceipt, trust.NETWORK, trust.GATEWAY.public_key)
    assert receipt.output_hash == hashlib.sha256(whole.encode()).digest()
    return receipt


def check_entries(entries: list[Any], text: str, alternatives: int) -> None:
    """Each token once, in order, with its bytes and as many alternatives as were asked for."""
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == text
    assert [entry.logprob for entry in entries] == [-place / 4 for place in range(len(entries))]
    for entry in entries:
        assert entry.token == bytes(entry.bytes).decode()
        tops = [(top.token, top.logprob, bytes(top.bytes)) for top in entry.top_logprobs]
        expected = [f"top{place}" for place in range(alternatives)]
        assert tops == [(top, -1.0 - i, top.encode()) for i, top in enumerate(expected)]


async def test_several_choices_whole_and_streamed(world: GatewayWorld) -> None:
    def use(client: openai.OpenAI) -> tuple[Any, list[Any]]:
        whole = client.chat.completions.create(**body(n=3, seed=9))
        options = {"include_usage": True}
        stream = client.chat.completions.create(**body(n=3, stream=True, stream_options=options))
        return whole, list(stream)

    async with world.run():
        whole, chunks = await with_openai(world, use)
        await world.ledger.settled(2)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert [choice.message.content for choice in whole.choices] == ANSWERS[:3]
    assert {choice.finish_reason for choice in whole.choices} == {"stop"}
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 60)
    texts: dict[int, str] = defaultdict(str)
    ends: dict[int, list[str]] = defaultdict(list)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index].append(choice.finish_reason)
    assert [texts[index] for index in range(3)] == ANSWERS[:3]
    assert ends == {0: ["stop"], 1: ["stop"], 2: ["stop"]}
    assert chunks[-1].usage.completion_tokens == 60
    for note in (whole.resultity, chunks[-1].resultity):
        receipt = check_receipt(note, ANSWERS[:3])
        assert (receipt.input_tokens, receipt.output_tokens) == (7, 60)
        assert receipt.charged == charge(receipt.terms, 7, 60)
    jobs = [job for node in world.nodes for job in node.jobs]
    assert [job.offer.choices for job in jobs] == [3, 3]
    assert [job.request["n"] for job in jobs] == [3, 3]
    assert world.ledger.started_holds == 2
    assert [(leg.input_tokens, leg.output_tokens) for leg in world.ledger.paid] == [(7, 60)] * 2


@pytest.mark.parametrize("streaming", [False, True])
async def test_unfinished_choices_go_on_at_the_next_node(
    world: GatewayWorld, streaming: bool
) -> None:
    """The second choice is over at the first node, the others go on at the next one."""
    script_next(world, Script(stop_after=8, then="drop", lengths={1: 6}))
    for node in world.nodes:
        node.script = Script(lengths={1: 6})
    async with world.run() as client:
        response = await client.post(
            CHAT, json=chat(n=3, stream=streaming, logprobs=True, top_logprobs=1)
        )
        await world.ledger.settled(1)
    texts, logprobs, note = read(response.text, streaming)
    expected = [ANSWERS[0], "".join(choice_words(WORDS, 1)[:6]), ANSWERS[2]]
    assert [texts[index] for index in range(3)] == expected
    for index in range(3):
        spoken = b"".join(bytes(entry["bytes"]) for entry in logprobs[index])
        assert spoken.decode() == expected[index]
    check_receipt(note, expected)
    resumed = [j for n in world.nodes for j in n.jobs if j.offer.resume_choices]
    assert len(resumed) == 1
    states = {state.choice: state for state in resumed[0].offer.resume_choices}
    assert states[0].token_ids == states[2].token_ids == tuple(range(8))
    assert (states[1].token_ids, states[1].finish) == ((), "stop")
    legs = [(leg.attempt, leg.input_tokens, leg.output_tokens) for leg in world.ledger.paid]
    assert legs == [(0, 7, 22), (1, 0, 24)]
    assert world.ledger.spent == 7 * 2 + 46 * 5


def read(text: str, streaming: bool) -> tuple[dict[int, str], dict[int, list[Any]], Any]:
    """The texts and logprobs by choice, and the note."""
    texts: dict[int, str] = defaultdict(str)
    logprobs: dict[int, list[Any]] = defaultdict(list)
    note = None
    blocks = [text] if not streaming else [part[6:] for part in text.split("\n\n") if part]
    for block in blocks:
        if block == "[DONE]":
            continue
        data = json.loads(block)
        note = data.get("resultity", note)
        for choice in data["choices"]:
            said = choice.get("delta", choice.get("message"))
            texts[choice["index"]] += said.get("content") or ""
            if choice["logprobs"]:
                logprobs[choice["index"]] += choice["logprobs"]["content"]
    return texts, logprobs, note


async def test_the_length_bounds_each_choice(world: GatewayWorld) -> None:
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(n=2, max_tokens=5))
        await world.ledger.settled(1)
    data = response.json()
    assert [choice["finish_reason"] for choice in data["choices"]] == ["length", "length"]
    assert data["usage"]["completion_tokens"] == 10
    (job,) = [job for node in world.nodes for job in node.jobs]
    assert job.offer.output_tokens_max == 10
    assert job.offer.maximum == charge(job.offer.terms, job.offer.input_tokens_max, 10)


async def test_more_choices_than_any_node_has_slots(world: GatewayWorld) -> None:
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(n=5))  # the nodes have four
    assert response.status_code == 503
    assert "fewer slots than the request has choices" in response.json()["error"]["message"]
    assert not any(node.jobs for node in world.nodes)
    assert world.ledger.spent == 0


async def test_a_client_that_leaves_pays_what_was_written(world: GatewayWorld) -> None:
    hold_back = trio.Event()
    for node in world.nodes:
        node.script = Script(batch=2, hold_back=hold_back, pause_s=0.05)
    async with world.run():
        stream = await world.raw_post(CHAT, chat(n=2, stream=True))
        hold_back.set()
        received = b""
        while received.count(b'"content":"') < 6:
            received += await stream.receive_some()
        await stream.aclose()
        await world.ledger.settled(1)
    (job,) = [job for node in world.nodes for job in node.jobs]
    assert job.cancelled.is_set()
    (leg,) = world.ledger.paid
    assert 0 < leg.output_tokens <= job.sent_tokens < 40


async def test_logprobs_whole_and_streamed(world: GatewayWorld) -> None:
    def use(client: openai.OpenAI) -> tuple[Any, list[Any], Any]:
        asked = body(logprobs=True, top_logprobs=3)
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
        with client.chat.completions.stream(**body(logprobs=True)) as stream:
            return whole, chunks, stream.get_final_completion()

    async with world.run():
        whole, chunks, final = await with_openai(world, use)
        await world.ledger.settled(3)
    check_entries(whole.choices[0].logprobs.content, ANSWERS[0], 3)
    check_receipt(whole.resultity, ANSWERS[:1])
    entries = []
    for chunk in chunks:
        choice = chunk.choices[0]
        if choice.logprobs is not None:
            said = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content)
            assert said.decode() == choice.delta.content
            entries += choice.logprobs.content
    check_entries(entries, ANSWERS[0], 3)
    check_entries(final.choices[0].logprobs.content, ANSWERS[0], 0)


@pytest.mark.parametrize("fields", [{}, {"logprobs": False}])
async def test_nobody_gets_logprobs_unasked(world: GatewayWorld, fields: dict[str, Any]) -> None:
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(**fields))
    assert response.json()["choices"][0]["logprobs"] is None


async def test_logprobs_of_an_answer_with_a_call(world: GatewayWorld) -> None:
    words = ["Let", " me", " see", ".\n", "<tool_call>", '{"name": "f", ', '"arguments": {}}']
    words += ["</tool_call>", "\n"]
    tools = [{"type": "function", "function": {"name": "f"}}]
    for node in world.nodes:
        node.script = Script(words=words, batch=1)
    async with world.run() as client:
        for streaming in (False, True):
            asked = chat(logprobs=True, tools=tools, stream=streaming)
            response = await client.post(CHAT, json=asked)
            texts, logprobs, _ = read(response.text, streaming)
            assert texts[0] == "Let me see."
            assert [entry["token"] for entry in logprobs[0]] == words


@pytest.mark.parametrize("streaming", [False, True])
async def test_each_choice_is_read_for_calls_by_itself(
    world: GatewayWorld, streaming: bool
) -> None:
    words = ['{"name": "f", ', '"arguments": {}}']  # the second choice's begin with a 1
    tools = [{"type": "function", "function": {"name": "f"}}]
    for node in world.nodes:
        node.script = Script(words=words, batch=1)
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(n=2, tools=tools, stream=streaming))
    texts, _, note = read(response.text, streaming)
    texts_made = ["".join(choice_words(words, choice)) for choice in (0, 1)]
    assert (texts[0], texts[1]) == ("", texts_made[1])
    check_receipt(note, texts_made)
    assert response.text.replace(" ", "").count('"finish_reason":"tool_calls"') == 1


def test_ids_of_calls_differ_between_choices() -> None:
    call = Call("f", "{}")
    objects = [
        call_object("chatcmpl-1", index, call, choice) for choice in (0, 1) for index in (0, 1)
    ]
    assert len({one["id"] for one in objects}) == 4
    assert objects[0] == call_object("chatcmpl-1", 0, call)


async def test_a_node_that_leaves_the_logprobs_out_is_not_believed(world: GatewayWorld) -> None:
    script_next(world, Script(logprobs=False))
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(logprobs=True))
        await world.ledger.settled(1)
    assert len(response.json()["choices"][0]["logprobs"]["content"]) == 20
    assert len([job for node in world.nodes for job in node.jobs]) == 2
