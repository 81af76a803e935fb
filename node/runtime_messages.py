"""Owns the messages between the agent and its runtime process.

Theory of operation. The runtime is a child process of the agent. Frames of `p2p.wire` travel over
its stdin and stdout; the bytes are trusted no more than those of a peer, because a model file may
be hostile.

    agent                                     runtime
                            ◀───────────────   Ready(facts) | StartFailed(reason)
      Prepare(n, request)   ───────────────▶   validate, render, tokenise; no model time is used yet
                            ◀───────────────   Prepared(n, exact input count) | Rejected(n, code)
      Start(n)              ───────────────▶   the sequence joins the running batch at the next step
                            ◀───────────────   Cached(n, input tokens), if there are any
                            ◀───────────────   Step(every sequence's new tokens) ...
      Cancel(n)             ───────────────▶   at any time, also before Start and after the end
                            ◀───────────────   Ended(n, outcome): once for each started job
      Ping(p)               ───────────────▶   answered by the engine's thread between two steps
                            ◀───────────────   Pong(p), Stats

One step of the engine becomes one frame, with the ends that it brought. The runtime exits when its
stdin ends. Numbers are chosen by the agent and never used twice. Must stay importable without trio
or libp2p.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from node.limits import (
    CACHE_SCOPE_BYTES,
    CONTEXT_TOKENS_MAX,
    GPU_LAYERS_MAX,
    GPUS_MAX,
    REPRODUCIBLE,
    RESUME_TOKENS_MAX,
    RUNTIME_JOBS_MAX,
    RUNTIME_TEXT_CHARACTERS_MAX,
    SLOTS_MAX,
    THROUGHPUT,
)
from p2p.codec import Limit, Message, Range, message
from p2p.limits import (
    FRAME_BYTES_MAX,
    OUTPUT_TOKENS_PER_MESSAGE_MAX,
    REQUEST_BYTES_MAX,
    TOKENS_MAX,
)
from p2p.logprob_messages import TokenLogprob

JobNumber = Annotated[int, Range(0, 2**53)]
Tokens = Annotated[int, Range(0, TOKENS_MAX)]
TokenId = Annotated[int, Range(0, 2**32 - 1)]
ShortText = Annotated[str, Limit(RUNTIME_TEXT_CHARACTERS_MAX)]
Count = Annotated[int, Range(0, 2**53)]
Task = Annotated[str, Limit(32)]

OUTCOMES = ("stop", "length", "cancelled", "failed")


@message(230)
@dataclass(frozen=True, slots=True)
class GpuFact(Message):
    """A GPU that the runtime's build of llama.cpp can use."""

    name: ShortText
    memory_bytes: Count


@message(231)
@dataclass(frozen=True, slots=True)
class StepCostFact(Message):
    """What a step of so many sequences takes, as measured when the model was first opened."""

    sequences: Annotated[int, Range(1, 1024)]
    microseconds: Count


@message(210)
@dataclass(frozen=True, slots=True)
class Ready(Message):
    """The model is loaded. `reproducible`: output does not depend on what else is in the batch.

    `step_costs` are empty if the operator named slots and threads. `notes`: what could not be had
    as it was asked for.
    """

    TRIMMED: ClassVar[int] = 5
    context_tokens: Annotated[int, Range(1, CONTEXT_TOKENS_MAX)]
    slots: Annotated[int, Range(1, SLOTS_MAX)]
    model_description: ShortText
    build_info: ShortText
    threads: Annotated[int, Range(1, 4096)]
    vocabulary_size: Annotated[int, Range(0, 2**31 - 1)]
    reproducible: bool
    tasks: Annotated[tuple[Task, ...], Limit(8)] = ("chat",)
    gpu_layers: Annotated[int, Range(0, GPU_LAYERS_MAX)] = 0
    gpus: Annotated[tuple[GpuFact, ...], Limit(GPUS_MAX)] = ()
    step_costs: Annotated[tuple[StepCostFact, ...], Limit(16)] = ()
    notes: Annotated[tuple[ShortText, ...], Limit(8)] = ()

    @property
    def mode(self) -> str:
        """The mode's name."""
        return REPRODUCIBLE if self.reproducible else THROUGHPUT

    @property
    def build(self) -> str:
        """What computes, short enough for a receipt: the binding's version, and a digest of all
        that llama.cpp says of its build and the processor."""
        name, _, _ = self.build_info.partition(";")
        return f"{name[:48]} {hashlib.sha256(self.build_info.encode()).hexdigest()[:12]}"


@message(211)
@dataclass(frozen=True, slots=True)
class StartFailed(Message):
    """The runtime cannot serve this model; it exits after this message."""

    reason: ShortText


@message(212)
@dataclass(frozen=True, slots=True)
class Prepare(Message):
    """Check a request and count its input. `output_tokens_max` includes the resumed tokens.

    `cache_scope`: among jobs of one scope the cache of a prompt's beginning is used again.
    """

    TRIMMED: ClassVar[int] = 1
    number: JobNumber
    request: Annotated[bytes, Limit(REQUEST_BYTES_MAX)]
    output_tokens_max: Tokens
    seed: Annotated[int, Range(0, 2**32 - 1)]
    resume_tokens: Annotated[tuple[TokenId, ...], Limit(RESUME_TOKENS_MAX)] = ()
    cache_scope: Annotated[bytes, Limit(CACHE_SCOPE_BYTES)] = b""
    task: Task = "chat"


@message(213)
@dataclass(frozen=True, slots=True)
class Prepared(Message):
    """The request can run: its exact input, and the output bound that the context leaves.

    `sampling_hash`: digest of how the answer is drawn (`node.runtime.sampling_digest`).
    """

    TRIMMED: ClassVar[int] = 1
    number: JobNumber
    input_tokens: Tokens
    output_tokens_max: Tokens
    sampling_hash: Annotated[bytes, Limit(32)] = b""


@message(214)
@dataclass(frozen=True, slots=True)
class Rejected(Message):
    """The request cannot run, and why (codes as in `p2p.job_messages.REFUSALS`)."""

    number: JobNumber
    code: Annotated[str, Limit(64)]
    reason: ShortText
    input_tokens: Tokens = 0
    context_tokens: Tokens = 0


@message(215)
@dataclass(frozen=True, slots=True)
class Start(Message):
    """Run a prepared job."""

    number: JobNumber


@message(216)
@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """Stop a job, or forget a prepared one. Unknown numbers are ignored."""

    number: JobNumber


@message(217)
@dataclass(frozen=True, slots=True)
class StepItem(Message):
    """What one sequence got in one step. Text may lag behind the tokens (see `text_stream`).

    `logprobs`: one for each token if the request asks for them.
    """

    TRIMMED: ClassVar[int] = 1
    number: JobNumber
    token_ids: Annotated[tuple[TokenId, ...], Limit(OUTPUT_TOKENS_PER_MESSAGE_MAX)]
    text: Annotated[str, Limit(FRAME_BYTES_MAX)]
    logprobs: Annotated[tuple[TokenLogprob, ...], Limit(OUTPUT_TOKENS_PER_MESSAGE_MAX)] = ()


@message(218)
@dataclass(frozen=True, slots=True)
class Step(Message):
    """The output of one step of the engine, of all sequences together."""

    items: Annotated[tuple[StepItem, ...], Limit(RUNTIME_JOBS_MAX)]


@message(219)
@dataclass(frozen=True, slots=True)
class Ended(Message):
    """A started job is over. `outcome`: stop, length, cancelled or failed."""

    number: JobNumber
    outcome: Annotated[str, Limit(32)]
    detail: ShortText


@message(220)
@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Asks the engine's thread for a sign of life."""

    number: Count


@message(221)
@dataclass(frozen=True, slots=True)
class Pong(Message):
    """The answer to `Ping`, given between two steps."""

    number: Count


@message(222)
@dataclass(frozen=True, slots=True)
class Stats(Message):
    """The engine's counters since it started.

    `tokens_per_second`: output of all sequences together, over the recent busy time.
    """

    running: Count
    waiting: Count
    slots: Count
    tokens_per_second: float
    steps: Count
    prefill_tokens: Count
    output_tokens: Count
    cached_tokens: Count = 0


@message(223)
@dataclass(frozen=True, slots=True)
class Cached(Message):
    """A job begins with so much of its input in the cache; comes before its first output."""

    number: JobNumber
    input_tokens: Tokens


RuntimeFacts = Ready
"""What is known about a running runtime: the message itself, there is nothing to translate."""
