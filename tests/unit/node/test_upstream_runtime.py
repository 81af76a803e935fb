"""The upstream runtime at a server that behaves, and at servers that do not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from node.errors import RuntimeRefusedError, RuntimeUnavailableError
from node.upstream.client import UpstreamClient, UpstreamTimes
from node.upstream.errors import UpstreamError
from node.upstream.facts import Server, UpstreamFacts
from node.upstream.runtime import UpstreamRuntime
from p2p.approved_models import UnverifiedModel
from p2p.logprob_messages import TokenLogprob
from tests.fakes.upstream_server import (
    DONE,
    WORDS,
    FakeUpstream,
    Reply,
    answer,
    chunk,
    error,
    run_upstream,
)

MODEL = UnverifiedModel(
    name="big",
    context_tokens=4096,
    input_microcredits_per_million_tokens=1,
    output_microcredits_per_million_tokens=1,
    modalities=("text", "image"),
    image_tokens_max=100,
)
FACTS = UpstreamFacts("big", server=Server.VLLM, context_tokens=4096, images=True, tools=True)
HELLO = {"messages": [{"role": "user", "content": "Hello there, you big model"}]}
PATIENT = UpstreamTimes(connect_s=20, first_byte_s=20, stall_s=20, probe_s=20)
IMPATIENT = UpstreamTimes(connect_s=20, first_byte_s=20, stall_s=0.1, probe_s=20)
GUARD_S = 60


@dataclass
class Sink:
    inputs: list[int] = field(default_factory=list)
    tokens: int = 0
    frames: int = 0
    text: str = ""
    ends: list[tuple[str, str]] = field(default_factory=list)
    first: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    def on_cached(self, input_tokens: int) -> None:
        raise AssertionError("nothing is known of the server's cache")

    def on_input(self, input_tokens: int) -> None:
        assert not self.inputs or input_tokens >= self.inputs[-1]
        self.inputs.append(input_tokens)

    def on_output(
        self, token_ids: tuple[int, ...], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        assert token_ids or text
        assert not any(token_ids)
        assert not self.ends
        self.tokens += len(token_ids)
        self.text += text
        self.frames += 1
        assert self.tokens <= len(self.text.encode())
        self.first.set()

    def on_end(self, outcome: str, detail: str) -> None:
        self.ends.append((outcome, detail))
        self.ended.set()

    @property
    def outcome(self) -> str:
        assert len(self.ends) == 1
        return self.ends[0][0]


@dataclass
class World:
    server: FakeUpstream
    runtime: UpstreamRuntime
    results: list[UpstreamError | None]

    async def begin(self, request: dict[str, Any] = HELLO, **options: Any) -> tuple[int, Sink]:
        prepared = await self.runtime.prepare(
            json.dumps(request).encode(), **{"output_tokens_max": 100, "seed": 7, **options}
        )
        sink = Sink()
        self.runtime.start(prepared.number, sink)
        return prepared.number, sink

    async def ask(self, request: dict[str, Any] = HELLO, **options: Any) -> Sink:
        _, sink = await self.begin(request, **options)
        with trio.fail_after(GUARD_S):
            await sink.ended.wait()
        return sink


@asynccontextmanager
async def world(
    facts: UpstreamFacts = FACTS,
    *,
    slots: int = 2,
    key: str | None = None,
    times: UpstreamTimes = PATIENT,
    **options: Any,
) -> AsyncIterator[World]:
    results: list[UpstreamError | None] = []
    async with run_upstream() as server, trio.open_nursery() as nursery:
        client = UpstreamClient(server.url, key=key, connections=8, times=times)
        runtime = UpstreamRuntime(
            client, lambda: MODEL, slots=slots, on_result=results.append, **options
        )
        runtime.facts = facts
        await nursery.start(runtime.run)
        yield World(server, runtime, results)
        nursery.cancel_scope.cancel()
        await client.close()


async def test_an_answer_is_passed_on_as_it_comes_and_counted_by_usage() -> None:
    async with world(key="secret-key") as it:
        it.server.replies = [Reply(answer(tokens=(9, 20)), pause_s=0.01)]
        sink = await it.ask(cache_scope=b"\x01" * 16)
        assert (sink.outcome, sink.text) == ("stop", "".join(WORDS))
        assert sink.frames > 2
        assert sink.tokens == 20
        assert sink.inputs == [3, 9]
        question = it.server.questions[0]
        assert question["max_tokens"] == 100
        assert question["n"] == 1
        assert question["seed"] == 7
        assert question["stream_options"] == {"include_usage": True}
        assert question["cache_salt"] == "01" * 16
        assert "authorization: bearer secret-key" in it.server.heads[0].lower()
        assert it.results == [None]


async def test_many_jobs_use_few_connections_and_no_more_slots_than_there_are() -> None:
    async with world(slots=2) as it:
        it.server.reply = Reply(answer(), pause_s=0.01)
        sinks = [(await it.begin())[1] for _ in range(6)]
        with trio.fail_after(GUARD_S):
            for sink in sinks:
                await sink.ended.wait()
        assert {sink.outcome for sink in sinks} == {"stop"}
        assert it.server.running_most == 2


@pytest.mark.parametrize(("said", "counted"), [(10**6, 20), (0, 5), (-3, 5), ("x", 5), (None, 5)])
async def test_a_usage_that_lies_is_bounded_by_the_bytes(said: Any, counted: int) -> None:
    async with world() as it:
        it.server.replies = [Reply(answer(tokens=None if said is None else (said, said)))]
        if said is None:
            it.server.replies = [Reply(answer(tokens=None))]
        sink = await it.ask()
        assert sink.outcome == "stop"
        assert sink.tokens == counted
        assert sink.inputs[-1] <= 26 + 2 * MODEL.template_allowance_tokens


async def test_more_text_than_the_offer_pays_for_is_cut_off() -> None:
    async with world() as it:
        sink = await it.ask(output_tokens_max=3)
        assert (sink.outcome, sink.tokens, sink.text) == ("length", 3, "Two and two ")


async def test_an_offer_that_pays_for_no_token_is_refused() -> None:
    async with world() as it:
        with pytest.raises(RuntimeRefusedError) as refused:
            await it.begin(output_tokens_max=0)
        assert refused.value.code == "bad_request"
        assert not it.server.questions


async def test_an_answer_that_ends_at_its_limit_says_why_by_itself() -> None:
    async with world() as it:
        sink = await it.ask(output_tokens_max=len(WORDS))
        assert (sink.outcome, sink.text) == ("stop", "".join(WORDS))


async def test_a_cancel_closes_the_request() -> None:
    async with world() as it:
        it.server.replies = [Reply(answer(), gate=trio.Event(), then="hang")]
        it.server.replies[0].gate = None
        it.server.replies[0].parts = [chunk({"content": "a"})]
        number, sink = await it.begin()
        with trio.fail_after(GUARD_S):
            await sink.first.wait()
            it.runtime.cancel(number)
            await sink.ended.wait()
            while not it.server.left:
                await trio.sleep(0.01)
        assert sink.ends == [("cancelled", "")]
        it.runtime.cancel(number)
        assert (await it.ask()).outcome == "stop"


async def test_a_job_that_waits_for_a_slot_can_be_cancelled() -> None:
    async with world(slots=1) as it:
        it.server.replies = [Reply([chunk({"content": "a"})], then="hang")]
        first, busy = await it.begin()
        await busy.first.wait()
        number, waiting = await it.begin()
        it.runtime.cancel(number)
        with trio.fail_after(GUARD_S):
            await waiting.ended.wait()
        it.runtime.cancel(first)
        assert len(it.server.questions) == 1


BROKEN = {
    "dies": Reply([chunk({"content": "a"})], then="drop"),
    "stalls": Reply([chunk({"content": "a"})], then="hang"),
    "ends early": Reply([chunk({"content": "a"})]),
    "malformed": Reply([chunk({"content": "a"}), b"data: {nonsense\n\n"]),
    "huge line": Reply([chunk({"content": "a"}), b"data: " + b"x" * (3 << 20)]),
    "much text": Reply([chunk({"content": "a"}), *([chunk({"content": "x" * 60_000})] * 3)]),
    "error": Reply([chunk({"content": "a"}), b'data: {"error": {"message": "boom"}}\n\n']),
    "too much": Reply([chunk({"content": "a"}), *([b": " + b"x" * 65536 + b"\n"] * 40)]),
}


@pytest.mark.parametrize("fault", sorted(BROKEN))
async def test_a_server_that_fails_after_output_ends_the_job(fault: str) -> None:
    async with world(times=IMPATIENT if fault == "stalls" else PATIENT) as it:
        it.server.replies = [BROKEN[fault]]
        sink = await it.ask()
        assert sink.outcome == "failed"
        assert sink.tokens >= 1
        assert it.results[0] is not None
        assert it.results[0].sick
        if fault != "stalls":
            assert (await it.ask()).outcome == "stop"


EARLY = {
    "busy": (error(429), "busy", False),
    "dead": (error(500), "runtime", True),
    "loading": (error(503), "busy", True),
    "key": (error(401), "runtime", True),
    "redirect": (Reply(status=302, headers=["location: http://127.0.0.1:1/"]), "runtime", True),
    "bad": (error(400, "bad schema /srv/x", param="response_format"), "bad_request", False),
    "long": (error(400, "maximum context length is 5"), "context_length_exceeded", False),
    "zip": (Reply(answer(), headers=["content-encoding: gzip"]), "failed", True),
    "dies": (Reply(then="drop"), "failed", True),
    "no json": (Reply([b"<html>"], content_type="text/html"), "failed", True),
}


@pytest.mark.parametrize("fault", sorted(EARLY))
async def test_a_refusal_before_output_keeps_its_meaning_and_no_word(fault: str) -> None:
    reply, outcome, sick = EARLY[fault]
    async with world() as it:
        it.server.reply = reply
        sink = await it.ask()
        assert sink.outcome == outcome
        assert "/srv/x" not in sink.ends[0][1]
        assert it.results[0] is not None
        assert it.results[0].sick is sick
        if fault == "bad":
            assert "response_format" in sink.ends[0][1]


async def test_a_prompt_that_fits_but_for_the_longest_answer_is_asked_again() -> None:
    async with world() as it:
        it.server.replies = [error(400, "maximum context length is 4096 tokens")]
        sink = await it.ask()
        assert sink.outcome == "stop"
        assert "max_tokens" not in it.server.questions[1]


async def test_a_server_that_is_gone_is_unreachable() -> None:
    async with world() as it:
        it.runtime._client.root = "http://127.0.0.1:1"
        sink = await it.ask()
        assert sink.ends == [("runtime", "the server cannot be reached")]


async def test_answers_that_do_not_stream_are_taken_whole() -> None:
    async with world() as it:
        it.server.streams = False
        sink = await it.ask()
        assert (sink.outcome, sink.text, sink.tokens) == ("stop", "".join(WORDS), 6)


async def test_tool_calls_become_text_and_developers_systems() -> None:
    async with world() as it:
        part = {"index": 0, "id": "c", "function": {"name": "get_time", "arguments": '{"a"'}}
        rest = {"index": 0, "function": {"arguments": ": 1}"}}
        parts = [chunk({"tool_calls": [part]}), chunk({"tool_calls": [rest]})]
        it.server.replies = [Reply([*parts, chunk(finish="tool_calls"), DONE])]
        tools = [{"type": "function", "function": {"name": "get_time", "parameters": {}}}]
        messages = [{"role": "developer", "content": "Be short."}, *HELLO["messages"]]
        sink = await it.ask({"messages": messages, "tools": tools})
        text = '<tool_call>\n{"name": "get_time", "arguments": {"a": 1}}\n</tool_call>'
        assert (sink.outcome, sink.text) == ("stop", text)
        assert it.server.questions[0]["messages"][0]["role"] == "system"


def picture(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]}


async def test_images_are_passed_on_but_no_addresses() -> None:
    data = "data:image/png;base64,AAAA"
    async with world() as it:
        assert (await it.ask(picture(data))).outcome == "stop"
        assert it.server.questions[0]["messages"] == picture(data)["messages"]
        for url in ("http://169.254.169.254/latest", "file:///etc/passwd", "data:text/html,x"):
            with pytest.raises(RuntimeRefusedError) as caught:
                await it.begin(picture(url))
            assert caught.value.code == "unsupported"
    async with world(image_urls=True) as it:
        assert (await it.ask(picture("https://example.org/a.png"))).outcome == "stop"
        with pytest.raises(RuntimeRefusedError):
            await it.begin(picture("file:///etc/passwd"))


async def test_what_the_server_cannot_do_is_refused_before_it_is_asked() -> None:
    facts = UpstreamFacts("big", context_tokens=64, images=False, tools=False)
    long = {"messages": [{"role": "user", "content": "x" * 1000}]}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (picture("data:image/png;base64,A"), {}, "unsupported"),
        ({**HELLO, "tools": [{"type": "function"}]}, {}, "unsupported"),
        ({**HELLO, "logprobs": True}, {}, "unsupported"),
        (HELLO, {"resume_tokens": (0,)}, "unsupported"),
        (HELLO, {"task": "embeddings"}, "unsupported"),
        (long, {}, "context_length_exceeded"),
        ({"messages": 3}, {}, "bad_request"),
    ]
    async with world(facts) as it:
        for request, options, code in cases:
            with pytest.raises(RuntimeRefusedError) as caught:
                await it.begin(request, **options)
            assert caught.value.code == code
        it.runtime.facts = None
        with pytest.raises(RuntimeUnavailableError):
            await it.begin()
        assert not it.server.questions


async def test_llama_server_shares_its_cache_only_if_allowed() -> None:
    facts = UpstreamFacts("big", server=Server.LLAMA, context_tokens=4096)
    async with world(facts) as it:
        await it.ask()
        assert it.server.questions[0]["cache_prompt"] is False


async def test_the_end_of_the_node_ends_its_jobs() -> None:
    async with world() as it:
        it.server.replies = [Reply([chunk({"content": "a"})], then="hang")]
        _, sink = await it.begin()
        await sink.first.wait()
    assert sink.outcome == "failed"
    late = Sink()
    it.runtime.start(99, late)
    assert late.outcome == "failed"


async def test_the_test_inference_finds_the_form_that_the_server_takes() -> None:
    async with world() as it:
        it.server.replies = [error(400), error(422)]
        await it.runtime.self_test()
        assert it.runtime.facts is not None
        assert not it.runtime.facts.streams
        it.runtime.facts = FACTS
        it.server.reply = error(500)
        it.server.replies = []
        with pytest.raises(UpstreamError, match="no text"):
            await it.runtime.self_test()
