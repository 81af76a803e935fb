"""Owns the engine port: what the runtime's main loop asks of anything that can run a model.

Two threads use an engine. `prepare` and `discard` are called from the reading thread while the
engine's own thread is inside `step`; they must not touch what a step uses. Everything else
belongs to the engine's thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from node.limits import (
    PREFILL_TOKENS_PER_GPU_STEP_MAX,
    PREFILL_TOKENS_PER_STEP_MAX,
    REPRODUCIBLE_UBATCH_TOKENS,
)
from p2p.logprob_messages import TokenLogprob


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that the engine can use."""

    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step of so many sequences took when it was measured."""

    sequences: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to run, all decided (`node.runtime.wishes` is what they are decided from).

    `context_tokens` caps the model's own context. `ubatch_tokens` above 32 prefills faster and is
    not reproducible. `costs`, `gpus` and `notes` are only passed on to the facts.
    """

    path: str
    slots: int
    context_tokens: int
    threads: int
    ubatch_tokens: int = REPRODUCIBLE_UBATCH_TOKENS
    gpu_layers: int = 0
    gpus: tuple[Gpu, ...] = ()
    costs: tuple[StepCost, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def reproducible(self) -> bool:
        """Whether a job's output is the same alone and in any batch."""
        return self.ubatch_tokens <= REPRODUCIBLE_UBATCH_TOKENS

    @property
    def prefill_tokens_per_step(self) -> int:
        """Prompt tokens that one step computes at most."""
        return PREFILL_TOKENS_PER_GPU_STEP_MAX if self.gpu_layers else PREFILL_TOKENS_PER_STEP_MAX


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says about itself at start (fields as in `runtime_messages.Ready`).

    `costs`: measured before it opened; `notes`: what it could not do as it was asked to.
    """

    context_tokens: int
    slots: int
    model_description: str
    build_info: str
    threads: int
    vocabulary_size: int
    reproducible: bool
    tasks: tuple[str, ...] = ("chat",)
    gpu_layers: int = 0
    gpus: tuple[Gpu, ...] = ()
    costs: tuple[StepCost, ...] = ()
    notes: tuple[str, ...] = ()
    prefill_tokens_per_step: int = PREFILL_TOKENS_PER_STEP_MAX


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One job as the agent sent it. `output_tokens_max` includes the resumed tokens."""

    number: int
    request: bytes
    output_tokens_max: int
    seed: int
    resume_tokens: tuple[int, ...] = ()
    cache_scope: bytes = b""
    task: str = "chat"


class EngineJob(Protocol):
    """A prepared job; the rest of it is the engine's own business."""

    @property
    def number(self) -> int:
        """The agent's number of the job."""
        ...

    @property
    def input_tokens(self) -> int:
        """The exact length of the prompt, without resumed tokens."""
        ...

    @property
    def output_tokens_max(self) -> int:
        """The bound of the whole output, resumed tokens included."""
        ...

    @property
    def sampling_hash(self) -> bytes:
        """Digest of how its answer is drawn; empty if nothing is drawn."""
        ...


@dataclass(frozen=True, slots=True)
class Output:
    """New tokens and new text of one job; `logprobs` one for each token if it asks for them."""

    number: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The end of one job: `stop`, `length`, `cancelled` or `failed`."""

    number: int
    outcome: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reuse:
    """A job began with so many of its input tokens in the cache."""

    number: int
    input_tokens: int


@dataclass(slots=True)
class StepResult:
    """What one step brought: reuses first, then outputs, then ends."""

    reuses: list[Reuse] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)


@dataclass(slots=True)
class EngineStats:
    """Counters since start; `tokens_per_second` over the recent busy time."""

    running: int = 0
    waiting: int = 0
    tokens_per_second: float = 0.0
    steps: int = 0
    prefill_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


class Engine(Protocol):
    """Runs many jobs at once, one step at a time."""

    @property
    def facts(self) -> EngineFacts:
        """What was loaded, and how."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a step would do anything (engine thread)."""
        ...

    def prepare(self, request: JobRequest) -> EngineJob:
        """Validate, render and tokenise (reading thread).

        Raises: RuntimeRefusedError if the request cannot run.
        """
        ...

    def discard(self, job: EngineJob) -> None:
        """Free a prepared job that was never started (reading thread)."""
        ...

    def start(self, job: EngineJob) -> None:
        """Let a prepared job join at the next step (engine thread)."""
        ...

    def cancel(self, number: int) -> None:
        """End a job with outcome `cancelled` at the next step; unknown numbers are ignored."""
        ...

    def step(self) -> StepResult:
        """Advance everything that runs by one step (engine thread, blocks while it computes)."""
        ...

    def stats(self) -> EngineStats:
        """Give the counters (engine thread)."""
        ...
