"""Tool calls as the openai package meets them; the text is the demo model's, the rest is real."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import trio

from gateway.http.openai_types import parse_chat_request
from node.runtime.batching import BatchingEngine
from node.runtime.engine import JobRequest
from p2p.codec import decode_message
from p2p.ledger_messages import ConsumerReceipt
from p2p.signing import Signed, open_signed
from tests.fakes import trust
from tests.fakes.engine_bench import demo_engine
from tests.fakes.gateway_world import GatewayWorld, chat
from tests.fakes.nodes import Script

CHAT = "/v1/chat/completions"
DAY = datetime.date(2026, 11, 21)
T = TypeVar("T")


def tool(name: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("get_weather"), tool("get_time")]
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
ASK = {"model": "tiny-chat", "temperature": 0, "messages": [QUESTION], "tools": TOOLS}
CALL_TEXT = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


@pytest.fixture(scope="module")
def engine() -> BatchingEngine:
    return demo_engine()


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path, nodes=1)


def generated(engine: BatchingEngine, body: dict[str, Any]) -> list[str]:
    """What the demo model answers to a request's body, a text for each token."""
    request = parse_chat_request(json.dumps(body).encode()).for_node(DAY)
    job = engine.prepare(JobRequest(1, request, 100, 1))
    engine.start(job)
    texts = []
    while engine.busy:
        texts += [output.text for output in engine.step().outputs]
    return texts


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


def check_receipt(note: dict[str, Any], text: str) -> None:
    signed = decode_message(base64.b64decode(note["receipt"]), Signed)
    receipt = open_signed(signed, ConsumerReceipt, trust.NETWORK, trust.GATEWAY.public_key)
    assert receipt.output_hash == hashlib.sha256(text.encode()).digest()


TIME = {"type": "function", "function": {"name": "get_time"}}
CHOICES: list[tuple[Any, str]] = [
    ("auto", "get_weather"),
    ("required", "get_weather"),
    (TIME, "get_time"),
]


@pytest.mark.parametrize(("choice", "name"), CHOICES, ids=["auto", "required", "named"])
async def test_the_openai_package_gets_calls(
    world: GatewayWorld, engine: BatchingEngine, choice: Any, name: str
) -> None:
    body = {**ASK, "tool_choice": choice}
    words = generated(engine, body)
    world.nodes[0].script = Script(words=words, batch=1)

    def use(client: openai.OpenAI) -> tuple[Any, Any, list[Any]]:
        whole = client.chat.completions.create(**body)
        chunks = list(client.chat.completions.create(**body, stream=True))
        with client.chat.completions.stream(**body) as stream:
            return whole, stream.get_final_completion(), chunks

    async with world.run():
        whole, streamed, chunks = await with_openai(world, use)
        await world.ledger.settled(3)
    for completion in (whole, streamed):
        choice_made = completion.choices[0]
        assert choice_made.finish_reason == "tool_calls"
        assert choice_made.message.content is None
        (call,) = choice_made.message.tool_calls
        assert (call.type, call.function.name) == ("function", name)
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        assert call.id.isalnum()
        assert len(call.id) == 9
    assert all(not chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    text = "".join(words)
    for note in (whole.resultity, chunks[-1].resultity):
        assert note["answer_text"] == text
        check_receipt(note, text)
    assert world.nodes[0].jobs[0].request["tool_choice"] == choice


async def test_the_result_goes_back_to_the_model(
    world: GatewayWorld, engine: BatchingEngine
) -> None:
    world.nodes[0].script = Script(words=generated(engine, ASK), batch=3)

    def first(client: openai.OpenAI) -> Any:
        return client.chat.completions.create(**ASK).choices[0].message

    async with world.run():
        message = await with_openai(world, first)
        call = message.tool_calls[0]
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        said = message.model_dump(exclude_none=True)
        body = {**ASK, "messages": [QUESTION, said, result]}
        world.nodes[0].script = Script(words=generated(engine, body), batch=3)
        answer = await with_openai(
            world, lambda client: client.chat.completions.create(**body).choices[0]
        )
        await world.ledger.settled(2)
    assert answer.message.content == "The result is sunny."
    assert answer.message.tool_calls is None
    assert answer.finish_reason == "stop"


def events_of(text: str) -> list[Any]:
    data = [block.removeprefix("data: ") for block in text.split("\n\n") if block]
    return [json.loads(item) for item in data if item != "[DONE]"]


SOME = [
    (["I ", "look. ", "<tool_", "call>", CALL_TEXT, "</tool", "_call>"], "I look.", 1),
    ([CALL_TEXT, "\n", CALL_TEXT], None, 2),
    (['{"name": ', '"get_weather", ', '"arguments": {oops}}'], "same", 0),
    (["It is ", "sunny. ", "{}"], "same", 0),
]


@pytest.mark.parametrize(("words", "content", "calls"), SOME)
async def test_content_and_calls(
    world: GatewayWorld, words: list[str], content: str | None, calls: int
) -> None:
    world.nodes[0].script = Script(words=words, batch=1)
    expected = "".join(words) if content == "same" else content
    async with world.run() as client:
        whole = (await client.post(CHAT, json=ASK)).json()
        events = events_of((await client.post(CHAT, json={**ASK, "stream": True})).text)
        await world.ledger.settled(2)
    message = whole["choices"][0]["message"]
    assert message["content"] == expected
    assert len(message.get("tool_calls", [])) == calls
    deltas = [event["choices"][0]["delta"] for event in events]
    assert ("".join(delta.get("content") or "" for delta in deltas) or None) == expected
    begun = [part for delta in deltas for part in delta.get("tool_calls", []) if "id" in part]
    assert [part["index"] for part in begun] == list(range(calls))
    assert events[-1]["choices"][0]["finish_reason"] == ("tool_calls" if calls else "stop")
    assert ("answer_text" in whole["resultity"]) == bool(calls)


async def test_one_call_without_parallel_tool_calls(world: GatewayWorld) -> None:
    world.nodes[0].script = Script(words=[CALL_TEXT, CALL_TEXT])
    async with world.run() as client:
        body = {**ASK, "parallel_tool_calls": False}
        message = (await client.post(CHAT, json=body)).json()["choices"][0]["message"]
        await world.ledger.settled(1)
    assert len(message["tool_calls"]) == 1
    assert world.nodes[0].jobs[0].request["parallel_tool_calls"] is False


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": None}])
async def test_calls_that_nobody_asked_for_are_text(
    world: GatewayWorld, fields: dict[str, Any]
) -> None:
    world.nodes[0].script = Script(words=[CALL_TEXT])
    async with world.run() as client:
        choice = (await client.post(CHAT, json={**ASK, **fields})).json()["choices"][0]
        await world.ledger.settled(1)
    assert choice["message"] == {"role": "assistant", "content": CALL_TEXT, "refusal": None}
    assert choice["finish_reason"] == "stop"


BAD: list[tuple[Any, Any, str, str]] = [
    ("required", None, "invalid_value", "tool_choice"),
    ("sometimes", TOOLS, "invalid_value", "tool_choice"),
    ({"type": "function"}, TOOLS, "invalid_value", "tool_choice.function.name"),
    ({"type": "custom", "custom": {}}, TOOLS, "unsupported_parameter", "tool_choice"),
    ({"type": "function", "function": {"name": "fly"}}, TOOLS, "invalid_value", "tool_choice"),
]


async def test_bad_choices(world: GatewayWorld) -> None:
    async with world.run() as client:
        for choice, tools, code, param in BAD:
            body = chat(tool_choice=choice, tools=tools)
            response = await client.post(CHAT, json=body)
            error = response.json()["error"]
            found = (response.status_code, error["code"], error["param"])
            assert found == (400, code, param), error
    assert not world.nodes[0].jobs


async def test_a_client_that_leaves_within_a_call_pays_what_it_got(world: GatewayWorld) -> None:
    """Four tokens of text were written; the begun call was not."""
    words = ["I ", "look ", "it ", "up.", " <tool_call>", '{"name": "get', '_weather", "argu']
    world.nodes[0].script = Script(words=words, batch=1, stop_after=7, then="hang")
    async with world.run():
        stream = await world.raw_post(CHAT, {**ASK, "stream": True})
        received = b""
        with trio.fail_after(20):
            while b"up." not in received:
                received += await stream.receive_some(65_536)
            while world.nodes[0].jobs[0].sent_tokens < 7:
                await trio.sleep(0.01)
        await stream.aclose()
        await world.ledger.settled(1)
    assert b"get_weather" not in received
    assert world.ledger.spent == 7 * 2 + 4 * 5
