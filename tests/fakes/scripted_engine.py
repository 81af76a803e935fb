"""Owns an engine without a model: a fixed answer, with faults on demand."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from node.errors import RuntimeRefusedError
from node.runtime.engine import (
    End,
    EngineFacts,
    EngineJob,
    EngineStats,
    JobRequest,
    Output,
    StepResult,
)
from node.runtime.sampling import read_request
from node.runtime.text_stream import TextStream
from p2p.logprob_messages import TokenLogprob


@dataclass(frozen=True)
class Script:
    """What the engine does. Token k (from 0) of every answer has ID k + 1 and the text `word<k> `.

    `fail_after`, `hang_after`, `crash_after`: number of tokens of a job after which it ends as
    failed, the whole engine hangs, or the process kills itself; None: never. `tokens_per_step` 0:
    all at once if there is no delay, else one.
    """

    tokens: int = 20
    delay_ms: float = 0.0
    tokens_per_step: int = 0
    slots: int = 4096 // 16
    context_tokens: int = 1024
    fail_after: int | None = None
    hang_after: int | None = None
    crash_after: int | None = None


@dataclass
class ScriptedJob:
    number: int
    input_tokens: int
    output_tokens_max: int
    sampling_hash: bytes = field(default=b"", kw_only=True)
    produced: int
    stream: TextStream
    wants_logprobs: bool = False
    cancelled: bool = False


@dataclass
class ScriptedEngine:
    """The engine port with a script (see `Script`)."""

    script: Script = field(default_factory=Script)
    _jobs: dict[int, ScriptedJob] = field(default_factory=dict)
    _stats: EngineStats = field(default_factory=EngineStats)

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(
            context_tokens=self.script.context_tokens,
            slots=self.script.slots,
            model_description="scripted",
            build_info="scripted engine without a model",
            threads=1,
            vocabulary_size=100_000,
            reproducible=True,
        )

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def prepare(self, request: JobRequest) -> ScriptedJob:
        chat = read_request(request.request)
        input_tokens = count_words(chat.messages)
        context = self.script.context_tokens
        if input_tokens >= context:
            raise RuntimeRefusedError(
                "context_length_exceeded",
                f"the prompt has {input_tokens} tokens; this model's context has {context}",
                input_tokens=input_tokens,
                context_tokens=context,
            )
        output_max = min(request.output_tokens_max, context - input_tokens)
        if chat.output_tokens_max is not None:
            output_max = min(output_max, chat.output_tokens_max)
        job = ScriptedJob(
            number=request.number,
            input_tokens=input_tokens,
            output_tokens_max=output_max,
            produced=len(request.resume_tokens),
            stream=TextStream(chat.stop_strings),
            wants_logprobs=chat.top_logprobs is not None,
        )
        for token in request.resume_tokens:
            job.stream.feed(piece(token))
        return job

    def discard(self, job: EngineJob) -> None:
        pass

    def start(self, job: EngineJob) -> None:
        assert isinstance(job, ScriptedJob)
        self._jobs[job.number] = job

    def cancel(self, number: int) -> None:
        if number in self._jobs:
            self._jobs[number].cancelled = True

    def stats(self) -> EngineStats:
        self._stats.running = min(len(self._jobs), self.script.slots)
        self._stats.waiting = len(self._jobs) - self._stats.running
        return self._stats

    def step(self) -> StepResult:
        if self.script.delay_ms:
            time.sleep(self.script.delay_ms / 1000)
        result = StepResult()
        for job in list(self._jobs.values())[: self.script.slots]:
            self._advance(job, result)
        for job in [job for job in self._jobs.values() if job.cancelled]:
            self._end(job, "cancelled", result)
        self._stats.steps += 1
        return result

    def _advance(self, job: ScriptedJob, result: StepResult) -> None:
        if job.cancelled:
            return self._end(job, "cancelled", result)
        script = self.script
        count = script.tokens_per_step or (1 if script.delay_ms else script.tokens)
        tokens: list[int] = []
        text = ""
        outcome = None
        while len(tokens) < count and outcome is None:
            if job.produced < min(script.tokens, job.output_tokens_max):
                self._misbehave(job)
                if job.produced == script.fail_after:
                    outcome = "failed"
                    break
                token = job.produced + 1
                tokens.append(token)
                job.produced += 1
                text += job.stream.feed(piece(token))
            if job.stream.stopped or job.produced >= script.tokens:
                outcome = "stop"
            elif job.produced >= job.output_tokens_max:
                outcome = "length"
        if outcome in ("stop", "length"):
            text += job.stream.finish()
        self._stats.output_tokens += len(tokens)
        if tokens or text:
            logprobs = (TokenLogprob(piece(token), -token / 4) for token in tokens)
            given = tuple(logprobs) if job.wants_logprobs else ()
            result.outputs.append(Output(job.number, tuple(tokens), text, given))
        if outcome:
            self._end(job, outcome, result)

    def _misbehave(self, job: ScriptedJob) -> None:
        if job.produced == self.script.crash_after:
            os.kill(os.getpid(), signal.SIGKILL)
        while job.produced == self.script.hang_after:
            time.sleep(3600)

    def _end(self, job: ScriptedJob, outcome: str, result: StepResult) -> None:
        detail = "the script says so" if outcome == "failed" else ""
        result.ends.append(End(job.number, outcome, detail))
        del self._jobs[job.number]


def piece(token: int) -> bytes:
    """The text of a token of the script."""
    return f"word{token - 1} ".encode()


def answer_text(tokens: int = 20) -> str:
    """The whole answer of a script."""
    return b"".join(piece(token) for token in range(1, tokens + 1)).decode()


def count_words(messages: Any) -> int:
    """The number of input tokens: one for each message and one for each word."""
    return sum(1 + len(message["content"].split()) for message in messages)
