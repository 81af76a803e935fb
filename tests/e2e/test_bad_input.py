"""What the API says to requests that are wrong, to the real OpenAI client and to plain HTTP."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from p2p.account_file import load_or_create_account
from p2p.clock import system_clock_ms
from p2p.types import parse_network_id
from resultity.accounts import new_key, opening
from resultity.courier import Courier
from tests.fakes.real_network import MODEL, RealNetwork

HELLO = [{"role": "user", "content": "Hello"}]
CONTEXT_TOKENS = 1024
"""Of the scripted engine."""


@pytest.fixture
def client(network: RealNetwork) -> Iterator[openai.OpenAI]:
    with network.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _still_serving(network: RealNetwork) -> Iterator[None]:
    """Whatever was sent: the next good request is served, and nothing stays held."""
    yield
    assert network.ask() == "word0 word1 "
    network.settled_balance()


def post(network: RealNetwork, body: bytes, **headers: str) -> tuple[int, dict[str, Any], Any]:
    """POST raw bytes as the chat request; gives status, headers, JSON body."""
    parts = urllib.parse.urlsplit(network.base_url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    try:
        wanted = {"Content-Type": "application/json", "Authorization": f"Bearer {network.api_key}"}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", f"{parts.path}/chat/completions", body, wanted)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        connection.close()


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": HELLO, **fields}).encode()


def test_an_unknown_model_is_404_and_names_those_that_exist(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-17", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert MODEL in caught.value.message
    assert caught.value.param == "model"


def test_an_unknown_model_when_streaming(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-17", messages=HELLO, stream=True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model":', b"[]", b"null", b"\xff\xfe", b'{"model": "a" "b"}', b"[" * 100_000],
    ids=["empty", "brace", "cut", "list", "null", "not UTF-8", "no comma", "deep"],
)
def test_malformed_json_is_400(network: RealNetwork, body: bytes) -> None:
    status, _, answer = post(network, body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hello"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 17}]}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stream": "perhaps"}, "stream"),
        ({"n": 9}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"model": 17}, "model"),
        ({"model": None}, "model"),
        ({"response_format": {"type": "poem"}}, "response_format"),
        ({"logit_bias": {"1": "much"}}, "logit_bias"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_bad_field_is_400_and_named(
    network: RealNetwork, fields: dict[str, Any], param: str
) -> None:
    status, _, answer = post(network, chat(**fields))
    assert status == 400, answer
    error = answer["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").split(".")[0].split("[")[0] == param, error
    assert param in error["message"] or param in str(error["param"])


def test_no_key_is_401(network: RealNetwork) -> None:
    status, headers, answer = post(network, chat(), Authorization="")
    assert status == 401
    assert answer["error"]["code"] == "invalid_api_key"
    assert "retry-after" not in headers


@pytest.mark.parametrize(
    "key", ["sk-1234", "rk_", "rk_aaaaaaaaaaaaaaaa_bbbb", "x" * 5000, "'; DROP TABLE accounts; --"]
)
def test_a_bad_key_is_401(network: RealNetwork, key: str) -> None:
    with network.client(api_key=key) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert len(key) < 8 or key not in str(caught.value)


def test_the_right_key_with_a_wrong_secret_is_401(network: RealNetwork) -> None:
    key = network.api_key[:-4] + ("AAAA" if not network.api_key.endswith("AAAA") else "BBBB")
    with network.client(api_key=key) as client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model=MODEL, messages=HELLO)


def test_no_credit_is_429_insufficient_quota(network: RealNetwork) -> None:
    name, now_ms = parse_network_id(network.network), system_clock_ms()
    poor = load_or_create_account(network.data_dir / "poor.account", name, system_clock_ms)
    key, creation = new_key(poor, name, "empty", now_ms, name="poor")
    courier = Courier(network.base_url)
    for document in (poor.founding, opening(poor, name, "empty", now_ms), creation):
        courier.operation(document)
    with network.client(api_key=key.text) as client:
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(
                    model=MODEL, messages=HELLO, stream=stream, max_tokens=4
                )
            assert caught.value.status_code == 429
            assert caught.value.code == "insufficient_quota"
            assert caught.value.type == "insufficient_quota"


def test_a_prompt_longer_than_the_context_is_400_with_both_numbers(client: openai.OpenAI) -> None:
    words = " ".join(["word"] * (CONTEXT_TOKENS + 36))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": words}], max_tokens=4
        )
    assert caught.value.code == "context_length_exceeded"
    assert str(CONTEXT_TOKENS) in caught.value.message
    assert str(CONTEXT_TOKENS + 37) in caught.value.message  # the words and the message itself


def test_image_parts_are_400(client: openai.OpenAI) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=4
        )
    assert "image" in caught.value.message.lower()


def test_a_body_that_is_too_large_is_413(network: RealNetwork) -> None:
    # Larger than any prompt that is taken, small enough to be sent before it is refused.
    body = chat(messages=[{"role": "user", "content": "x" * 3_000_000}])
    try:
        status, _, answer = post(network, body)
    except (BrokenPipeError, ConnectionResetError):
        return  # refused by its length before all of it was read
    assert status == 413
    assert answer["error"]["code"] == "request_too_large"


def test_an_unknown_path_and_method(network: RealNetwork) -> None:
    missing = network.get("/v1/telepathy")
    assert missing["error"]["code"] == "unknown_url"
    wrong = network.get("/v1/chat/completions")
    assert wrong["error"]["code"] == "method_not_allowed"


def test_errors_name_no_node(network: RealNetwork) -> None:
    status, headers, answer = post(network, chat(messages=[]))
    said = json.dumps([status, headers, answer])
    for part in network.parts:
        assert part.peer_id not in said
