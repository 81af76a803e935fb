"""Unverified models, from the client to a server that a node's operator runs: real HTTP at both
ends, the real agent and gateway between."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import openai
import pytest
import trio

from p2p.codec import decode_message
from p2p.ledger_messages import ConsumerReceipt
from p2p.prices import charge
from p2p.signing import Signed, open_signed
from tests.fakes import trust
from tests.fakes.gateway_world import streamed_text
from tests.fakes.upstream_server import WORDS, FakeUpstream, Reply, answer, chunk, error
from tests.fakes.upstream_world import BIG, UpstreamWorld

CHAT = "/v1/chat/completions"
ACCEPT = {"resultity": {"accept_unverified": True}}
TEXT = "".join(WORDS)
INPUT_MAX = 5 + 2 * BIG.template_allowance_tokens
"""Of "Hello", by its bytes and the template's allowance."""


@pytest.fixture
def world(tmp_path: Path) -> UpstreamWorld:
    return UpstreamWorld(tmp_path)


def body(**fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Hello"}
    return {"model": "big", "messages": [message], **ACCEPT, **fields}


def receipt(answer: dict[str, Any]) -> ConsumerReceipt:
    note = answer["resultity"]
    signed = decode_message(base64.b64decode(note["receipt"]), Signed)
    return open_signed(signed, ConsumerReceipt, trust.NETWORK, trust.GATEWAY.public_key)


async def test_an_answer_is_served_receipted_and_charged_at_the_ceiling(
    world: UpstreamWorld,
) -> None:
    async with world.run_with(FakeUpstream()) as client:
        response = await client.post(CHAT, json=body())
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["choices"][0]["message"]["content"] == TEXT
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["prompt_tokens"] == 9
        assert answer["usage"]["completion_tokens"] == len(WORDS) + 1
        found = receipt(answer)
        assert found.output_hash == hashlib.sha256(TEXT.encode()).digest()
        assert found.terms.model_name == "big"
        assert found.charged == charge(found.terms, 9, len(WORDS) + 1)
        assert found.charged == answer["resultity"]["price_microcredits"]
    assert world.ledger.spent == found.charged


async def test_without_acceptance_it_is_refused_with_how_to_accept(world: UpstreamWorld) -> None:
    server = FakeUpstream()
    async with world.run_with(server) as client:
        for options in ({}, {"resultity": {}}, {"resultity": {"accept_unverified": False}}):
            request = {**body(), "resultity": None, **options}
            response = await client.post(CHAT, json=request)
            assert response.status_code == 400
            refusal = response.json()["error"]
            assert refusal["code"] == "unverified_model"
            assert refusal["param"] == "model"
            assert '"accept_unverified": true' in refusal["message"]
        response = await client.post(CHAT, json=body(resultity={"accept": True}))
        assert response.json()["error"]["param"] == "resultity.accept"
        assert not server.questions
        cards = {card["id"]: card for card in (await client.get("/v1/models")).json()["data"]}
        assert cards["big"]["resultity"]["verified"] is False
        models = (await client.get("/status/models")).json()["models"]
        assert {m["name"]: (m["verified"], m["nodes"]) for m in models} == {
            "tiny-chat": (True, 0),
            "big": (False, 1),
        }


async def test_the_openai_package_streams_from_it(world: UpstreamWorld) -> None:
    server = FakeUpstream()
    async with world.run_with(server):
        server.reply = Reply(answer(tokens=(11, 7)), pause_s=0.01)
        assert world.running is not None
        url = world.running.base_url

        def work() -> tuple[str, Any, Any]:
            http_client = openai.DefaultHttpxClient(trust_env=False)
            with openai.OpenAI(
                base_url=url, api_key=world.key.text, max_retries=0, http_client=http_client
            ) as client:
                listed = {model.id: model for model in client.models.list().data}
                stream = client.chat.completions.create(
                    model="big",
                    messages=[{"role": "user", "content": "Hello"}],
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_body=ACCEPT,
                )
                text, usage = "", None
                for part in stream:
                    usage = part.usage or usage
                    for choice in part.choices:
                        text += choice.delta.content or ""
                return text, usage, listed["big"]

        text, usage, listed = await trio.to_thread.run_sync(work)
    assert text == TEXT
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 7)
    assert listed.resultity["verified"] is False


async def test_a_usage_that_lies_costs_no_more_than_the_bytes(world: UpstreamWorld) -> None:
    server = FakeUpstream()
    async with world.run_with(server) as client:
        server.reply = Reply(answer(tokens=(10**6, 10**6)))
        response = await client.post(CHAT, json=body())
        usage = response.json()["usage"]
        assert usage["prompt_tokens"] == INPUT_MAX
        assert usage["completion_tokens"] == len(TEXT.encode())


async def test_a_node_that_counts_more_tokens_than_bytes_is_cut_off(
    world: UpstreamWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The node's own rule is broken; the gateway's is not.
    monkeypatch.setattr("node.upstream.counting.counted_piece", lambda size: size + 1)
    async with world.run_with(FakeUpstream()) as client:
        response = await client.post(CHAT, json=body(max_tokens=40))
        assert response.status_code == 503
    assert world.ledger.spent == 0


async def test_an_answer_that_breaks_off_is_a_clean_error_and_charged_as_written(
    world: UpstreamWorld,
) -> None:
    servers = [FakeUpstream(), FakeUpstream()]
    async with world.run_with(*servers) as client:
        for server in servers:
            server.reply = Reply([chunk({"content": "Half an"})], then="drop")
        response = await client.post(CHAT, json=body(stream=True))
        assert response.status_code == 200
        assert streamed_text(response.text.split('data: {"error"')[0]) == "Half an"
        failure = json.loads(response.text.rstrip().rsplit("data: ", 1)[1])["error"]
        assert failure["code"] == "answer_failed"
        assert "unverified" in failure["message"]
        assert sum(len(server.questions) for server in servers) == 1, "it was not begun again"
        whole = await client.post(CHAT, json=body())
        assert whole.status_code == 502
        assert whole.json()["error"]["code"] == "answer_failed"
    assert world.ledger.spent == 1, "one token and no input, rounded up; the second was free"


@pytest.mark.parametrize("reply", [error(500), error(429), Reply(then="drop")])
async def test_a_failure_before_output_is_tried_elsewhere(
    world: UpstreamWorld, reply: Reply
) -> None:
    servers = [FakeUpstream(), FakeUpstream()]
    async with world.run_with(*servers) as client:
        servers[0].reply = reply
        for _ in range(3):
            response = await client.post(CHAT, json=body())
            assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (error(400, "bad", param="response_format"), "invalid_value"),
        (error(400, "maximum context length"), "context_length_exceeded"),
    ],
)
async def test_what_the_client_must_mend_is_told(
    world: UpstreamWorld, reply: Reply, code: str
) -> None:
    server = FakeUpstream()
    async with world.run_with(server) as client:
        server.reply = reply
        response = await client.post(CHAT, json=body())
        assert response.status_code == 400
        assert response.json()["error"]["code"] == code
    assert world.ledger.spent == 0


def weather_parts() -> list[bytes]:
    texts = ['{"city"', ': "Pa', 'ris"}']
    first = {"index": 0, "id": "x1", "type": "function"}
    parts = [{**first, "function": {"name": "get_weather", "arguments": ""}}]
    parts += [{"index": 0, "function": {"arguments": text}} for text in texts]
    return [chunk({"tool_calls": [part]}) for part in parts]


async def test_tool_calls_and_schemas_go_through(world: UpstreamWorld) -> None:
    server = FakeUpstream()
    function = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": function}]
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    async with world.run_with(server) as client:
        done = chunk(finish="tool_calls")
        server.replies = [Reply([*weather_parts(), done, b"data: [DONE]\n\n"])]
        response = await client.post(CHAT, json=body(tools=tools))
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        call = choice["message"]["tool_calls"][0]["function"]
        assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Paris"})
        assert server.questions[-1]["tools"][0]["function"]["name"] == "get_weather"
        await client.post(CHAT, json=body(response_format=schema))
        assert server.questions[-1]["response_format"]["json_schema"]["name"] == "a"


def with_image(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]}


async def test_images_go_through_and_are_bounded_by_the_configuration(
    world: UpstreamWorld,
) -> None:
    server = FakeUpstream()
    async with world.run_with(server) as client:
        server.reply = Reply(answer(tokens=(10**6, 5)))
        image = with_image("data:image/png;base64,AAAA")
        response = await client.post(CHAT, json=body(**image))
        assert response.status_code == 200, response.text
        assert server.questions[-1]["messages"] == image["messages"]
        bound = 2 + 2 * BIG.template_allowance_tokens + 500
        assert response.json()["usage"]["prompt_tokens"] == bound
        response = await client.post(CHAT, json=body(**with_image("http://10.0.0.1/x.png")))
        assert response.status_code == 400
        assert "data URLs" in response.json()["error"]["message"]


async def test_a_server_without_images_is_not_offered_any(world: UpstreamWorld) -> None:
    server = FakeUpstream(images=False)
    async with world.run_with(server) as client:
        response = await client.post(CHAT, json=body(**with_image("data:image/png;base64,A")))
        assert response.status_code == 400
        assert "images" in response.json()["error"]["message"]
        assert not server.questions


async def test_several_choices_are_asked_for_one_by_one(world: UpstreamWorld) -> None:
    server = FakeUpstream()
    async with world.run_with(server) as client:
        response = await client.post(CHAT, json=body(n=2))
        assert response.status_code == 200, response.text
        texts = [choice["message"]["content"] for choice in response.json()["choices"]]
        assert texts == [TEXT, TEXT]
        assert [question["n"] for question in server.questions] == [1, 1]


async def test_a_client_that_leaves_stops_the_server(world: UpstreamWorld) -> None:
    server = FakeUpstream()
    async with world.run_with(server):
        server.reply = Reply([chunk({"content": "word "})], then="hang")
        stream = await world.raw_post(CHAT, body(stream=True))
        while b"word" not in await stream.receive_some(65536):
            pass
        await stream.aclose()
        with trio.fail_after(20):
            while not server.left:
                await trio.sleep(0.01)


async def test_what_one_server_lacks_another_may_have(world: UpstreamWorld) -> None:
    lacking, able = FakeUpstream(tools=False), FakeUpstream()
    tools = [{"type": "function", "function": {"name": "get_time", "parameters": {}}}]
    async with world.run_with(lacking, able) as client:
        for _ in range(3):
            response = await client.post(CHAT, json=body(tools=tools))
            assert response.status_code == 200, response.text
        assert not lacking.questions
        assert len(able.questions) == 3


async def test_what_no_server_has_is_told(world: UpstreamWorld) -> None:
    tools = [{"type": "function", "function": {"name": "get_time", "parameters": {}}}]
    async with world.run_with(FakeUpstream(tools=False), FakeUpstream(tools=False)) as client:
        response = await client.post(CHAT, json=body(tools=tools))
        assert response.status_code == 400
        assert "takes no tools" in response.json()["error"]["message"]
