"""Owns the jobs of an upstream server: the node's `Runtime` port over HTTP.

Theory of operation. `prepare` reads the request and bounds its input; the server is not asked yet,
because nothing may be spent before a voucher is there. `start` asks it as soon as one of `slots` is
free; its answer goes to the job's sink as it comes, all that came together at once. `cancel` closes
the request, at which servers stop generating. What the server refuses before it wrote anything ends
the job with the code of a refusal; a failure after that ends it for good, because nobody can go on
where a server stopped.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import trio

from node.agent.runtime_port import JobSink, PreparedJob
from node.errors import RuntimeRefusedError, RuntimeUnavailableError
from node.self_test import SelfTestAnswer, self_test_request
from node.upstream.answers import AnswerReader
from node.upstream.client import Body, UpstreamClient
from node.upstream.counting import AnswerCounts, PaceMeter
from node.upstream.errors import BrokenAnswerError, UpstreamError
from node.upstream.facts import Server, UpstreamFacts
from node.upstream.limits import (
    ANSWER_BYTES_MIN,
    ANSWER_BYTES_PER_TOKEN_MAX,
    CLOSE_TIMEOUT_S,
    JOBS_MAX,
    PREPARED_S_MAX,
    TEST_TIMEOUT_S,
)
from node.upstream.requests import ChatAsk, body_of, read_request
from node.upstream.sse import DONE, EventReader
from p2p.approved_models import ApprovedModel
from p2p.embeddings import CHAT
from p2p.job_messages import REFUSALS
from p2p.limits import OUTPUT_TOKENS_PER_MESSAGE_MAX
from p2p.unverified_usage import least_input, token_ids

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    ask: ChatAsk
    bound: int
    output_tokens_max: int
    seed: int
    cache_salt: str
    prepared_at_s: float
    sink: JobSink | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class UpstreamRuntime:
    """Runs jobs at one server, for one of its models."""

    def __init__(
        self,
        client: UpstreamClient,
        model: Callable[[], ApprovedModel | None],
        *,
        slots: int,
        image_urls: bool = False,
        log_reasons: bool = True,
        on_result: Callable[[UpstreamError | None], None] = lambda error: None,
    ) -> None:
        """`model`: as the network's configuration has it now; `on_result` hears how each job went
        at the server: None for well. `log_reasons`: write what the server said of a failed job,
        which may quote the request."""
        self.facts: UpstreamFacts | None = None
        self.slots = slots
        self.output_tokens = 0
        self.pace = PaceMeter()
        self._client = client
        self._model = model
        self._image_urls = image_urls
        self._log_reasons = log_reasons
        self._on_result = on_result
        self._free = trio.CapacityLimiter(slots)
        self._jobs: dict[int, _Job] = {}
        self._number = 0
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run started jobs until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            jobs, self._jobs = self._jobs, {}
            for job in jobs.values():
                if job.sink is not None:
                    job.sink.on_end("failed", "the node stops")

    def widen(self, slots: int) -> None:
        """Run so many jobs at once: what the server says it can."""
        self.slots = slots
        self._free.total_tokens = slots

    # --- the port -------------------------------------------------------------------------------
    async def prepare(
        self,
        request: bytes,
        *,
        output_tokens_max: int,
        seed: int,
        resume_tokens: tuple[int, ...] = (),
        cache_scope: bytes = b"",
        task: str = CHAT,
    ) -> PreparedJob:
        """Check a request and bound its input; the server is not asked yet.

        Raises: RuntimeRefusedError, RuntimeUnavailableError.
        """
        facts, model = self.facts, self._model()
        if facts is None or model is None:
            raise RuntimeUnavailableError("the server is not ready")
        if task != CHAT:
            raise RuntimeRefusedError("unsupported", f"Unverified models do no {task}.")
        if resume_tokens:
            raise RuntimeRefusedError("unsupported", "Unverified models cannot resume an answer.")
        if output_tokens_max < 1:
            raise RuntimeRefusedError("bad_request", "at least one output token must be allowed")
        self._forget_late()
        if len(self._jobs) >= JOBS_MAX:
            raise RuntimeRefusedError("busy", f"{JOBS_MAX} jobs are there already")
        ask = read_request(request, facts, image_urls=self._image_urls)
        context = min(facts.context_tokens or model.context_tokens, model.context_tokens)
        bound = ask.bound(model)
        least = least_input(ask.text_bytes, bound)
        if least >= context:
            raise RuntimeRefusedError(
                "context_length_exceeded",
                "the prompt does not fit the context",
                input_tokens=least,
                context_tokens=context,
            )
        self._number += 1
        # Without a scope nothing is shared: a salt that nobody else has.
        salt = (cache_scope or secrets.token_bytes(16)).hex()
        most = min(output_tokens_max, context - least)
        self._jobs[self._number] = _Job(ask, bound, most, seed, salt, trio.current_time())
        return PreparedJob(self._number, bound, most)

    def start(self, number: int, sink: JobSink) -> None:
        """Ask the server; its answer goes to `sink`."""
        job = self._jobs.get(number)
        if job is None or self._nursery is None:
            sink.on_end("failed", "the job is no longer prepared")
            return
        assert job.sink is None, "a job is started once"
        job.sink = sink
        self._nursery.start_soon(self._run_job, number, job, sink)

    def cancel(self, number: int) -> None:
        """Stop a job: its request is closed. A started one hears `cancelled`."""
        job = self._jobs.get(number)
        if job is None:
            return
        if job.sink is None:
            del self._jobs[number]
        job.scope.cancel()

    def _forget_late(self) -> None:
        late_s = trio.current_time() - PREPARED_S_MAX
        for number, job in list(self._jobs.items()):
            if job.sink is None and job.prepared_at_s < late_s:
                del self._jobs[number]

    # --- one job --------------------------------------------------------------------------------
    async def _run_job(self, number: int, job: _Job, sink: JobSink) -> None:
        outcome, detail = "cancelled", ""
        counts = AnswerCounts(
            input_bytes=job.ask.text_bytes,
            input_bound=job.bound,
            output_tokens_max=job.output_tokens_max,
        )
        with job.scope:
            async with self._free:
                self.pace.change(+1, trio.current_time())
                try:
                    outcome, detail = await self._ask(job, counts, sink), ""
                    self._on_result(None)
                except UpstreamError as error:
                    outcome, detail = self._failed(error, counts), error.reason
                except Exception:
                    # Ours: this job ends, the others go on. The trace holds no prompt.
                    log.exception("a job at the server failed")
                    outcome, detail = "failed", "an internal error of the node"
                finally:
                    self.pace.change(-1, trio.current_time())
        if self._jobs.pop(number, None) is not None:
            sink.on_end(outcome, detail)

    def _failed(self, error: UpstreamError, counts: AnswerCounts) -> str:
        """Note a failure; give the outcome that it makes of the job."""
        reason = error.reason if self._log_reasons else error.code
        log.info("a job failed at the server: %s", reason)
        self._on_result(error)
        return error.code if error.code in REFUSALS and not counts.tokens else "failed"

    async def _ask(self, job: _Job, counts: AnswerCounts, sink: JobSink) -> str:
        """Have the server answer; give the outcome. Raises: UpstreamError."""
        facts = self.facts
        if facts is None:
            raise UpstreamError("runtime", "the server is not ready")
        sink.on_input(counts.input_tokens)
        try:
            return await self._answer(job, facts, counts, sink, job.output_tokens_max)
        except UpstreamError as error:
            # vLLM refuses prompts that fit, if the longest answer would not; we count anyway.
            if error.code != "context_length_exceeded" or facts.server is not Server.VLLM:
                raise
            return await self._answer(job, facts, counts, sink, None)

    async def _answer(
        self,
        job: _Job,
        facts: UpstreamFacts,
        counts: AnswerCounts,
        sink: JobSink,
        output_tokens_max: int | None,
    ) -> str:
        question = body_of(
            job.ask,
            facts,
            output_tokens_max=output_tokens_max,
            seed=job.seed,
            cache_salt=job.cache_salt,
        )
        reader = AnswerReader(with_thoughts=not job.ask.wants_json)
        async with self._client.answering(question) as body:
            bytes_max = ANSWER_BYTES_MIN + ANSWER_BYTES_PER_TOKEN_MAX * job.output_tokens_max
            if body.is_stream:
                finish = await self._stream(body, bytes_max, reader, counts, sink)
            else:
                finish = await self._whole(body, bytes_max, reader, counts, sink)
        new = counts.finish(reader.usage)
        sink.on_input(counts.input_tokens)
        while new > 0:
            part = min(new, OUTPUT_TOKENS_PER_MESSAGE_MAX)
            self._give(sink, part, "")
            new -= part
        return finish

    async def _stream(
        self,
        body: Body,
        bytes_max: int,
        reader: AnswerReader,
        counts: AnswerCounts,
        sink: JobSink,
    ) -> str:
        events = EventReader(bytes_max)
        while (part := await body.next()) is not None:
            tokens, texts = 0, []
            done = cut = False
            try:
                for event in events.feed(part):
                    done = event.strip() == DONE
                    text = "" if done else reader.feed(event)
                    cut = bool(text) and counts.full
                    if done or cut:
                        break
                    if text:
                        tokens += counts.add(text)
                        texts.append(text)
            finally:
                self._give(sink, tokens, "".join(texts))
            if texts:
                body.text_began()
            if done:
                with trio.move_on_after(CLOSE_TIMEOUT_S):
                    await body.next()  # its end: the connection can be used again
                return reader.finish or "stop"
            if cut:
                return "length"
        if reader.finish is None:
            raise BrokenAnswerError("broke off")
        return reader.finish

    async def _whole(
        self,
        body: Body,
        bytes_max: int,
        reader: AnswerReader,
        counts: AnswerCounts,
        sink: JobSink,
    ) -> str:
        text = reader.feed((await body.whole(bytes_max)).decode("utf-8", "replace"))
        if reader.finish is None:
            raise BrokenAnswerError("has no end")
        if text:
            self._give(sink, counts.add(text), text)
        return reader.finish

    def _give(self, sink: JobSink, tokens: int, text: str) -> None:
        if tokens or text:
            self.output_tokens += tokens
            self.pace.add(tokens)
            sink.on_output(token_ids(tokens), text)

    # --- the test inference ---------------------------------------------------------------------
    async def self_test(self) -> None:
        """Let the server answer a short question, in the richest form that it takes.

        Raises: UpstreamError if it gives no text; RuntimeRefusedError.
        """
        assert self.facts is not None
        tried = self.facts
        for changes in ({}, {"stream_usage": False}, {"streams": False}):
            self.facts = replace(tried, **changes)  # type: ignore[arg-type]
            answer = await self._test()
            if answer.tokens:
                return
            if answer.outcome not in ("bad_request", "unsupported"):
                break
        code = answer.outcome if answer.outcome in REFUSALS else "failed"
        reason = f"the test inference gave no text ({answer.outcome}: {answer.detail})"
        raise UpstreamError(code, reason, sick=True)

    async def _test(self) -> SelfTestAnswer:
        assert self.facts is not None
        request = self_test_request(self.facts.context_tokens or 1024)
        job = await self.prepare(request, output_tokens_max=16, seed=0)
        answer = SelfTestAnswer()
        self.start(job.number, answer)
        with trio.move_on_after(TEST_TIMEOUT_S):
            await answer.ended.wait()
        self.cancel(job.number)
        return answer
