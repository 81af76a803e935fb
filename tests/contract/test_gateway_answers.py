"""The gateway answers: whole and streamed, on the in-memory network with scripted nodes."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from p2p.codec import decode_message
from p2p.ledger_messages import ConsumerReceipt
from p2p.signing import Signed, open_signed
from tests.fakes import trust
from tests.fakes.gateway_world import GatewayWorld, chat
from tests.fakes.nodes import WORDS

CHAT = "/v1/chat/completions"


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path)


def events_of(text: str) -> list[Any]:
    """The data of each server-sent event; the last is "[DONE]"."""
    blocks = [block for block in text.split("\n\n") if block]
    assert all(block.startswith("data: ") for block in blocks)
    data = [block.removeprefix("data: ") for block in blocks]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def open_receipt(note: dict[str, Any]) -> ConsumerReceipt:
    signed = decode_message(base64.b64decode(note["receipt"]), Signed)
    return open_signed(signed, ConsumerReceipt, trust.NETWORK, trust.GATEWAY.public_key)


async def test_whole_answer(world: GatewayWorld) -> None:
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 200, response.text
        body = response.json()
        await world.ledger.settled(1)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "".join(WORDS),
        "refusal": None,
    }
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 20,
        "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert response.headers["x-request-id"].startswith("req-")
    receipt = open_receipt(body["resultity"])
    price = 7 * 2 + 20 * 5
    assert receipt.charged == body["resultity"]["price_microcredits"] == price
    assert (receipt.input_tokens, receipt.output_tokens) == (7, 20)
    assert world.ledger.spent == price
    for pair in (trust.NODE, trust.OTHER_NODE):
        assert pair.peer_id not in response.text + str(response.headers)


async def test_streamed_answer(world: GatewayWorld) -> None:
    async with world.run() as client:
        response = await client.post(
            CHAT, json=chat(stream=True, stream_options={"include_usage": True})
        )
        await world.ledger.settled(1)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done = events_of(response.text)
    assert done == "[DONE]"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
    assert text == "".join(WORDS)
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 20
    assert open_receipt(events[-1]["resultity"]).charged == world.ledger.spent == 114
    assert len({event["id"] for event in events}) == 1


async def test_many_at_once(world: GatewayWorld) -> None:
    import trio

    async with world.run() as client:
        texts = []

        async def ask(stream: bool) -> None:
            response = await client.post(CHAT, json=chat(stream=stream))
            assert response.status_code == 200
            texts.append(response.text)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, number % 2 == 0)
        await world.ledger.settled(40)
    assert len(texts) == 40
    assert world.ledger.spent == 40 * 114
    # Both nodes were used.
    assert all(len(node.jobs) > 5 for node in world.nodes)


async def test_models_balance_and_pages(world: GatewayWorld) -> None:
    async with world.run() as client:
        models = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/tiny-chat")).json()
        balance = (await client.get("/v1/account/balance")).json()
        pages = {
            name: (await client.get(name)).json()
            for name in ("/status/peers", "/status/models", "/status/network")
        }
        verification = (await client.get("/resultity/v1/network")).json()
    assert [model["id"] for model in models["data"]] == ["tiny-chat"]
    assert one["object"] == "model"
    assert balance["available_microcredits"] == 10**9
    assert {p["role"] for p in pages["/status/peers"]["peers"]} == {"node", "gateway", "bootstrap"}
    assert pages["/status/models"]["models"][0]["nodes"] == 2
    assert pages["/status/network"]["nodes_connected"] == 2
    assert verification["gateway_id"] == trust.GATEWAY.peer_id


async def test_request_as_the_node_sees_it(world: GatewayWorld) -> None:
    async with world.run() as client:
        body = chat(
            "Grüße",
            temperature=0,
            seed=5,
            max_tokens=9,
            stop=["x"],
            user="someone",
            store=True,
            n=1,
        )
        response = await client.post(CHAT, json=body)
        await world.ledger.settled(1)
    assert response.json()["choices"][0]["finish_reason"] == "length"
    (job,) = [job for node in world.nodes for job in node.jobs]
    assert job.offer.seed == 5
    assert job.offer.output_tokens_max == 9
    day = datetime.date.fromisoformat(job.request.pop("date"))
    today = datetime.datetime.now(datetime.UTC).date()
    assert today - day in (datetime.timedelta(0), datetime.timedelta(days=1))
    assert job.request == {
        "messages": [{"role": "user", "content": "Grüße"}],
        "temperature": 0,
        "stop": ["x"],
    }


async def test_client_of_the_openai_package_shape(world: GatewayWorld) -> None:
    """HEAD and unknown URLs answer in OpenAI's shape too."""
    async with world.run() as client:
        head = await client.head("/v1/models")
        unknown = await client.get("/v1/nothing")
        method = await client.get(CHAT)
    assert head.status_code == 200
    for response, status, code in (
        (unknown, 404, "unknown_url"),
        (method, 405, "method_not_allowed"),
    ):
        assert response.status_code == status
        assert response.json()["error"]["code"] == code
    assert isinstance(head, httpx.Response)
