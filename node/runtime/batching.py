"""Owns continuous batching: which tokens of which jobs go into the next step, and what comes of it.

Theory of operation. Each running job has a slot: one sequence of the model's cache. Every step
makes one batch: the last token of each job that generates, and a share of the prompt of each job
that does not yet, bounded so that a long prompt does not stall the others. Jobs join and leave at
any step. What a job leaves in its slot's cache stays until the slot is needed, and is used again
by a job of the same scope whose prompt begins alike. A scope is one account at one gateway: across
accounts the time to the first token would tell what others asked. A job without a scope leaves
nothing. What a running job has is copied in the same way; a job whose prompt begins like one that
is being computed waits for that, so that the choices of one request compute their prompt once.
Keys and values do not depend on how a prompt was divided into steps (reproducible mode),
so reuse changes no answer.

Resumed tokens stand behind the prompt and go through the sampler and the text stream without
being emitted; since the draw depends on (seed, position) only, the output continues as if it had
never been interrupted.

This file knows the rules and no library: the model is behind `node.runtime.model.Model`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from node.errors import NoRoomError, RuntimeRefusedError
from node.limits import (
    CACHE_COPY_TOKENS_MIN,
    CACHE_REUSE_TOKENS_MIN,
)
from node.runtime.engine import (
    End,
    EngineFacts,
    EngineJob,
    EngineStats,
    JobRequest,
    Output,
    Reuse,
    StepResult,
)
from node.runtime.model import Chunk, Model, Sampler
from node.runtime.prefixes import common_length
from node.runtime.sampling import read_request
from node.runtime.sampling_digest import sampling_digest
from node.runtime.speed import Speed
from node.runtime.text_stream import TextStream
from p2p.logprob_messages import TokenLogprob


@dataclass(slots=True)
class Job:
    """One job from preparation to its end: `tokens` are all so far, `uncached` those of them
    that the cache does not have yet. `top_logprobs`: as in the request."""

    number: int
    input_tokens: int
    output_tokens_max: int
    tokens: list[int]
    uncached: list[int]
    scope: bytes
    produced: int
    sampler: Sampler
    stream: TextStream
    sampling_hash: bytes = b""
    top_logprobs: int | None = None
    slot: int = -1
    position: int = 0
    cancelled: bool = False
    put_back: bool = False

    @property
    def reading(self) -> bool:
        """Whether its prompt is still being computed."""
        return len(self.uncached) > 1

    def shared_with(self, job: Job) -> int:
        """How many tokens another job can use of what this one has in the cache, or will have when
        its prompt is computed; the other's last one is computed in any case."""
        if self.scope != job.scope:
            return 0
        known = len(self.tokens) if self.reading else self.position
        return min(common_length(self.tokens, job.tokens), known, len(job.tokens) - 1)


@dataclass(frozen=True, slots=True)
class _Leftover:
    """What an ended job left in its slot's cache."""

    scope: bytes
    tokens: list[int]

    def shared_with(self, job: Job) -> int:
        """How many tokens a job can use of it; its last one is computed in any case."""
        if self.scope != job.scope:
            return 0
        return min(common_length(self.tokens, job.tokens), len(job.tokens) - 1)


@dataclass(slots=True)
class BatchingEngine:
    """The engine port on top of a `Model`."""

    model: Model
    clock_s: Callable[[], float] = time.perf_counter
    _running: dict[int, Job] = field(default_factory=dict)
    _waiting: deque[Job] = field(default_factory=deque)
    _free_slots: set[int] = field(init=False)
    _leftovers: dict[int, _Leftover] = field(default_factory=dict)
    _stats: EngineStats = field(default_factory=EngineStats)
    _speed: Speed = field(default_factory=Speed)

    def __post_init__(self) -> None:
        self._free_slots = set(range(self.model.facts.slots))

    @property
    def facts(self) -> EngineFacts:
        """What was loaded, and how."""
        return self.model.facts

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting)

    def prepare(self, request: JobRequest) -> Job:
        """Validate, render and tokenise; replay what another node produced.

        Raises: RuntimeRefusedError `bad_request`, `unsupported` or `context_length_exceeded`.
        """
        chat = read_request(request.request)
        rendered = self.model.template.render(chat.messages, chat.tools, chat.day)
        prompt = self.model.tokenize(rendered)
        context = self.facts.context_tokens
        if not prompt:
            raise RuntimeRefusedError("bad_request", "the prompt is empty")
        if len(prompt) >= context:
            raise RuntimeRefusedError(
                "context_length_exceeded",
                f"the prompt has {len(prompt)} tokens; this model's context has {context}, "
                "of which at least one must be left for the answer",
                input_tokens=len(prompt),
                context_tokens=context,
            )
        output_max = min(request.output_tokens_max, context - len(prompt))
        if chat.output_tokens_max is not None:
            output_max = min(output_max, chat.output_tokens_max)
        if output_max < 1:
            raise RuntimeRefusedError("bad_request", "at least one output token must be allowed")
        if len(request.resume_tokens) > output_max:
            raise RuntimeRefusedError(
                "bad_request", f"more than {output_max} tokens cannot be resumed for this job"
            )
        tokens = prompt + list(request.resume_tokens)
        job = Job(
            number=request.number,
            input_tokens=len(prompt),
            output_tokens_max=output_max,
            tokens=tokens,
            uncached=list(tokens),
            scope=request.cache_scope,
            produced=len(request.resume_tokens),
            sampler=self.model.new_sampler(chat.sampling, request.seed),
            stream=TextStream(chat.stop_strings),
            sampling_hash=sampling_digest(chat.sampling, chat.stop_strings),
            top_logprobs=chat.top_logprobs,
        )
        self._replay(job, request.resume_tokens)
        return job

    def _replay(self, job: Job, tokens: Sequence[int]) -> None:
        for token in tokens:
            valid = 0 <= token < self.facts.vocabulary_size and not self.model.is_end(token)
            if not valid or job.stream.stopped or not job.sampler.replay(token):
                job.sampler.close()
                raise RuntimeRefusedError(
                    "bad_request", "the tokens to resume cannot be this job's output"
                )
            job.stream.feed(self.model.piece(token))

    def discard(self, job: EngineJob) -> None:
        """Free a prepared job that was never started."""
        assert isinstance(job, Job)
        job.sampler.close()

    def start(self, job: EngineJob) -> None:
        """Let a prepared job join at the next step."""
        assert isinstance(job, Job)
        self._waiting.append(job)

    def cancel(self, number: int) -> None:
        """End a job at the next step; unknown numbers are ignored."""
        for job in (*self._running.values(), *self._waiting):
            if job.number == number:
                job.cancelled = True

    def stats(self) -> EngineStats:
        """Give the counters."""
        self._stats.running = len(self._running)
        self._stats.waiting = len(self._waiting)
        self._stats.tokens_per_second = self._speed.tokens_per_second
        return self._stats

    def step(self) -> StepResult:
        """Advance everything that runs by one batch."""
        result = StepResult()
        self._drop_cancelled(result)
        self._place(result)
        planned = self._plan()
        if not planned:
            return result
        started_s = self.clock_s()
        try:
            rows = self._decode(planned)
        except (RuntimeError, NoRoomError) as error:
            for job, _ in planned:
                self._end(job, "failed", str(error), result)
            return result
        before = self._stats.output_tokens
        for (job, chunk), row in zip(planned, rows, strict=True):
            self._advance(job, chunk, row, result)
        self._stats.steps += 1
        self._speed.add(self._stats.output_tokens - before, self.clock_s() - started_s)
        return result

    def _decode(self, planned: list[tuple[Job, Chunk]]) -> list[int]:
        """Compute what is planned. Where the cache that all share has no room, what ended jobs left
        goes first; then the youngest job waits and is computed anew later (it is taken from
        `planned`). Raises: NoRoomError if there is none for one job alone; RuntimeError."""
        while True:
            try:
                return self.model.decode([chunk for _, chunk in planned])
            except NoRoomError:
                if self._leftovers:
                    oldest = next(iter(self._leftovers))
                    del self._leftovers[oldest]
                    self.model.trim(oldest, 0)
                elif len(planned) > 1:
                    youngest = max(planned, key=lambda item: item[0].number)
                    planned.remove(youngest)
                    self._put_back(youngest[0])
                else:
                    raise

    def _put_back(self, job: Job) -> None:
        self.model.trim(job.slot, 0)
        del self._running[job.slot]
        self._free_slots.add(job.slot)
        job.slot, job.position, job.uncached = -1, 0, list(job.tokens)
        job.put_back = True
        self._waiting.appendleft(job)

    def _drop_cancelled(self, result: StepResult) -> None:
        for job in [job for job in self._running.values() if job.cancelled]:
            self._end(job, "cancelled", "", result)
        for job in [job for job in self._waiting if job.cancelled]:
            self._waiting.remove(job)
            self._end(job, "cancelled", "", result)

    def _place(self, result: StepResult) -> None:
        """Give waiting jobs a free slot; each has room for a whole context."""
        for job in list(self._waiting):
            if not self._free_slots:
                break
            if job.stream.stopped:
                self._end(job, "stop", "", result)
            elif job.produced >= job.output_tokens_max:
                self._end(job, "length", "", result)
            elif not self._take_slot(job, result):
                continue  # it waits for another job's prompt; those behind it need not
            self._waiting.remove(job)

    def _take_slot(self, job: Job, result: StepResult) -> bool:
        """Choose the slot whose cache helps most, or else the lowest that holds nothing, or else
        the one whose cache is oldest. False: what helps most is still being computed.

        llama.cpp computes sequences together when their numbers follow each other without a gap.
        """
        shared = {
            slot: leftover.shared_with(job)
            for slot, leftover in self._leftovers.items()
            if job.scope
        }
        slot = max(shared, key=shared.__getitem__, default=-1)
        kept = shared.get(slot, 0)
        source, copied = self._source_for(job, max(kept, CACHE_COPY_TOKENS_MIN - 1))
        if source is not None and source.position < copied:
            return False
        if source is not None or kept < CACHE_REUSE_TOKENS_MIN:
            empty = self._free_slots - self._leftovers.keys()
            slot, kept = min(empty) if empty else next(iter(self._leftovers)), 0
        if self._leftovers.pop(slot, None) is not None and not self.model.trim(slot, kept):
            kept = 0
        if source is not None:
            kept = copied if self.model.copy(source.slot, slot, copied) else 0
        self._free_slots.remove(slot)
        job.slot, job.position = slot, kept
        del job.uncached[:kept]
        self._running[slot] = job
        if kept and not job.put_back:
            self._stats.cached_tokens += kept
            result.reuses.append(Reuse(job.number, min(kept, job.input_tokens)))
        return True

    def _source_for(self, job: Job, better_than: int) -> tuple[Job | None, int]:
        """The running job whose cache, as it is or will be, helps most, and by how many tokens;
        None if none does."""
        best = None
        for other in self._running.values() if job.scope else ():
            length = other.shared_with(job)
            if length > better_than:
                best, better_than = other, length
        return best, better_than

    def _plan(self) -> list[tuple[Job, Chunk]]:
        """Take one token of each generating job and equal shares of the prompts of the others."""
        jobs = sorted(self._running.values(), key=lambda job: len(job.uncached))
        budget = self.facts.prefill_tokens_per_step
        planned = []
        for index, job in enumerate(jobs):
            size = 1
            if len(job.uncached) > 1:
                size = min(len(job.uncached), max(1, budget // (len(jobs) - index)))
                budget -= size
            tokens = job.uncached[:size]
            sampled = size == len(job.uncached)
            planned.append((job, Chunk(job.slot, job.position, tokens, sampled)))
        planned.sort(key=lambda item: item[1].sequence)
        return planned

    def _advance(self, job: Job, chunk: Chunk, row: int, result: StepResult) -> None:
        job.position += len(chunk.tokens)
        if len(job.uncached) > 1:
            self._stats.prefill_tokens += len(chunk.tokens)
        if not chunk.sampled:
            del job.uncached[: len(chunk.tokens)]
            return
        token = job.sampler.sample(row, job.produced)
        if token < 0:
            return self._end(job, "failed", "no token satisfies the request", result)
        if self.model.is_end(token):
            return self._end(job, "stop", "", result)
        logprobs: tuple[TokenLogprob, ...] = ()
        if job.top_logprobs is not None:
            logprobs = (self.model.logprob(row, token, job.top_logprobs),)
        job.uncached = [token]
        job.tokens.append(token)
        job.produced += 1
        self._stats.output_tokens += 1
        text = job.stream.feed(self.model.piece(token))
        finished = job.stream.stopped or job.produced >= job.output_tokens_max
        if finished and not job.stream.stopped:
            text += job.stream.finish()
            result.ends.append(End(job.number, "length"))
            self._release(job)
        elif finished:
            result.ends.append(End(job.number, "stop"))
            self._release(job)
        result.outputs.append(Output(job.number, (token,), text, logprobs))

    def _end(self, job: Job, outcome: str, detail: str, result: StepResult) -> None:
        """End a job that gets no more tokens; text that was held back belongs to the answer."""
        text = job.stream.finish() if outcome in ("stop", "length") else ""
        if text:
            result.outputs.append(Output(job.number, (), text))
        result.ends.append(End(job.number, outcome, detail))
        self._release(job)

    def _release(self, job: Job) -> None:
        job.sampler.close()
        if job.slot < 0:
            return
        if job.scope:
            # The newest is last: the oldest is given up first.
            self._leftovers[job.slot] = _Leftover(job.scope, job.tokens[: job.position])
        else:
            self.model.trim(job.slot, 0)
        del self._running[job.slot]
        self._free_slots.add(job.slot)
        job.slot = -1
