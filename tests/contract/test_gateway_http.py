"""Bad input at the gateway's HTTP side: always OpenAI's error shape, naming what is wrong."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.errors import PortInUseError
from gateway.http.server import bind_http_socket
from gateway.limits import BODY_BYTES_MAX, HEAD_BYTES_MAX
from ledger import methods
from p2p.errors import RefusedError
from tests.fakes.gateway_world import GatewayWorld, chat

CHAT = "/v1/chat/completions"


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path, nodes=1)


def image(content: str = "data:image/png;base64,AAAA") -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": content}}
    text = {"type": "text", "text": "What is this?"}
    return {"model": "tiny-chat", "messages": [{"role": "user", "content": [text, part]}]}


BAD: list[tuple[str, Any, int, str, str | None]] = [
    ("not an object", [1], 400, "invalid_value", None),
    ("no model", {"messages": [{"role": "user", "content": "x"}]}, 400, "invalid_value", "model"),
    ("no messages", {"model": "tiny-chat"}, 400, "invalid_value", "messages"),
    ("empty messages", {**chat(), "messages": []}, 400, "invalid_value", "messages"),
    (
        "bad role",
        {**chat(), "messages": [{"role": "king", "content": "x"}]},
        400,
        "invalid_value",
        "messages[0].role",
    ),
    (
        "no content",
        {**chat(), "messages": [{"role": "user"}]},
        400,
        "invalid_value",
        "messages[0].content",
    ),
    (
        "content of a wrong type",
        {**chat(), "messages": [{"role": "user", "content": 5}]},
        400,
        "invalid_value",
        "messages[0].content",
    ),
    ("temperature", chat(temperature=9), 400, "invalid_value", "temperature"),
    ("temperature text", chat(temperature="hot"), 400, "invalid_value", "temperature"),
    ("max_tokens", chat(max_tokens=0), 400, "invalid_value", "max_tokens"),
    ("max_tokens too many", chat(max_tokens=5000), 400, "context_length_exceeded", "max_tokens"),
    ("n", chat(n=9), 400, "invalid_value", "n"),
    ("n of none", chat(n=0), 400, "invalid_value", "n"),
    ("logprobs", chat(logprobs="yes!"), 400, "invalid_value", "logprobs"),
    ("top_logprobs", chat(logprobs=True, top_logprobs=21), 400, "invalid_value", "top_logprobs"),
    ("top_logprobs alone", chat(top_logprobs=2), 400, "invalid_value", "top_logprobs"),
    ("audio", chat(audio={"voice": "x"}), 400, "unsupported_parameter", "audio"),
    ("modalities", chat(modalities=["audio"]), 400, "unsupported_parameter", "modalities"),
    ("functions", chat(functions=[{"name": "f"}]), 400, "unsupported_parameter", "functions"),
    ("images", image(), 400, "unsupported_parameter", "messages"),
    ("unknown model", chat(model="gpt-9"), 404, "model_not_found", "model"),
]


async def test_bad_bodies(world: GatewayWorld) -> None:
    async with world.run() as client:
        for name, body, status, code, param in BAD:
            response = await client.post(CHAT, json=body)
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["param"]) == (
                status,
                code,
                param,
            ), (name, error)
            assert set(error) == {"message", "type", "param", "code"}
            assert response.headers["x-request-id"].startswith("req-")
            if code == "model_not_found":
                assert "tiny-chat" in error["message"]
        for content in (b"", b"{", b"\xff\xfe", b"[" * 5000):
            response = await client.post(CHAT, content=content)
            assert response.status_code == 400
            assert "JSON" in response.json()["error"]["message"]
        nan = b'{"model":"tiny-chat","messages":[{"role":"user","content":"x"}],"top_p":NaN}'
        assert (await client.post(CHAT, content=nan)).json()["error"]["param"] == "top_p"
        surrogate = b'{"model":"tiny-chat","messages":[{"role":"user","content":"\\ud800"}]}'
        assert (await client.post(CHAT, content=surrogate)).status_code == 400
    assert not world.nodes[0].jobs
    assert not world.ledger.open_holds


async def test_too_large(world: GatewayWorld) -> None:
    async with world.run() as client:
        response = await client.post(CHAT, content=b"x" * (BODY_BYTES_MAX + 1))
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"

        async def endless() -> Any:
            for _ in range(BODY_BYTES_MAX // 65_536 + 2):
                yield b"x" * 65_536

        response = await client.post(CHAT, content=endless())
        assert response.status_code == 413
        response = await client.post(CHAT, json=chat("x" * 900_000))
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages"


async def test_too_large_a_head(world: GatewayWorld) -> None:
    async with world.run():
        assert world.running is not None
        for chunk in (b"a: " + b"b" * 1000 + b"\r\n", b"x" * 1000):
            stream = await trio.open_tcp_stream("127.0.0.1", world.running.http_port)
            async with stream:
                await stream.send_all(b"GET /healthz HTTP/1.1\r\n")
                with trio.fail_after(10):
                    try:
                        for _ in range(4 * HEAD_BYTES_MAX // 1000):
                            await stream.send_all(chunk)
                        while await stream.receive_some():
                            pass
                    except trio.BrokenResourceError:
                        pass


async def test_unknown_fields_are_ignored(world: GatewayWorld) -> None:
    async with world.run() as client:
        response = await client.post(CHAT, json=chat(shoe_size=44, metadata={"a": "b"}))
        await world.ledger.settled(1)
    assert response.status_code == 200


async def test_all_kinds_of_messages(world: GatewayWorld) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
        {"role": "user", "content": "Hello", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with world.run() as client:
        body = {"model": "tiny-chat", "messages": messages, "tools": tools, "tool_choice": "auto"}
        response = await client.post(CHAT, json=body)
        await world.ledger.settled(1)
    assert response.status_code == 200, response.text
    sent = world.nodes[0].jobs[0].request
    assert sent["messages"][3] == {"role": "assistant", "tool_calls": [call]}
    assert sent["tools"] == tools


def test_port_in_use() -> None:
    with bind_http_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)):
            bind_http_socket("127.0.0.1", port)


class Carrier:
    """Answers carried documents."""

    def __init__(self) -> None:
        self.carried: list[tuple[str, bytes]] = []

    async def __call__(self, method: str, body: bytes) -> bytes:
        self.carried.append((method, body))
        if body == b"refuse":
            raise RefusedError("not_authorized", "this key may not")
        return b"done"


async def test_courier(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = Carrier()
    monkeypatch.setattr("p2p.uplink.Uplink.call", lambda self, *a: carrier(*a))
    url = "/resultity/v1/ledger/operation"
    async with world.run() as client:
        body = {"signed": base64.b64encode(b"document").decode()}
        answer = await client.post(url, json=body)
        assert base64.b64decode(answer.json()["result"]) == b"done"
        # Beside it the gateway asks for the log's checkpoint and alarms by itself.
        carried = [sent for method, sent in carrier.carried if method == methods.OPERATION]
        assert carried == [b"document"]
        refused = await client.post(url, json={"signed": base64.b64encode(b"refuse").decode()})
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "not_authorized"
        for bad in ({}, {"signed": 5}, {"signed": "%%%"}, []):
            assert (await client.post(url, json=bad)).status_code == 400
        assert (await client.post("/resultity/v1/ledger/steal", json=body)).status_code == 404
        statuses = [(await client.post(url, json=body)).status_code for _ in range(60)]
        assert 429 in statuses


async def test_a_stream_and_a_question_at_once_on_one_thread(world: GatewayWorld) -> None:
    """A request that waits for the peer does not stop others: the loop is never blocked."""
    world.ledger.delay_s = 0.5
    async with world.run() as client:
        times: list[str] = []

        async def slow() -> None:
            await client.post(CHAT, json=chat())
            times.append("slow")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await trio.sleep(0.1)
            assert (await client.get("/status/network")).status_code == 200
            times.append("quick")
        await world.ledger.settled(1)
    assert times == ["quick", "slow"]
    assert not asyncio.all_tasks.__module__.startswith("trio")
