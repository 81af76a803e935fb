"""Owns the making of embeddings: which texts go into the next step, and what becomes of them.

Theory of operation. A job is one or more texts. Texts of all jobs take turns for the sequences of a
context of their own; a step computes at most `step_tokens` of them, so that
jobs that generate wait for one such step at most. The states of a text's tokens are pooled here, in
double precision, while its parts come; so a long text can be divided into steps, and in the
reproducible mode the vector of a text is bitwise the same alone and in any batch. A model whose
tokens look at all others (an encoder) gets each text whole and by itself.

Vectors are made to have length 1 and leave as lines (`p2p.embeddings`), in the order of the inputs,
a bounded number of bytes in each step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from node.errors import RuntimeRefusedError
from node.limits import EMBEDDING_TEXT_BYTES_PER_STEP
from node.runtime.embedding_model import EmbeddingModel, Pooling
from node.runtime.embedding_requests import read_embeddings_request
from node.runtime.engine import End, JobRequest, Output, StepResult
from node.runtime.model import Chunk
from p2p.embeddings import line_bytes, vector_line
from p2p.limits import EMBEDDING_TEXT_BYTES_MAX, TOKENS_MAX


@dataclass(slots=True)
class EmbeddingJob:
    """One job from preparation to its end. `waiting`: the texts that have not begun."""

    number: int
    input_tokens: int
    dimensions: int
    waiting: deque[tuple[int, Sequence[int]]]
    lines_left: int
    output_tokens_max: int = 0
    sampling_hash: bytes = b""
    lines: dict[int, str] = field(default_factory=dict)
    line_next: int = 0
    cancelled: bool = False
    failure: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more is to be computed for it."""
        return self.cancelled or bool(self.failure) or not self.lines_left


@dataclass(slots=True)
class _Text:
    """One text that is being computed."""

    job: EmbeddingJob
    index: int
    tokens: Sequence[int]
    sequence: int
    position: int = 0
    pooled: Any = None

    @property
    def left(self) -> int:
        """How many of its tokens are to be computed."""
        return len(self.tokens) - self.position


@dataclass(slots=True)
class EmbeddingBatches:
    """Computes the embeddings jobs of one model; used by `node.runtime.task_engine`."""

    model: EmbeddingModel
    tokens_done: int = 0
    _jobs: deque[EmbeddingJob] = field(default_factory=deque)
    _texts: list[_Text] = field(default_factory=list)
    _free: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self._free = set(range(self.model.facts.sequences))

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._jobs)

    @property
    def jobs(self) -> int:
        """How many jobs there are."""
        return len(self._jobs)

    # --- reading thread -----------------------------------------------------------------------
    def prepare(self, request: JobRequest) -> EmbeddingJob:
        """Validate and tokenise.

        Raises: RuntimeRefusedError `bad_request` or `context_length_exceeded`.
        """
        facts = self.model.facts
        wanted = read_embeddings_request(request.request)
        dimensions = wanted.dimensions or facts.dimensions
        if dimensions > facts.dimensions:
            raise RuntimeRefusedError(
                "bad_request", f"this model's vectors have {facts.dimensions} dimensions"
            )
        if request.resume_tokens:
            raise RuntimeRefusedError("bad_request", "embeddings are not resumed")
        if line_bytes(dimensions) * len(wanted.inputs) > EMBEDDING_TEXT_BYTES_MAX:
            most = EMBEDDING_TEXT_BYTES_MAX // line_bytes(dimensions)
            raise RuntimeRefusedError(
                "bad_request",
                f"at most {most} inputs can be asked of this model at once, because its vectors "
                f"have {dimensions} dimensions",
            )
        texts = [self._tokens(item) for item in wanted.inputs]
        count = sum(len(tokens) for tokens in texts)
        if count > TOKENS_MAX:
            raise RuntimeRefusedError("bad_request", f"more than {TOKENS_MAX} tokens")
        return EmbeddingJob(
            request.number, count, dimensions, deque(enumerate(texts)), lines_left=len(texts)
        )

    def _tokens(self, item: str | tuple[int, ...]) -> Sequence[int]:
        facts = self.model.facts
        tokens = self.model.tokenize(item) if isinstance(item, str) else item
        if not tokens:
            raise RuntimeRefusedError("bad_request", "an input gives no tokens")
        if not isinstance(item, str) and not all(
            0 <= token < facts.vocabulary_size for token in item
        ):
            raise RuntimeRefusedError(
                "bad_request", f"an input names a token that is not below {facts.vocabulary_size}"
            )
        if len(tokens) > facts.context_tokens:
            raise RuntimeRefusedError(
                "context_length_exceeded",
                f"an input has {len(tokens)} tokens; this model takes {facts.context_tokens}",
                input_tokens=len(tokens),
                context_tokens=facts.context_tokens,
            )
        return tokens

    # --- engine's thread ----------------------------------------------------------------------
    def start(self, job: EmbeddingJob) -> None:
        """Let a prepared job take part from the next step on."""
        self._jobs.append(job)

    def cancel(self, number: int) -> None:
        """End a job at the next step; unknown numbers are ignored."""
        for job in self._jobs:
            if job.number == number:
                job.cancelled = True

    def step(self, result: StepResult) -> None:
        """Compute one batch, and add to the result what is ready."""
        self._drop_texts()
        self._place()
        planned = self._plan()
        for group in [[item] for item in planned] if self.model.facts.whole else [planned]:
            if group:
                self._compute(group)
        self._emit(result)
        self._end_jobs(result)
        self._drop_texts()

    def _drop_texts(self) -> None:
        for text in [text for text in self._texts if text.job.over]:
            self._leave(text)

    def _leave(self, text: _Text) -> None:
        self._texts.remove(text)
        self.model.clear(0 if self.model.facts.whole else text.sequence)
        self._free.add(text.sequence)

    def _place(self) -> None:
        """Give free sequences to texts; jobs take turns."""
        for _ in range(len(self._jobs) * len(self._free)):
            if not self._free:
                return
            job = self._jobs[0]
            self._jobs.rotate(-1)
            if job.waiting and not job.over:
                index, tokens = job.waiting.popleft()
                sequence = min(self._free)
                self._free.remove(sequence)
                self._texts.append(_Text(job, index, tokens, sequence))

    def _plan(self) -> list[tuple[_Text, Chunk]]:
        """Half of the step for the oldest text, the rest for those that have the least left: a
        short one is soon done, and a long one is not forgotten."""
        if self.model.facts.whole:
            return self._plan_whole()
        budget = self.model.facts.step_tokens
        sizes = {text.sequence: min(text.left, -(-budget // 2)) for text in self._texts[:1]}
        budget -= sum(sizes.values())
        for text in sorted(self._texts, key=lambda text: text.left):
            known = sizes.get(text.sequence, 0)
            more = min(text.left - known, budget)
            budget -= more
            sizes[text.sequence] = known + more
        planned = []
        for text in sorted(self._texts, key=lambda text: text.sequence):
            if size := sizes[text.sequence]:
                tokens = text.tokens[text.position : text.position + size]
                planned.append((text, Chunk(text.sequence, text.position, tokens, True)))
        return planned

    def _plan_whole(self) -> list[tuple[_Text, Chunk]]:
        """The oldest text, and those behind it that do not make the step longer than it may be."""
        planned: list[tuple[_Text, Chunk]] = []
        budget = self.model.facts.step_tokens
        for text in self._texts:
            budget -= len(text.tokens)
            if planned and budget < 0:
                break
            planned.append((text, Chunk(0, 0, text.tokens, True)))
        return planned

    def _compute(self, planned: list[tuple[_Text, Chunk]]) -> None:
        try:
            states = self.model.states([chunk for _, chunk in planned])
        except RuntimeError as error:
            for text, _ in planned:
                text.job.failure = str(error)
            return
        row = 0
        for text, chunk in planned:
            count = len(chunk.tokens)
            self._pool(text, states[row : row + count])
            row += count
            text.position += count
            self.tokens_done += count
            if not text.left:
                self._finish(text)

    def _pool(self, text: _Text, states: Any) -> None:
        pooling = self.model.facts.pooling
        if pooling is Pooling.MEAN:
            # The direction is all that is wanted: a sum is as good as the mean.
            if text.pooled is None:
                text.pooled = numpy.zeros(states.shape[1])
            for state in states:  # one by one: numpy's own sum depends on how many there are
                text.pooled += state
        elif pooling is Pooling.LAST:
            text.pooled = states[-1].astype(numpy.float64)
        elif text.pooled is None:
            text.pooled = states[0].astype(numpy.float64)

    def _finish(self, text: _Text) -> None:
        job = text.job
        vector = text.pooled[: job.dimensions]
        length = float(numpy.linalg.norm(vector))
        if not 0.0 < length < float("inf"):
            job.failure = "the model gave no direction for an input"
        else:
            data = (vector / length).astype("<f4").tobytes()
            job.lines[text.index] = vector_line(data)
            job.lines_left -= 1
        self._leave(text)

    def _emit(self, result: StepResult) -> None:
        budget = EMBEDDING_TEXT_BYTES_PER_STEP
        for job in self._jobs:
            lines: list[str] = []
            while budget > 0 and job.line_next in job.lines:
                line = job.lines.pop(job.line_next)
                lines.append(line)
                job.line_next += 1
                budget -= len(line)
            if lines and not job.cancelled and not job.failure:
                result.outputs.append(Output(job.number, (), "".join(lines)))

    def _end_jobs(self, result: StepResult) -> None:
        for job in list(self._jobs):
            if job.cancelled:
                result.ends.append(End(job.number, "cancelled"))
            elif job.failure:
                result.ends.append(End(job.number, "failed", job.failure))
            elif not job.lines_left and not job.lines:
                result.ends.append(End(job.number, "stop"))
            else:
                continue
            self._jobs.remove(job)
