"""Nodes that die or freeze, and clients that leave, with real processes."""

from __future__ import annotations

import json
import signal
import time

import openai
import psutil
import pytest

from tests.fakes.real_network import (
    DELAY_MS,
    MODEL,
    TOKENS,
    RealNetwork,
    StreamSeen,
    eventually,
    read_stream,
    runs,
)
from tests.fakes.scripted_engine import answer_text


def test_a_node_killed_in_the_middle_of_an_answer_is_replaced(network: RealNetwork) -> None:
    seen = StreamSeen()
    with network.client() as client, network.open_stream(client) as stream:
        read_stream(stream, seen, until_characters=20)
        victim = network.busy_node()
        victim.kill()
        read_stream(stream, seen)
    assert seen.error is None, f"{seen.error} {network.logs()}"
    assert seen.text.strip() == answer_text(TOKENS).strip()
    assert seen.finish_reason in ("stop", "length")
    assert network.ask() == "word0 word1 "
    network.settled_balance()


def test_choices_go_on_when_their_node_is_killed(network: RealNetwork) -> None:
    """Each choice to its end, each token's logprob once and in order."""
    texts, logprobs, ends = ["", "", ""], [[], [], []], ["", "", ""]  # type: ignore[var-annotated]
    killed = False
    with network.client() as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=30,
            n=3,
            logprobs=True,
            stream=True,
        )
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.logprobs is not None:
                    logprobs[choice.index] += choice.logprobs.content or []
                ends[choice.index] += choice.finish_reason or ""
            if not killed and min(map(len, texts)) > 20:
                network.busy_node().kill()
                killed = True
    assert killed
    assert ends == ["length"] * 3
    assert texts == [answer_text(30)] * 3
    for entries in logprobs:
        assert "".join(entry.token for entry in entries) == answer_text(30)
        assert [entry.logprob for entry in entries] == [-place / 4 for place in range(1, 31)]
    network.settled_balance()


def test_the_only_node_killed_ends_the_stream_with_an_error(network: RealNetwork) -> None:
    seen = StreamSeen()
    with network.client() as client, network.open_stream(client) as stream:
        read_stream(stream, seen, until_characters=20)
        victim = network.busy_node()
        other = next(p for p in network.parts if p.role == "node" and p != victim)
        other.kill()
        victim.kill()
        read_stream(stream, seen)
    assert isinstance(seen.error, openai.APIError), f"no error came: {seen}"
    assert seen.text  # what came before stays valid
    assert answer_text(TOKENS).startswith(seen.text)
    network.settled_balance()
    # Nobody is left: the next request is refused at once and says when to try again.
    eventually(lambda: network.health().get("nodes") == 0, "the gateway misses both nodes")
    with network.client() as client, pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Anybody?"}]
        )
    assert refused.value.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) >= 1
    network.settled_balance()


def test_a_killed_node_comes_back_as_itself(network: RealNetwork) -> None:
    before = network.part("node")
    before.kill()
    network.up()
    after = network.part("node")
    assert after.peer_id == before.peer_id
    assert after.pid != before.pid
    assert set(network.loads()) == {part.peer_id for part in network.parts if part.role == "node"}
    assert network.ask() == "word0 word1 "


def test_a_node_that_is_asked_to_end_finishes_its_answer(network: RealNetwork) -> None:
    seen = StreamSeen()
    with network.client() as client, network.open_stream(client) as stream:
        read_stream(stream, seen, until_characters=20)
        leaving = network.busy_node()
        process = psutil.Process(leaving.pid)
        leaving.signal(signal.SIGTERM)
        # It takes nothing new from this moment, and goes on with what it has.
        eventually(lambda: draining(network, leaving.peer_id), "the node drains")
        assert network.ask() == "word0 word1 "
        read_stream(stream, seen)
    assert seen.error is None
    assert seen.text.strip() == answer_text(TOKENS).strip()
    eventually(lambda: not runs(process), "the node has ended")
    assert "drained: 0 jobs are left" in network.logs()
    network.settled_balance()
    network.up()


def draining(network: RealNetwork, peer_id: str) -> bool:
    """Whether a node says in its status file that it takes no new jobs."""
    statuses = [
        json.loads(path.read_text()) for path in network.data_dir.glob("node-*/status.json")
    ]
    return any(status["draining"] for status in statuses if status["peer_id"] == peer_id)


def test_a_frozen_node_is_noticed_and_avoided(network: RealNetwork) -> None:
    network.ask()
    victim = network.part("node")
    with victim.frozen():
        started_s = time.monotonic()
        noticed_s = None
        while noticed_s is None:
            # Requests go on meanwhile, whichever node they were meant for.
            assert network.ask(max_tokens=1)
            if victim.peer_id not in network.loads():
                noticed_s = time.monotonic() - started_s
            assert time.monotonic() - started_s < 60, "a frozen node is not noticed"
        print(f"a frozen node was noticed after {noticed_s:.1f} s")
        assert noticed_s < 15 + 5  # 15 s are promised; 5 for a busy machine
        started_s = time.monotonic()
        for _ in range(4):
            assert network.ask(max_tokens=1)
        assert time.monotonic() - started_s < 20, "requests still wait for a frozen node"
    eventually(lambda: victim.peer_id in network.loads(), "the node is used again")
    network.settled_balance()


def test_work_stops_when_the_client_leaves(network: RealNetwork) -> None:
    seen = StreamSeen()
    with network.client() as client, network.open_stream(client) as stream:
        read_stream(stream, seen, until_characters=10)
        network.busy_node()
        started_s = time.monotonic()
    eventually(lambda: not any(network.loads().values()), "no node works", timeout_s=10)
    took_s = time.monotonic() - started_s
    print(f"the node stopped {took_s:.2f} s after the client left")
    left_s = (TOKENS - len(seen.text.split())) * DELAY_MS / 1000
    assert took_s < left_s, "the answer was finished for nobody"
    before = network.settled_balance()
    assert before["spent_microcredits"] > 0


def test_work_stops_when_the_client_of_a_whole_answer_leaves(network: RealNetwork) -> None:
    with network.client(timeout_s=1.0) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Count."}], max_tokens=TOKENS
        )
    started_s = time.monotonic()
    eventually(lambda: not any(network.loads().values()), "no node works", timeout_s=10)
    print(f"the node stopped {time.monotonic() - started_s:.2f} s after the client left")
    network.settled_balance()
