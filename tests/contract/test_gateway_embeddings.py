"""`POST /v1/embeddings` over real HTTP, with nodes that are scripted."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import trio

from p2p.codec import decode_message
from p2p.ledger_messages import ConsumerReceipt
from p2p.signing import Signed, open_signed
from tests.fakes import trust
from tests.fakes.embedding_nodes import (
    ADVERT,
    MODEL,
    EmbeddingNode,
    embedding_world,
    line_of,
    vector_of,
)
from tests.fakes.gateway_world import GatewayWorld, chat, script_next
from tests.fakes.ledger import PaidLeg
from tests.fakes.networks import eventually
from tests.fakes.nodes import Script

PATH = "/v1/embeddings"
INPUT_PRICE = 7 * 2


def ask(value: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny-chat", "input": value, **fields}


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return embedding_world(tmp_path)


def as_floats(numbers: list[float]) -> tuple[float, ...]:
    """What 32 bits make of decimal numbers."""
    return struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers))


def numbers_of(encoded: str) -> tuple[float, ...]:
    data = base64.b64decode(encoded)
    return struct.unpack(f"<{len(data) // 4}f", data)


async def test_forms_of_input_and_of_vectors(world: GatewayWorld) -> None:
    async with world.run() as client:
        for value, inputs in (
            ("Paris", ["Paris"]),
            (["Paris", "Madrid", "né"], ["Paris", "Madrid", "né"]),
            ([5, 6], [[5, 6]]),
            ([[1], [2, 3]], [[1], [2, 3]]),
        ):
            body = (await client.post(PATH, json=ask(value))).json()
            assert (body["object"], body["model"]) == ("list", "tiny-chat")
            assert [item["index"] for item in body["data"]] == list(range(len(inputs)))
            assert [as_floats(item["embedding"]) for item in body["data"]] == [
                vector_of(item) for item in inputs
            ]
            assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
            coded = (await client.post(PATH, json=ask(value, encoding_format="base64"))).json()
            assert [numbers_of(item["embedding"]) for item in coded["data"]] == [
                vector_of(item) for item in inputs
            ]
        short = (await client.post(PATH, json=ask("Paris", dimensions=4))).json()
        assert as_floats(short["data"][0]["embedding"]) == vector_of("Paris", 4)
    offers = [job.offer for node in world.nodes for job in node.jobs]
    assert {offer.task for offer in offers} == {"embeddings"}
    assert {offer.output_tokens_max for offer in offers} == {0}


async def test_the_openai_client(world: GatewayWorld) -> None:
    def work(url: str) -> list[list[float]]:
        http_client = openai.DefaultHttpxClient(trust_env=False)
        with openai.OpenAI(
            base_url=url, api_key=world.key.text, max_retries=0, http_client=http_client
        ) as client:
            answer = client.embeddings.create(model="tiny-chat", input=["a", "b"])
            assert answer.usage.prompt_tokens == 7
            with pytest.raises(openai.BadRequestError, match="cannot be cut"):
                client.embeddings.create(model="tiny-chat", input="a", dimensions=5)
            return [item.embedding for item in answer.data]

    async with world.run():
        assert world.running is not None
        vectors = await trio.to_thread.run_sync(partial(work, world.running.base_url))
    assert vectors == [list(vector_of("a")), list(vector_of("b"))]


async def test_only_the_input_is_charged_and_the_receipt_is_over_the_vectors(
    world: GatewayWorld,
) -> None:
    async with world.run() as client:
        raw = await client.post(PATH, json=ask(["a", "b"], encoding_format="base64"))
        await world.ledger.settled(1)
    note = raw.json()["resultity"]
    signed = decode_message(base64.b64decode(note["receipt"]), Signed)
    receipt = open_signed(signed, ConsumerReceipt, trust.NETWORK, trust.GATEWAY.public_key)
    lines = "".join(item["embedding"] + "\n" for item in raw.json()["data"])
    assert receipt.output_hash == hashlib.sha256(lines.encode()).digest()
    assert (receipt.input_tokens, receipt.output_tokens, receipt.outcome) == (7, 0, "complete")
    assert receipt.charged == note["price_microcredits"] == world.ledger.spent == INPUT_PRICE
    worked = next(node for node in world.nodes if node.jobs)
    assert world.ledger.paid == [PaidLeg(worked.key_pair.peer_id, 0, 7, 0)]
    await eventually(lambda: worked.jobs[0].deliveries != [])
    assert worked.jobs[0].deliveries[-1].input_tokens == 7


async def test_it_is_paid_from_a_lease_too(tmp_path: Path) -> None:
    world = embedding_world(tmp_path, nodes=1, lease_usable_s=60)
    async with world.run() as client:
        for _ in range(3):
            assert (await client.post(PATH, json=ask("a"))).status_code == 200
        await world.leases_at_gateway(client, 1)
        assert (await client.post(PATH, json=ask("a"))).status_code == 200
        await eventually(lambda: world.nodes[0].jobs[-1].leased)
        await eventually(lambda: world.ledger.spent == 4 * INPUT_PRICE)


@pytest.mark.parametrize("then", ["drop", "fail"])
async def test_a_node_that_is_lost_midway(world: GatewayWorld, then: str) -> None:
    script_next(world, Script(batch=1, stop_after=2, then=then, input_tokens=9))
    items = ["a", "b", "c", "d"]
    async with world.run() as client:
        body = (await client.post(PATH, json=ask(items))).json()
        await world.ledger.settled(1)
    assert body["usage"]["prompt_tokens"] == 7
    assert [as_floats(item["embedding"]) for item in body["data"]] == [vector_of(i) for i in items]
    jobs = [job for node in world.nodes for job in node.jobs]
    assert sorted(job.offer.attempt for job in jobs) == [0, 1]
    assert world.ledger.spent == INPUT_PRICE
    assert [leg.attempt for leg in world.ledger.paid] == [1]


NAN = base64.b64encode(struct.pack("<8f", *([float("nan")] * 8))).decode() + "\n"
LONG = base64.b64encode(struct.pack("<8f", *([2.0] * 8))).decode() + "\n"


@pytest.mark.parametrize(
    "lines",
    [
        [line_of("a")],
        [line_of("a")] * 3,
        [line_of("a"), line_of("b", 4)],
        [line_of("a"), "no base64\n"],
        [line_of("a"), line_of("b").strip()],
        [line_of("a"), "\n"],
        [line_of("a"), NAN],
        [line_of("a"), LONG],
        [],
    ],
    ids=["few", "many", "uneven", "text", "cut", "empty", "nan", "long", "none"],
)
async def test_wrong_vectors_are_not_passed_on(world: GatewayWorld, lines: list[str]) -> None:
    liar = world.nodes[0]
    assert isinstance(liar, EmbeddingNode)
    liar.lines = lines
    async with world.run() as client:
        for _ in range(2):  # the nodes take turns
            body = (await client.post(PATH, json=ask(["a", "b"]))).json()
            assert [as_floats(item["embedding"]) for item in body["data"]] == [
                vector_of("a"),
                vector_of("b"),
            ]
        await world.ledger.settled(2)
    assert liar.jobs
    assert {leg.node_id for leg in world.ledger.paid} == {world.nodes[1].key_pair.peer_id}


async def test_nothing_is_charged_for_what_fails(tmp_path: Path) -> None:
    world = embedding_world(tmp_path, nodes=1)
    world.nodes[0].script = Script(stop_after=1, batch=1, then="fail")
    async with world.run() as client:
        response = await client.post(PATH, json=ask(["a", "b"]))
        assert response.status_code == 503
        await eventually(lambda: world.ledger.open_holds == 0)
    assert world.ledger.spent == 0


async def test_a_client_that_leaves_cancels_and_pays_nothing(tmp_path: Path) -> None:
    world = embedding_world(tmp_path, nodes=1)
    world.nodes[0].script = Script(hold_back=trio.Event())
    async with world.run():
        stream = await world.raw_post(PATH, ask(["a", "b"]))
        await eventually(lambda: world.nodes[0].jobs != [])
        await stream.aclose()
        with trio.fail_after(5):
            await world.nodes[0].jobs[0].cancelled.wait()
        await eventually(lambda: world.ledger.open_holds == 0)
    assert world.ledger.spent == 0


BAD: list[tuple[Any, str, str | None]] = [
    (b"{", "invalid_value", None),
    (b'{"input": "a"}', "invalid_value", "model"),
    (b'{"model": "tiny-chat"}', "invalid_value", "input"),
    (ask(""), "invalid_value", "input"),
    (ask([]), "invalid_value", "input"),
    (ask(["a", ""]), "invalid_value", "input"),
    (ask(["a", 5]), "invalid_value", "input"),
    (ask([[5], []]), "invalid_value", "input"),
    (ask([-1]), "invalid_value", "input"),
    (ask([1.5]), "invalid_value", "input"),
    (ask([True]), "invalid_value", "input"),
    (ask({"a": 1}), "invalid_value", "input"),
    (ask(["a"] * 2049), "invalid_value", "input"),
    (b'{"model": "tiny-chat", "input": "\\ud800"}', "invalid_value", None),
    (ask("a", encoding_format="int8"), "invalid_value", "encoding_format"),
    (ask("a", dimensions=0), "invalid_value", "dimensions"),
    (ask("a", dimensions="4"), "invalid_value", "dimensions"),
    (ask("a", resultity={"accept": True}), "invalid_value", "resultity"),
    (ask("a", dimensions=8), "unsupported_parameter", "dimensions"),
    (ask("x" * 800_000), "invalid_value", "input"),
]


async def test_bad_requests(tmp_path: Path) -> None:
    world = embedding_world(tmp_path, nodes=1)
    async with world.run() as client:
        for body, code, param in BAD:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            response = await client.post(PATH, content=content)
            error = response.json()["error"]
            expected = (400, code, param)
            assert (response.status_code, error["code"], error["param"]) == expected, content[:80]
    assert not world.nodes[0].jobs
    assert not world.ledger.holds


async def test_a_model_is_for_its_endpoint(tmp_path: Path) -> None:
    only = MODEL.model_copy(update={"tasks": ("embeddings",)})
    advert = replace(ADVERT, tasks=("embeddings",))
    world = embedding_world(tmp_path, model=only, advert=advert)
    async with world.run() as client:
        response = await client.post("/v1/chat/completions", json=chat())
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("model_task_mismatch", "model")
        assert "v1/embeddings" in error["message"]
        assert (await client.post(PATH, json=ask("a"))).status_code == 200
        card = (await client.get("/v1/models/tiny-chat")).json()
        assert card["resultity"]["tasks"] == ["embeddings"]
    assert not any(job.offer.task == "chat" for node in world.nodes for job in node.jobs)


async def test_a_chat_model_makes_no_embeddings(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path)
    async with world.run() as client:
        response = await client.post(PATH, json=ask("a"))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "model_task_mismatch"


async def test_nodes_that_do_not_offer_the_task(tmp_path: Path) -> None:
    advert = replace(ADVERT, tasks=("chat",))
    world = embedding_world(tmp_path, advert=advert)
    async with world.run() as client:
        response = await client.post(PATH, json=ask("a"))
    assert response.status_code == 503
    assert "2 serve the model for something else" in response.json()["error"]["message"]


async def test_an_input_that_is_too_long(world: GatewayWorld) -> None:
    for node in world.nodes:
        node.script = Script(refuse="context_length_exceeded")
    async with world.run() as client:
        response = await client.post(PATH, json=ask("a"))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "input")
    assert "one of your inputs has 2000 tokens" in error["message"]
