"""A network of real processes as its consumer meets it: `up`, the openai package, the commands."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import operator
import struct
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from resultity.commands.demo import verify_in_another_process
from resultity.demo_answers import Answer, ask_streamed, ask_whole
from resultity.recording_client import RecordingClient
from tests.fakes.local_network import CAPITAL, MODEL, LocalFacts, eventually, local_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFacts]:
    with local_network(tmp_path_factory.mktemp("up_network")) as facts:
        yield facts


def balance(network: LocalFacts) -> dict[str, int]:
    done = network.run("account", "balance", "--json")
    assert done.returncode == 0, done.stderr
    amounts = json.loads(done.stdout)
    return {name: value for name, value in amounts.items() if isinstance(value, int)}


def settled(network: LocalFacts) -> dict[str, int]:
    eventually(lambda: balance(network)["held_microcredits"] == 0, "nothing is held")
    return balance(network)


def test_the_line_of_json(network: LocalFacts) -> None:
    assert network.base_url.endswith("/v1")
    assert network.network.startswith("local-")
    assert "/p2p/" in network.bootstrap
    assert [entry["role"] for entry in network.processes] == [
        "bootstrap",
        "node",
        "node",
        "gateway",
    ]
    assert len({entry["peer_id"] for entry in network.processes}) == 4


def test_models_are_listed(network: LocalFacts) -> None:
    with network.client() as client:
        assert [model.id for model in client.models.list().data] == [MODEL]


def test_answers_are_paid_and_their_receipts_verify(network: LocalFacts, tmp_path: Path) -> None:
    before = settled(network)
    shown: list[str] = []
    with RecordingClient(network.base_url, network.api_key, timeout_s=120) as client:
        answers = [ask_streamed(client, CAPITAL, shown.append), ask_whole(client, CAPITAL)]
    assert [answer.text for answer in answers] == ["The capital of France is Paris."] * 2
    assert "".join(shown) == answers[0].text
    paid = sum(answer.price_microcredits for answer in answers)
    assert paid > 0
    after = settled(network)
    assert before["available_microcredits"] - after["available_microcredits"] == paid
    assert after["spent_microcredits"] - before["spent_microcredits"] == paid
    facts = {"base_url": network.base_url, "network": network.network}
    lines: list[str] = []
    for answer in answers:
        verify_in_another_process(tmp_path, facts, answer, lines.append)
    assert all("verified" in line for line in lines)


def test_a_forced_tool_call_and_its_receipt(network: LocalFacts, tmp_path: Path) -> None:
    """The node's runtime is bound by the grammar; the receipt is over the text that it wrote."""
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "get_weather", "parameters": city}
    with RecordingClient(network.base_url, network.api_key, timeout_s=120) as client:
        chunks = list(
            client.openai.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "What is the weather in Paris?"}],
                tools=[{"type": "function", "function": function}],
                tool_choice="required",
                temperature=0,
                stream=True,
            )
        )
        request = client.request
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    parts = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(call.function.arguments for call in parts) == '{"city": "Paris"}'
    note = chunks[-1].resultity
    answer = Answer(note["answer_text"], request, note["receipt"], note["price_microcredits"])
    lines: list[str] = []
    facts = {"base_url": network.base_url, "network": network.network}
    verify_in_another_process(tmp_path, facts, answer, lines.append)
    assert "verified" in lines[0]


def test_choices_with_logprobs_and_their_receipt(network: LocalFacts, tmp_path: Path) -> None:
    """Two choices of the real runtime, each token with its logprob; the receipt is over both."""
    with RecordingClient(network.base_url, network.api_key, timeout_s=120) as client:
        answer = client.openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": CAPITAL}],
            n=2,
            logprobs=True,
            top_logprobs=2,
            temperature=0,
        )
        request = client.request
    for choice in answer.choices:
        assert choice.message.content == "The capital of France is Paris."
        assert choice.logprobs is not None
        entries = choice.logprobs.content or []
        assert "".join(entry.token for entry in entries) == choice.message.content
        for entry in entries:
            # Greedy: each token is the likeliest one.
            assert entry.token == entry.top_logprobs[0].token
            assert 0 >= entry.logprob == entry.top_logprobs[0].logprob
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(
        len(choice.logprobs.content or ()) for choice in answer.choices if choice.logprobs
    )
    note = answer.resultity
    bill = Answer(note["answer_text"], request, note["receipt"], note["price_microcredits"])
    lines: list[str] = []
    facts = {"base_url": network.base_url, "network": network.network}
    verify_in_another_process(tmp_path, facts, bill, lines.append)
    assert "verified" in lines[0]


def test_embeddings_are_paid_and_their_receipt_verifies(
    network: LocalFacts, tmp_path: Path
) -> None:
    before = settled(network)
    texts = [CAPITAL, "What is the capital of Spain?", "Tell me a story about a cat."]
    with RecordingClient(network.base_url, network.api_key, timeout_s=120) as client:
        answer = client.openai.embeddings.create(model=MODEL, input=texts)
        request = client.request
        chat = client.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": CAPITAL}], temperature=0
        )
    assert chat.choices[0].message.content == "The capital of France is Paris."
    france, spain, story = (item.embedding for item in answer.data)
    assert sum(map(operator.mul, france, spain)) > 0.7
    assert sum(map(operator.mul, france, story)) < 0.5
    note = answer.model_extra["resultity"] if answer.model_extra else {}
    paid = note["price_microcredits"] + (chat.model_extra or {})["resultity"]["price_microcredits"]
    assert before["available_microcredits"] - settled(network)["available_microcredits"] == paid
    assert note["price_microcredits"] == -(-answer.usage.prompt_tokens * 500_000 // 10**6)
    packed = (struct.pack(f"<{len(item.embedding)}f", *item.embedding) for item in answer.data)
    shown = "".join(base64.b64encode(data).decode() + "\n" for data in packed)
    lines: list[str] = []
    facts = {"base_url": network.base_url, "network": network.network}
    bill = Answer(shown, request, note["receipt"], note["price_microcredits"])
    verify_in_another_process(tmp_path, facts, bill, lines.append)
    assert "verified" in lines[0]


def test_many_at_once(network: LocalFacts) -> None:
    def ask(number: int) -> str:
        with network.client() as client:
            answer = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": CAPITAL}], temperature=0
            )
        return answer.choices[0].message.content or ""

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(24))) == {"The capital of France is Paris."}


def test_ask(network: LocalFacts) -> None:
    done = network.run("ask", CAPITAL, "--verbose")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The capital of France is Paris.\n"
    assert "credits" in done.stderr
    done = network.run("ask", CAPITAL, "--model", "no-such-model")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert MODEL in done.stderr


def test_explore(network: LocalFacts) -> None:
    def roles() -> list[str]:
        done = network.run("explore", "peers", "--json")
        assert done.returncode == 0, done.stderr
        return sorted(row["role"] for row in json.loads(done.stdout))

    eventually(lambda: roles() == ["bootstrap", "gateway", "node", "node"], "all peers are known")
    assert "gateway" in network.run("explore", "peers").stdout
    peers = json.loads(network.run("explore", "peers", "--json").stdout)
    nodes = [row for row in peers if row["role"] == "node"]
    assert all(row["hardware"]["memory_bytes"] > 1 << 28 for row in nodes)
    assert {model["mode"] for row in nodes for model in row["models"]} == {"reproducible"}
    rows = json.loads(network.run("explore", "models", "--json").stdout)
    assert [(row["name"], row["nodes"]) for row in rows] == [(MODEL, 2)]
    assert MODEL in network.run("explore", "models").stdout


def test_owner_sees_verified_grants(network: LocalFacts) -> None:
    account = f"{network.data_dir}/accounts/demo.account"
    granted = balance(network)["granted_microcredits"]
    done = network.run("admin", "grant", "0.5", "--memo", "test")
    assert done.returncode == 0, done.stderr
    done = network.run("account", "balance", "--account-file", account, "--json")
    assert done.returncode == 0, done.stderr
    amounts = json.loads(done.stdout)
    assert amounts["granted_microcredits"] == granted + 500_000
    assert amounts["grants_verified"] >= 2


def test_a_key_of_its_own_and_its_end(network: LocalFacts) -> None:
    done = network.run("key", "create", "--name", "second", "--credit-cap", "0.000001", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    with (
        openai.OpenAI(base_url=network.base_url, api_key=made["api_key"], max_retries=0) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert refused.value.code == "insufficient_quota"
    done = network.run("key", "revoke", made["key_id"])
    assert done.returncode == 0, done.stderr

    def refused_now() -> bool:
        with openai.OpenAI(
            base_url=network.base_url, api_key=made["api_key"], max_retries=0
        ) as client:
            try:
                client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "Hi"}]
                )
            except openai.AuthenticationError:
                return True
            except openai.APIStatusError:
                return False
        return False

    eventually(refused_now, "the revoked key is refused")


def test_up_again_changes_nothing(network: LocalFacts) -> None:
    done = network.run("up", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    assert LocalFacts(**json.loads(done.stdout)) == network
    done = network.run("up")
    assert done.returncode == 1
    assert "is running already" in done.stderr
