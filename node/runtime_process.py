"""Owns the agent's side of the runtime process: starts it, talks to it, watches it, restarts it.

Theory of operation. `run` keeps one child alive at a time. A reader delivers each frame of the
child to the jobs' sinks directly; a writer sends everything that is waiting in one go; a watcher
pings and ends a child that has been silent for too long. When a child ends for any reason, each of
its jobs ends as `failed`, and a new child is started after a pause that doubles while children keep
dying early. Numbers of jobs are never used twice, so nothing of an old child can be taken for
something of a new one.

The child gets a small environment of its own, a process group of its own (Ctrl-C is the agent's),
and exits by itself when its stdin ends, which the operating system guarantees even if the agent is
killed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

import trio

from node.agent.runtime_port import JobSink, PreparedJob, WorkFacts
from node.errors import RuntimeRefusedError, RuntimeStartError, RuntimeUnavailableError
from node.limits import (
    RUNTIME_BACKOFF_S_MAX,
    RUNTIME_BACKOFF_S_MIN,
    RUNTIME_HEALTHY_S,
    RUNTIME_JOBS_MAX,
    RUNTIME_PING_INTERVAL_S,
    RUNTIME_PREPARE_TIMEOUT_S,
    RUNTIME_READY_TIMEOUT_S,
    RUNTIME_SELF_TEST_TIMEOUT_S,
    RUNTIME_SILENCE_S_MAX,
    RUNTIME_SILENCE_S_MIN,
    RUNTIME_START_TIMEOUT_S,
    RUNTIME_STOP_TIMEOUT_S,
)
from node.runtime_child import Outbox, RuntimeChild
from node.runtime_command import runtime_command
from node.runtime_facts import log_facts
from node.runtime_messages import (
    Cached,
    Cancel,
    Ended,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Rejected,
    RuntimeFacts,
    Start,
    Stats,
    Step,
)
from node.self_test import SelfTestAnswer, self_test_request, self_test_task
from p2p.codec import Message
from p2p.errors import MalformedError

__all__ = [
    "JobSink",
    "PreparedJob",
    "RuntimeProcess",
    "RuntimeTimes",
    "runtime_command",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeTimes:
    """The periods of supervision (reasons in `node.limits`)."""

    ready_timeout_s: float = RUNTIME_READY_TIMEOUT_S
    ping_interval_s: float = RUNTIME_PING_INTERVAL_S
    silence_s_max: float = RUNTIME_SILENCE_S_MAX
    prepare_timeout_s: float = RUNTIME_PREPARE_TIMEOUT_S
    start_timeout_s: float = RUNTIME_START_TIMEOUT_S
    stop_timeout_s: float = RUNTIME_STOP_TIMEOUT_S
    backoff_s_min: float = RUNTIME_BACKOFF_S_MIN
    backoff_s_max: float = RUNTIME_BACKOFF_S_MAX
    healthy_s: float = RUNTIME_HEALTHY_S


@dataclass(slots=True)
class _Job:
    """One job of the current child, from `prepare` on. `answer` comes before `answered` is set."""

    answered: trio.Event = field(default_factory=trio.Event)
    answer: Prepared | Rejected | None = None
    prepared_at_s: float = math.inf
    sink: JobSink | None = None


class RuntimeProcess:
    """Keeps a runtime process running and gives it jobs."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log_file: IO[bytes] | None = None,
        times: RuntimeTimes | None = None,
        before_restart: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """Prepare to run `command`; its stderr goes to `log_file`, or to the agent's own stderr.

        `before_restart` is awaited before each further child; what it raises ends `run`.
        """
        self._command = tuple(command)
        self._before_restart = before_restart
        self._log_file = log_file
        self._times = times or RuntimeTimes()
        self._jobs: dict[int, _Job] = {}
        self._number_next = 1
        self._outbox = Outbox()
        self._facts: RuntimeFacts | None = None
        self._ready = False
        self._silent_s = 0.0
        self._longest_silence_s = 0.0
        self._proved = False
        self._step_callbacks: list[Callable[[], None]] = []
        self.stats = Stats(0, 0, 0, 0.0, 0, 0, 0)
        self.pid: int | None = None
        self.restarts = 0

    @property
    def ready(self) -> bool:
        """Whether a child with a loaded model is there and answers."""
        return self._ready and self._silent_s <= self._silence_s_max() / 2

    @property
    def facts(self) -> RuntimeFacts:
        """What the (latest) child said about itself.

        Raises: RuntimeUnavailableError before the first.
        """
        if self._facts is None:
            raise RuntimeUnavailableError("the runtime has not started yet")
        return self._facts

    def on_step_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` once after all output and ends that arrived together were delivered.

        Usually that is one step of the engine; more, if the agent was busy meanwhile.
        """
        self._step_callbacks.append(callback)

    # --- jobs ---------------------------------------------------------------------------------
    async def prepare(
        self,
        request: bytes,
        *,
        output_tokens_max: int,
        seed: int,
        resume_tokens: tuple[int, ...] = (),
        cache_scope: bytes = b"",
        task: str = "chat",
    ) -> PreparedJob:
        """Check a request and count its input, without using the model.

        A prepared job must be started or cancelled; after 30 s it is dropped.
        Raises: RuntimeRefusedError (code, reason) or RuntimeUnavailableError.
        """
        if not self._ready:
            raise RuntimeUnavailableError("the runtime is not ready")
        if len(self._jobs) >= RUNTIME_JOBS_MAX:
            raise RuntimeRefusedError("busy", f"{RUNTIME_JOBS_MAX} jobs are in the runtime already")
        number = self._number_next
        self._number_next += 1
        job = self._jobs[number] = _Job()
        self._outbox.put(
            Prepare(number, request, output_tokens_max, seed, resume_tokens, cache_scope, task)
        )
        try:
            with trio.fail_after(self._times.prepare_timeout_s):
                await job.answered.wait()
        except trio.TooSlowError:
            raise RuntimeUnavailableError("the runtime did not answer in time") from None
        finally:
            if job.answer is None:
                self.cancel(number)
            elif isinstance(job.answer, Rejected):
                self._jobs.pop(number, None)
        return self._prepared(number, job)

    def _prepared(self, number: int, job: _Job) -> PreparedJob:
        answer = job.answer
        if answer is None:
            raise RuntimeUnavailableError("the runtime stopped")
        if isinstance(answer, Rejected):
            raise RuntimeRefusedError(
                answer.code,
                answer.reason,
                input_tokens=answer.input_tokens,
                context_tokens=answer.context_tokens,
            )
        facts = self.facts
        return PreparedJob(
            number,
            answer.input_tokens,
            answer.output_tokens_max,
            WorkFacts(facts.build, facts.mode, answer.sampling_hash),
        )

    def start(self, number: int, sink: JobSink) -> None:
        """Run a prepared job; its output goes to `sink`.

        If the job is no longer there (the child died, 30 s passed), the sink hears `failed` at
        once.
        """
        job = self._jobs.get(number)
        if job is None or not isinstance(job.answer, Prepared):
            sink.on_end("failed", "the job is no longer prepared")
            return
        assert job.sink is None, "a job is started once"
        job.sink = sink
        self._outbox.put(Start(number))

    def cancel(self, number: int) -> None:
        """Stop a job. A started one hears `on_end("cancelled")` within a step; unknown: nothing."""
        job = self._jobs.get(number)
        if job is None:
            return
        if job.sink is None:
            del self._jobs[number]
        self._outbox.put(Cancel(number))

    async def self_test(self, timeout_s: float = RUNTIME_SELF_TEST_TIMEOUT_S) -> None:
        """Let the model answer a short question.

        Raises: RuntimeUnavailableError if it produces neither token nor vector in time;
            RuntimeRefusedError if it refuses the question.
        """
        task = self_test_task(self.facts.tasks)
        request = self_test_request(self.facts.context_tokens, task)
        job = await self.prepare(request, output_tokens_max=8, seed=0, task=task)
        sink = SelfTestAnswer()
        self.start(job.number, sink)
        with trio.move_on_after(timeout_s):
            await sink.ended.wait()
        self.cancel(job.number)
        if not sink.ended.is_set():
            raise RuntimeUnavailableError(f"the test inference took more than {timeout_s:g} s")
        if sink.tokens == 0:
            raise RuntimeUnavailableError(
                f"the test inference gave no token ({sink.outcome}: {sink.detail})"
            )
        self._proved = True

    # --- supervision --------------------------------------------------------------------------
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a child running until cancelled; started once the first one is ready.

        Raises: RuntimeStartError if the first child does not become ready; what `before_restart`
            raises.
        """
        pause_s = self._times.backoff_s_min
        while True:
            ready_at_s = math.inf
            try:
                async with RuntimeChild(
                    self._command, self._log_file, self._times.stop_timeout_s
                ) as child:
                    self._facts = await child.wait_ready(self._times.ready_timeout_s)
                    self.pid = child.pid
                    self._ready = True
                    log_facts(self._facts)
                    ready_at_s = trio.current_time()
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await self._serve(child)
            except RuntimeStartError as error:
                if self._facts is None:
                    raise
                _log.error("the runtime does not start: %s", error)
            finally:
                self._child_gone()
            if trio.current_time() - ready_at_s >= self._times.healthy_s:
                pause_s = self._times.backoff_s_min
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._times.backoff_s_max)
            await self._before_restart()
            self.restarts += 1
            _log.warning("starting the runtime again (restart %d)", self.restarts)

    def _silence_s_max(self) -> float:
        """How long the child may be silent: long enough for several of its own longest steps.

        The test inference has shown it a whole chunk of prompt; before that nothing is known of
        its speed.
        """
        if not self._proved:
            return self._times.silence_s_max
        patience_s = max(RUNTIME_SILENCE_S_MIN, 4 * self._longest_silence_s)
        return min(self._times.silence_s_max, patience_s)

    def _child_gone(self) -> None:
        """End everything that the child had; sinks must not see a half-changed state."""
        self._ready = False
        self.pid = None
        self._outbox = Outbox()
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.answered.set()
            if job.sink is not None:
                job.sink.on_end("failed", "the runtime stopped")
        if jobs:
            self._step_done()

    async def _serve(self, child: RuntimeChild) -> None:
        """Talk to a ready child until it ends, breaks the protocol or falls silent."""
        self._silent_s = 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._outbox.run, child.write)
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                while (messages := await child.receive()) is not None:
                    self._deliver(messages)
            except MalformedError as error:
                _log.error("the runtime broke the protocol: %s", error)
            nursery.cancel_scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Ping; end the child when it is silent; drop prepared jobs that nobody started."""
        number = 0
        while True:
            number += 1
            self._outbox.put(Ping(number))
            await trio.sleep(self._times.ping_interval_s)
            # In rounds, not by the clock: if the agent itself was stopped, nobody was silent.
            self._silent_s += self._times.ping_interval_s
            if self._silent_s > self._silence_s_max():
                _log.error("the runtime hangs: nothing heard for %.1f s", self._silent_s)
                scope.cancel()
            now_s = trio.current_time()
            for late, job in list(self._jobs.items()):
                if job.sink is None and now_s - job.prepared_at_s > self._times.start_timeout_s:
                    self.cancel(late)

    def _deliver(self, messages: Sequence[Message]) -> None:
        """Hand messages on that came together, and tell once that there was output or an end."""
        for message in messages:
            self._deliver_one(message)
        # Not Prepared: what reads requests may be alive while the engine hangs, and the other way
        # round: an engine whose steps come is none that hangs, though pings wait for a long prompt.
        if any(isinstance(message, Step | Ended | Pong) for message in messages):
            self._longest_silence_s = max(self._longest_silence_s, self._silent_s)
            self._silent_s = 0.0
        if any(isinstance(message, Step | Ended) for message in messages):
            self._step_done()

    def _deliver_one(self, message: Message) -> None:
        if isinstance(message, Step):
            for item in message.items:
                job = self._jobs.get(item.number)
                if job is not None and job.sink is not None:
                    job.sink.on_output(item.token_ids, item.text, item.logprobs)
        elif isinstance(message, Cached):
            job = self._jobs.get(message.number)
            if job is not None and job.sink is not None:
                job.sink.on_cached(message.input_tokens)
        elif isinstance(message, Ended):
            job = self._jobs.pop(message.number, None)
            if job is not None and job.sink is not None:
                job.sink.on_end(message.outcome, message.detail)
        elif isinstance(message, Prepared | Rejected):
            job = self._jobs.get(message.number)
            if job is not None and job.answer is None:
                job.answer = message
                job.prepared_at_s = trio.current_time()
                job.answered.set()
        elif isinstance(message, Stats):
            self.stats = message

    def _step_done(self) -> None:
        for callback in self._step_callbacks:
            callback()
