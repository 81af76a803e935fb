"""The agent's side against real child processes: the scripted runtime, and once the demo model."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import trio

from node.errors import RuntimeRefusedError, RuntimeStartError, RuntimeUnavailableError
from node.runtime.sampling import SamplingSettings
from node.runtime.sampling_digest import sampling_digest
from node.runtime_messages import Rejected, Step
from node.runtime_process import RuntimeProcess, RuntimeTimes, runtime_command
from p2p.logprob_messages import TokenLogprob
from tests.fakes.scripted_engine import answer_text
from tests.fakes.scripted_runtime import command

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "resultity" / "models" / "tiny-chat-q8_0.gguf"
FAST = RuntimeTimes(backoff_s_min=0.01, ping_interval_s=0.05)
HANG_GUARD_S = 60


@dataclass
class Sink:
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ends: list[tuple[str, str]] = field(default_factory=list)
    first: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    def on_cached(self, input_tokens: int) -> None:
        assert not self.tokens

    def on_input(self, input_tokens: int) -> None:
        raise AssertionError("a runtime of our own counts the input when it is prepared")

    def on_output(
        self, token_ids: tuple[int, ...], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        assert not self.ends
        self.tokens += token_ids
        self.text += text
        self.first.set()

    def on_end(self, outcome: str, detail: str) -> None:
        self.ends.append((outcome, detail))
        self.ended.set()

    @property
    def outcome(self) -> str:
        assert len(self.ends) == 1
        return self.ends[0][0]


@asynccontextmanager
async def running(
    words: tuple[str, ...], times: RuntimeTimes = FAST
) -> AsyncIterator[RuntimeProcess]:
    runtime = RuntimeProcess(words, times=times)
    with trio.fail_after(HANG_GUARD_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            pid = runtime.pid
            assert pid is not None
            yield runtime
            nursery.cancel_scope.cancel()
    assert not runtime.ready
    assert not psutil.pid_exists(pid)
    assert psutil.Process().children() == []


def chat(question: str = "Hi", **fields: object) -> bytes:
    chat = [{"role": "user", "content": question}]
    return json.dumps({"messages": chat, "temperature": 0, **fields}).encode()


async def begin(runtime: RuntimeProcess, request: bytes = chat(), tokens_max: int = 100) -> Sink:
    job = await runtime.prepare(request, output_tokens_max=tokens_max, seed=0)
    sink = Sink()
    runtime.start(job.number, sink)
    return sink


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that has no event; the guard of `running` bounds it."""
    while not condition():
        await trio.sleep(0.005)


async def until_ready(runtime: RuntimeProcess, restarts: int) -> None:
    await until(lambda: runtime.ready and runtime.restarts == restarts)


async def test_a_job_from_request_to_end() -> None:
    async with running(command(tokens=20)) as runtime:
        assert runtime.facts.context_tokens == 1024
        job = await runtime.prepare(chat("one two three"), output_tokens_max=50, seed=0)
        assert (job.input_tokens, job.output_tokens_max) == (4, 50)
        sink = Sink()
        runtime.start(job.number, sink)
        await sink.ended.wait()
        assert sink.tokens == list(range(1, 21))
        assert sink.text == answer_text(20)
        assert sink.outcome == "stop"
        await runtime.self_test()
        runtime.cancel(job.number)


async def test_many_jobs_and_one_callback_for_each_step() -> None:
    async with running(command(tokens=20, delay_ms=1)) as runtime:
        steps: list[int] = []
        runtime.on_step_done(lambda: steps.append(1))
        sinks = [await begin(runtime) for _ in range(50)]
        for sink in sinks:
            await sink.ended.wait()
        assert all(sink.text == answer_text(20) for sink in sinks)
        assert len(steps) < 20 * 50


async def test_refusals_carry_code_and_numbers() -> None:
    async with running(command(context_tokens=10)) as runtime:
        with pytest.raises(RuntimeRefusedError) as caught:
            await runtime.prepare(chat("word " * 30), output_tokens_max=5, seed=0)
        assert caught.value.code == "context_length_exceeded"
        assert (caught.value.input_tokens, caught.value.context_tokens) == (31, 10)
        with pytest.raises(RuntimeRefusedError) as caught:
            await runtime.prepare(b"nonsense", output_tokens_max=5, seed=0)
        assert caught.value.code == "bad_request"
        assert not runtime._jobs


async def test_resumed_jobs_continue() -> None:
    async with running(command(tokens=20)) as runtime:
        job = await runtime.prepare(
            chat(), output_tokens_max=12, seed=0, resume_tokens=tuple(range(1, 8))
        )
        sink = Sink()
        runtime.start(job.number, sink)
        await sink.ended.wait()
        assert (sink.tokens, sink.outcome) == (list(range(8, 13)), "length")


async def test_cancel_ends_a_running_job() -> None:
    async with running(command(tokens=100_000, delay_ms=1)) as runtime:
        sink = await begin(runtime, tokens_max=1000)
        await sink.first.wait()
        number = next(iter(runtime._jobs))
        runtime.cancel(number)
        runtime.cancel(number)
        await sink.ended.wait()
        assert sink.outcome == "cancelled"
        runtime.cancel(number)
        assert not runtime._jobs


async def test_a_prepared_job_can_be_cancelled_or_expires() -> None:
    times = RuntimeTimes(ping_interval_s=0.01, start_timeout_s=0.05)
    async with running(command(), times) as runtime:
        first = await runtime.prepare(chat(), output_tokens_max=5, seed=0)
        runtime.cancel(first.number)
        second = await runtime.prepare(chat(), output_tokens_max=5, seed=0)
        await until(lambda: not runtime._jobs)
        for number in (first.number, second.number):
            sink = Sink()
            runtime.start(number, sink)
            assert sink.outcome == "failed"
        assert (await begin(runtime)).ends == []


async def test_a_failing_job_fails_alone() -> None:
    async with running(command(fail_after=5)) as runtime:
        sink = await begin(runtime)
        short = await begin(runtime, tokens_max=4)
        await sink.ended.wait()
        await short.ended.wait()
        assert (len(sink.tokens), sink.outcome) == (5, "failed")
        assert short.outcome == "length"
        assert runtime.ready


async def test_killed_runtime_fails_its_jobs_and_comes_back() -> None:
    async with running(command(tokens=100_000, delay_ms=1)) as runtime:
        sinks = [await begin(runtime, tokens_max=1000) for _ in range(8)]
        for sink in sinks:
            await sink.first.wait()
        prepared = await runtime.prepare(chat(), output_tokens_max=5, seed=0)
        assert runtime.pid is not None
        os.kill(runtime.pid, signal.SIGKILL)
        for sink in sinks:
            await sink.ended.wait()
            assert sink.outcome == "failed"
        with pytest.raises(RuntimeUnavailableError):
            await runtime.prepare(chat(), output_tokens_max=5, seed=0)
        await until_ready(runtime, 1)
        late = Sink()
        runtime.start(prepared.number, late)
        assert late.outcome == "failed"
        sink = await begin(runtime, tokens_max=5)
        await sink.ended.wait()
        assert sink.outcome == "length"


async def test_a_crash_while_preparing_is_unavailable() -> None:
    async with running(command(tokens=5, crash_after=3)) as runtime:
        sink = await begin(runtime)
        await sink.ended.wait()
        assert sink.outcome == "failed"
        with pytest.raises(RuntimeUnavailableError):
            await runtime.self_test()


@pytest.mark.parametrize("way", ["inside", "stopped"])
async def test_a_hanging_runtime_is_replaced(way: str) -> None:
    times = RuntimeTimes(ping_interval_s=0.02, silence_s_max=0.5, backoff_s_min=0.01)
    words = command(tokens=100_000, delay_ms=1, **({"hang_after": 3} if way == "inside" else {}))
    async with running(words, times) as runtime:
        sink = await begin(runtime, tokens_max=1000)
        await sink.first.wait()
        if way == "stopped":
            assert runtime.pid is not None
            os.kill(runtime.pid, signal.SIGSTOP)
        await sink.ended.wait()
        assert sink.outcome == "failed"
        await until_ready(runtime, 1)


async def test_stats_arrive() -> None:
    async with running(command(tokens=20, slots=3)) as runtime:
        await (await begin(runtime)).ended.wait()
        await until(lambda: runtime.stats.output_tokens == 20)
        assert runtime.stats.slots == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (command(start_failure="the model is no good"), "the model is no good"),
        ((sys.executable, "-c", "import sys; sys.exit(3)"), "status 3"),
        ((sys.executable, "-c", "print('hello ' * 1000)"), "protocol"),
        (("/does/not/exist",), "cannot start /does/not/exist"),
    ],
)
async def test_a_first_start_that_fails_says_why(words: tuple[str, ...], reason: str) -> None:
    with trio.fail_after(HANG_GUARD_S), pytest.raises(RuntimeStartError, match=reason):
        await RuntimeProcess(words, times=FAST).run()
    assert psutil.Process().children() == []


async def test_a_start_that_takes_too_long() -> None:
    words = (sys.executable, "-c", "import time; time.sleep(1000)")
    times = RuntimeTimes(ready_timeout_s=0.2)
    with trio.fail_after(HANG_GUARD_S), pytest.raises(RuntimeStartError, match="not ready"):
        await RuntimeProcess(words, times=times).run()


async def test_not_ready_means_unavailable() -> None:
    runtime = RuntimeProcess(command())
    with pytest.raises(RuntimeUnavailableError):
        await runtime.prepare(chat(), output_tokens_max=5, seed=0)
    with pytest.raises(RuntimeUnavailableError):
        _ = runtime.facts
    runtime.cancel(1)


async def test_the_child_leaves_when_its_agent_dies_in_the_middle_of_a_step() -> None:
    words = command(tokens=5, hang_after=2)
    process = await trio.lowlevel.open_process(list(words), stdin=-1, stdout=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    with trio.fail_after(HANG_GUARD_S):
        await process.stdout.receive_some(1)
        process.send_signal(signal.SIGINT)
        await process.stdin.aclose()
        assert await process.wait() == 0
        await process.stdout.aclose()


async def test_the_demo_model_answers(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log_file:
        runtime = RuntimeProcess(
            runtime_command(MODEL, slots=2, threads=1), log_file=log_file, times=FAST
        )
        with trio.fail_after(HANG_GUARD_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(runtime.run)
                assert runtime.facts.context_tokens == 1024
                await runtime.self_test()
                job = await runtime.prepare(
                    chat("What is the capital of France?"), output_tokens_max=3, seed=1
                )
                runtime.cancel(job.number)
                assert job.work.build.startswith("llama-cpp-python ")
                assert job.work.mode == "reproducible"
                applied = SamplingSettings(temperature=0.0)
                assert job.work.sampling_hash == sampling_digest(applied, ())
                sink = await begin(runtime, chat("What is the capital of France?"))
                await sink.ended.wait()
                assert (sink.text, sink.outcome) == ("The capital of France is Paris.", "stop")
                nursery.cancel_scope.cancel()
    assert "France" not in (tmp_path / "log").read_text()


async def test_a_missing_model_is_named(tmp_path: Path) -> None:
    words = runtime_command(tmp_path / "nothing.gguf", slots=2)
    with trio.fail_after(HANG_GUARD_S), pytest.raises(RuntimeStartError, match=r"nothing\.gguf"):
        await RuntimeProcess(words, times=FAST).run()


def test_an_engine_whose_steps_come_does_not_hang() -> None:
    """Pings wait while a long prompt is read; a reader that answers says nothing of the engine."""
    runtime = RuntimeProcess(command())
    runtime._silent_s = 7.0
    runtime._deliver([Rejected(1, "busy", "no")])
    assert runtime._silent_s == 7.0
    runtime._deliver([Step(())])
    assert (runtime._silent_s, runtime._longest_silence_s) == (0.0, 7.0)
