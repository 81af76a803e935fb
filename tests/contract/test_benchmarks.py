"""Timed jobs on both adapters: the gateway's side against the node's, and against liars."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from gateway.subclouds.benchmarks import (
    Benchmarker,
    SpeedProbe,
    TooShortError,
    Wanted,
    wanted_by,
)
from node.agent.agent import Agent
from node.agent.runtime_port import JobSink
from node.subclouds.benchmarking import serve_benchmarks
from p2p.certificates import Certificate
from p2p.errors import P2PError, RefusedError, UntrustedError
from p2p.job_messages import OUTPUT_HASH_START, EndFrame, OutputFrame, next_output_hash
from p2p.limits import BENCHMARK_PER_HOUR_PER_PEER, BENCHMARK_TOKENS
from p2p.signing import Signed, open_signed
from p2p.subclouds.evidence import facts_of
from p2p.subclouds.evidence_documents import open_evidence
from p2p.subclouds.evidence_messages import (
    BENCHMARK_PROTOCOL,
    BenchmarkOffer,
    BenchmarkReceipt,
    BenchmarkStatement,
)
from p2p.subclouds.message_stream import MessageStream
from p2p.types import AccountId, PeerId, Role
from tests.fakes import evidence as papers
from tests.fakes.clocks import FakeClock
from tests.fakes.job_desk import FakeRuntime
from tests.fakes.networks import NETWORK, MemoryWorld, World, connected_pair, pair
from tests.fakes.served_models import FakeModel, FakeModels
from tests.fakes.subclouds import a_policy
from tests.fakes.trust import MODEL_DIGEST, book_with

WAIT_S = 20.0
GATEWAY, NODE = pair("one"), pair("two")


@dataclass
class CountingRuntime(FakeRuntime):
    """A runtime that gives a number of tokens at once."""

    tokens: int = BENCHMARK_TOKENS
    outcome: str = "length"

    def start(self, number: int, sink: JobSink) -> None:
        super().start(number, sink)
        for token in range(self.tokens):
            sink.on_output((token,), f"{token} ")
        sink.on_end(self.outcome, "")


@dataclass
class Standing:
    """Who is certified, as the node knows it."""

    role: Role = Role.GATEWAY

    def certificate_of(self, peer_id: PeerId) -> Certificate:
        return Certificate(NETWORK, peer_id, self.role, AccountId("a"), 0, 2**50)


@dataclass
class Bench:
    """A node that takes timed jobs, and a gateway that gives them."""

    clock: FakeClock = field(default_factory=FakeClock)
    runtime: CountingRuntime = field(default_factory=CountingRuntime)
    standing: Standing = field(default_factory=Standing)
    given: list[Signed] = field(default_factory=list)
    admits: bool = True
    clock_s: Callable[[], float] = trio.current_time

    @asynccontextmanager
    async def open(self, world: World):
        self.model = FakeModel(self.runtime, slots=2)
        self.agent = Agent(
            key_pair=NODE,
            network=NETWORK,
            membership=self.standing,  # type: ignore[arg-type]
            configuration=book_with(),
            models=FakeModels([self.model]),
            queue_jobs_max=2,
            clock_ms=self.clock,
        )
        async with connected_pair(world) as (gateway, node):
            serve_benchmarks(
                node,
                self.agent,
                on_statement=self.given.append,
                admits=lambda peer_id, account_id: self.admits,
            )
            self.network = gateway
            self.tester = SpeedProbe(gateway, GATEWAY, lambda: (), self.clock, clock_s=self.clock_s)
            with trio.fail_after(WAIT_S):
                yield self

    async def test(self, **options: Any) -> Signed:
        return await self.tester.test(NODE.peer_id, MODEL_DIGEST, **options)


async def test_a_timed_job_is_measured_signed_and_given_to_the_node(world: World) -> None:
    ticks = iter(range(10**6))
    bench = Bench(clock_s=lambda: next(ticks) * 0.01)
    async with bench.open(world):
        signed = await bench.test()
        statement = open_signed(signed, BenchmarkStatement, NETWORK, GATEWAY.public_key)
        assert (statement.node, statement.model_digest) == (NODE.peer_id, MODEL_DIGEST)
        assert statement.output_tokens == BENCHMARK_TOKENS
        # One look at the clock before, one for each frame: the time is all of it.
        assert statement.tokens_per_second == pytest.approx(1 / 0.01)
        assert statement.first_token_ms == 10
        while not bench.given:
            await trio.sleep(0.01)
        assert bench.given == [signed]
        request, tokens, seed, resumed = bench.runtime.prepared[1]
        assert (tokens, seed, resumed) == (BENCHMARK_TOKENS, 0, ())
        assert json.loads(request)["temperature"] == 0
        assert bench.runtime.asked[1] == ("chat", b"")  # nothing from a cache
        assert (bench.agent.jobs, bench.model.jobs) == (0, 0)


async def test_what_is_asked_is_never_the_same() -> None:
    bench = Bench()
    async with bench.open(MemoryWorld()):
        await bench.test()
        await bench.test(forced=True)
        first, second = (json.loads(bench.runtime.prepared[number][0]) for number in (1, 2))
        assert first["messages"] != second["messages"]
        assert second["response_format"]["json_schema"]["schema"]["minItems"] == 64


async def refusal(bench: Bench) -> str:
    with pytest.raises(RefusedError) as refused:
        await bench.test()
    return refused.value.code


async def test_whom_a_node_refuses(world: World) -> None:
    bench = Bench()
    async with bench.open(world):
        bench.admits = False
        assert await refusal(bench) == "gateway_not_admitted"
        bench.admits, bench.standing.role = True, Role.NODE
        assert await refusal(bench) == "not_entitled"
        bench.standing.role = Role.GATEWAY
        bench.model.jobs = 1
        assert await refusal(bench) == "busy"
        bench.model.jobs = 0
        bench.agent.draining = True
        assert await refusal(bench) == "draining"
        bench.agent.draining = False
        with pytest.raises(RefusedError, match="not active"):
            await bench.tester.test(NODE.peer_id, bytes(32))
        for _ in range(int(BENCHMARK_PER_HOUR_PER_PEER)):
            await bench.test()
        assert await refusal(bench) == "rate_limited"
        assert bench.agent.jobs == 0


@pytest.mark.parametrize("lie", ["another node", "another gateway", "old"])
async def test_an_offer_that_is_not_meant_for_the_node(lie: str) -> None:
    bench = Bench()
    async with bench.open(MemoryWorld()):
        now_ms = bench.clock.now_ms
        tester = pair("x").peer_id if lie == "another gateway" else GATEWAY.peer_id
        node = pair("x").peer_id if lie == "another node" else NODE.peer_id
        over_ms = now_ms if lie == "old" else now_ms + 1000
        offer = BenchmarkOffer(bytes(16), tester, node, MODEL_DIGEST, b"{}", 8, 0, 0, over_ms)
        messages = MessageStream(await bench.network.open_stream(NODE.peer_id, BENCHMARK_PROTOCOL))
        await messages.send(GATEWAY.sign(NETWORK, offer), WAIT_S)
        with pytest.raises(P2PError):
            await messages.next(WAIT_S, OutputFrame, EndFrame)
        assert bench.runtime.prepared == {}


async def test_a_short_answer_is_no_measurement() -> None:
    bench = Bench(runtime=CountingRuntime(tokens=15, outcome="stop"))
    async with bench.open(MemoryWorld()):
        with pytest.raises(TooShortError):
            await bench.test()
        bench.runtime.outcome = "failed"
        with pytest.raises(RefusedError):
            await bench.test()
        assert bench.given == []


LIES = [
    "too many tokens",
    "tokens without text",
    "receipt of less",
    "other output",
    "other job",
    "not final",
    "no receipt",
    "forged",
]


@pytest.mark.parametrize("lie", LIES)
async def test_a_node_that_lies_gets_no_statement(lie: str) -> None:
    async with connected_pair(MemoryWorld()) as (gateway, node):
        received: list[Signed] = []

        async def serve(stream: Any) -> None:
            messages = MessageStream(stream)
            signed = await messages.next(WAIT_S, Signed)
            offer = open_signed(signed, BenchmarkOffer, NETWORK)
            count = BENCHMARK_TOKENS + (lie == "too many tokens")
            text = "" if lie == "tokens without text" else "x" * count
            ids = tuple(range(count))
            seen = next_output_hash(OUTPUT_HASH_START, ids, text + "y" * (lie == "other output"))
            job = bytes(16) if lie == "other job" else offer.benchmark_id
            said = 20 if lie == "receipt of less" else min(count, BENCHMARK_TOKENS)
            final = lie != "not final"
            receipt = BenchmarkReceipt(job, signed.digest(), seen, 1, said, final)
            key = pair("x") if lie == "forged" else NODE
            proof = key.sign(NETWORK, receipt)
            await messages.send(OutputFrame(0, ids, text, proof), WAIT_S)
            end = EndFrame(0, "length", "", None if lie == "no receipt" else proof)
            await messages.send(end, WAIT_S)
            received.append(await messages.next(WAIT_S, Signed))

        node.handle(BENCHMARK_PROTOCOL, serve)
        tester = SpeedProbe(gateway, GATEWAY, lambda: (), FakeClock())
        with pytest.raises(UntrustedError), trio.fail_after(WAIT_S):
            await tester.test(NODE.peer_id, MODEL_DIGEST)
        assert received == []


async def test_the_gateway_tests_what_is_wanted_and_leaves_refusals_alone() -> None:
    bench = Bench(runtime=CountingRuntime(tokens=5, outcome="stop"))
    results: list[tuple[PeerId, bytes]] = []
    wanted = [Wanted(NODE.peer_id, MODEL_DIGEST), Wanted(pair("gone").peer_id, MODEL_DIGEST)]
    async with bench.open(MemoryWorld()):
        tester = Benchmarker(
            bench.tester,
            lambda: wanted,
            lambda node, digest, signed: results.append((node, digest)),
        )
        assert await tester.look() == 0
        assert await tester.look() == 0
        assert len(bench.runtime.prepared) == 1  # not again at once
        tester._not_before_s.clear()
        bench.runtime.tokens = BENCHMARK_TOKENS
        assert await tester.look() == 1
        assert results == [(NODE.peer_id, MODEL_DIGEST)]
        assert "response_format" in json.loads(bench.runtime.prepared[2][0])  # forced this time


def test_what_a_policy_wants_measured() -> None:
    configuration = papers.a_configuration()

    def wanted(policy: Any, *evidence: Signed, now_ms: int = papers.NOW_MS) -> list[Wanted]:
        opened = open_evidence(papers.a_statement(*evidence), papers.NETWORK, now_ms)
        facts = facts_of(papers.an_advert(), opened, configuration, now_ms)
        return list(wanted_by(policy, [(facts, opened)], configuration, now_ms))

    def asking(**hardware: Any) -> Any:
        return a_policy(expires_ms=2 * papers.NOW_MS, hardware=hardware)

    fast = {"evidence": "benchmarked", "tokens_per_second_min": 40}
    missing = [Wanted(papers.NODE.peer_id, papers.DIGEST)]
    lasting = papers.a_benchmark(expires_ms=papers.NOW_MS + 24 * papers.HOUR_MS)
    assert wanted(asking(**fast)) == missing
    assert wanted(asking(**fast), lasting) == []
    assert wanted(asking(**fast), papers.a_benchmark()) == missing  # it ends within the hour
    assert wanted(asking(evidence="benchmarked", gpu={})) == []  # no speed to measure against
    assert wanted(asking(tokens_per_second_min=40)) == []
    other = a_policy(expires_ms=2 * papers.NOW_MS, hardware=fast, models={"families": ("other",)})
    assert wanted(other) == []
