"""Many jobs at one server that fails at random, with random cancels: each ends once, gets its own
answer only, and nothing is left over."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import trio

from node.upstream.client import UpstreamClient, UpstreamTimes
from node.upstream.facts import Server, UpstreamFacts
from node.upstream.runtime import UpstreamRuntime
from p2p.approved_models import UnverifiedModel
from p2p.job_messages import REFUSALS
from p2p.logprob_messages import TokenLogprob
from tests.fakes.upstream_server import DONE, FakeUpstream, Reply, chunk, error, run_upstream

JOBS = 2000 if os.environ.get("RESULTITY_SOAK") == "1" else 150
MODEL = UnverifiedModel(
    name="big",
    context_tokens=4096,
    input_microcredits_per_million_tokens=1,
    output_microcredits_per_million_tokens=1,
)
FACTS = UpstreamFacts("big", server=Server.VLLM, context_tokens=4096)
FAST = UpstreamTimes(connect_s=5, first_byte_s=5, stall_s=0.05, probe_s=5)
GUARD_S = 120


class Sink:
    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.text = ""
        self.ends: list[str] = []
        self.ended = trio.Event()

    def on_cached(self, input_tokens: int) -> None:
        raise AssertionError

    def on_input(self, input_tokens: int) -> None:
        assert not self.ends

    def on_output(
        self, token_ids: tuple[int, ...], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        assert not self.ends
        self.text += text

    def on_end(self, outcome: str, detail: str) -> None:
        self.ends.append(outcome)
        self.ended.set()


def reply_of(chance: random.Random, question: dict[str, Any]) -> Reply:
    marker = question["messages"][0]["content"]
    parts = [chunk({"content": f"{marker} "}) for _ in range(chance.randrange(1, 8))]
    whole = [*parts, chunk(finish="stop"), DONE]
    match chance.randrange(12):
        case 0:
            return Reply(parts, then="drop")
        case 1:
            return Reply(parts, then="hang")
        case 2:
            return Reply([*parts, b"data: {broken\n\n"])
        case 3:
            return Reply(parts)
        case 4:
            return error(chance.choice([400, 401, 429, 500, 503]))
        case 5:
            return Reply([b"".join(whole)[:-3], b"".join(whole)[-3:]])
        case 6:
            return Reply(then="drop")
        case _:
            return Reply(whole, pause_s=chance.choice([0, 0, 0.002]))


async def test_each_job_ends_once_with_its_own_answer() -> None:
    chance = random.Random(4)
    server = FakeUpstream(reply_to=lambda question: reply_of(chance, question))
    sinks: list[Sink] = []

    async def ask(runtime: UpstreamRuntime, number: int) -> None:
        marker = f"marker-{number}-"
        request = json.dumps({"messages": [{"role": "user", "content": marker}]}).encode()
        prepared = await runtime.prepare(request, output_tokens_max=50, seed=number)
        sink = Sink(marker)
        if chance.random() < 0.1:
            runtime.cancel(prepared.number)
            return
        sinks.append(sink)
        runtime.start(prepared.number, sink)
        if chance.random() < 0.25:
            await trio.sleep(chance.random() * 0.02)
            runtime.cancel(prepared.number)
        await sink.ended.wait()

    with trio.fail_after(GUARD_S):
        async with run_upstream(server), trio.open_nursery() as nursery:
            client = UpstreamClient(server.url, key=None, connections=8, times=FAST)
            runtime = UpstreamRuntime(client, lambda: MODEL, slots=8)
            runtime.facts = FACTS
            await nursery.start(runtime.run)
            async with trio.open_nursery() as asking:
                for number in range(JOBS):
                    asking.start_soon(ask, runtime, number)
                    await trio.sleep(chance.random() * 0.004)
            assert not runtime._jobs
            assert runtime.pace._running == 0
            assert server.running_most <= 8 + 2
            while server.running:
                await trio.sleep(0.01)
            await client.close()
            nursery.cancel_scope.cancel()
    outcomes = {sink.ends[0] for sink in sinks}
    for sink in sinks:
        assert len(sink.ends) == 1
        assert sink.text.replace(f"{sink.marker} ", "") == ""
        assert sink.ends[0] in {"stop", "failed", "cancelled"} | REFUSALS.keys()
        if sink.ends[0] in REFUSALS:
            assert not sink.text
    assert {"stop", "failed", "cancelled", "busy"} <= outcomes
