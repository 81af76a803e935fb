"""Owns the engine port: what the runtime's main loop asks of anything that can run a model.

Two threads use an engine. `prepare` and `discard` are called from the reading thread while the
engine's own thread is inside `step`; they must not touch what a step uses. Everything else
belongs to the engine's thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from node.limits import REPRODUCIBLE_UBATCH_TOKENS


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to load. `context_tokens` caps the model's own context.

    `ubatch_tokens` above 32 prefills faster and is not reproducible.
    """

    path: str
    slots: int
    context_tokens: int
    threads: int
    ubatch_tokens: int = REPRODUCIBLE_UBATCH_TOKENS

    @property
    def reproducible(self) -> bool:
        """Whether a job's output is the same alone and in any batch."""
        return self.ubatch_tokens <= REPRODUCIBLE_UBATCH_TOKENS


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says about itself at start (fields as in `runtime_messages.Ready`)."""

    context_tokens: int
    slots: int
    model_description: str
    build_info: str
    threads: int
    vocabulary_size: int
    reproducible: bool


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One job as the agent sent it. `output_tokens_max` includes the resumed tokens."""

    number: int
    request: bytes
    output_tokens_max: int
    seed: int
    resume_tokens: tuple[int, ...] = ()
    cache_scope: bytes = b""


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


@dataclass(frozen=True, slots=True)
class Output:
    """New tokens and new text of one job."""

    number: int
    token_ids: tuple[int, ...]
    text: str


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
