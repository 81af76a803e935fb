"""A runtime that is killed under eight answers: every one is finished, and the node comes back."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import psutil

from tests.fakes.real_network import (
    TOKENS,
    Part,
    RealNetwork,
    StreamSeen,
    eventually,
    read_stream,
)
from tests.fakes.scripted_engine import answer_text

STREAMS = 8


def status_of(network: RealNetwork, part: Part) -> dict[str, Any]:
    """What a node says of itself in its status file."""
    for path in network.data_dir.glob("node-*/status.json"):
        status: dict[str, Any] = json.loads(path.read_text())
        if status["peer_id"] == part.peer_id:
            return status
    return {}


def runtime_of(part: Part) -> psutil.Process:
    """The process with the model (inside its sandbox, if there is one)."""
    family = psutil.Process(part.pid).children(recursive=True)
    return max(family, key=lambda process: process.create_time())


def test_a_runtime_killed_under_eight_answers(network: RealNetwork) -> None:
    seen = [StreamSeen() for _ in range(STREAMS)]

    def ask(one: StreamSeen) -> None:
        with network.client() as client, network.open_stream(client) as stream:
            read_stream(stream, one)

    threads = [threading.Thread(target=ask, args=(one,)) for one in seen]
    for thread in threads:
        thread.start()
    eventually(lambda: all(one.text for one in seen), "all have begun")
    loads = network.loads()
    victim = network.by_peer(max(loads, key=lambda peer: loads[peer]))
    before = status_of(network, victim)
    runtime = runtime_of(victim)
    runtime.kill()
    killed_s = time.monotonic()
    eventually(
        lambda: (
            (status := status_of(network, victim))["runtime_restarts"]
            == before["runtime_restarts"] + 1
            and status["model_state"] == "active"
            and status["runtime_ready"]
        ),
        "the node serves again",
    )
    print(f"{max(loads.values())} jobs were on it; back after {time.monotonic() - killed_s:.2f} s")
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    for one in seen:
        assert one.error is None, f"{one.error} {network.logs()}"
        assert one.text.strip() == answer_text(TOKENS).strip()
    assert status_of(network, victim)["pid"] == victim.pid, "the node itself went on"
    network.settled_balance()
    eventually(lambda: victim.peer_id in network.loads(), "the gateway uses it")
    assert network.ask() == "word0 word1 "
