"""Owns what the agent needs of whatever runs models: the ports that runtimes and models implement.

Theory of operation. A node serves several models. Each is a `Served`: facts that do not change, a
state with its reason, and a `Runtime` behind it, which may have to be started first. An offer names
a digest; the agent asks its `Models` for it, and waits for the runtime as long as the offer's
deadline allows. Implementations: `node.serving` (files, each with a `node.runtime_process`),
`node.upstream` (another server).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from p2p.adverts import ModelAdvert
from p2p.logprob_messages import TokenLogprob


class JobSink(Protocol):
    """Takes one job's output.

    Called from the reading task: cheap, never blocking, never raising.
    """

    def on_cached(self, input_tokens: int) -> None:
        """So many of the input tokens are in the cache; called before any output, if at all."""
        ...

    def on_input(self, input_tokens: int) -> None:
        """So much input it was after all: for servers that count only when they answer. It rises,
        and never above what was prepared."""
        ...

    def on_output(
        self, token_ids: tuple[int, ...], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        """New tokens and new text; either may be empty, never both. `logprobs`: one for each token
        if the request asks for them."""
        ...

    def on_end(self, outcome: str, detail: str) -> None:
        """The job is over: `stop`, `length`, `cancelled` or `failed`; or, if there was no output, a
        refusal's code (`p2p.job_messages.REFUSALS`). Called once, last."""
        ...


@dataclass(frozen=True, slots=True)
class WorkFacts:
    """What receipts name so that the work can be done again, as far as it is known.

    `build`: what computes it; `mode`: `reproducible` or `throughput`; `sampling_hash`: a digest of
    how the answer is drawn.
    """

    build: str = ""
    mode: str = ""
    sampling_hash: bytes = b""


NOTHING_KNOWN = WorkFacts()


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job that can be started; `output_tokens_max` is what context and request leave."""

    number: int
    input_tokens: int
    output_tokens_max: int
    work: WorkFacts = NOTHING_KNOWN


class Runtime(Protocol):
    """Runs jobs of one model."""

    async def prepare(
        self,
        request: bytes,
        *,
        output_tokens_max: int,
        seed: int,
        resume_tokens: tuple[int, ...],
        cache_scope: bytes,
        task: str = "chat",
    ) -> PreparedJob:
        """Render and tokenise. `task` as in an offer.

        Raises: RuntimeRefusedError, RuntimeUnavailableError.
        """
        ...

    def start(self, number: int, sink: JobSink) -> None:
        """Generate; output goes to the sink (`on_end("failed", ...)` if the job is gone)."""
        ...

    def cancel(self, number: int) -> None:
        """Stop a job; `on_end("cancelled", ...)` follows if it was started."""
        ...


class ModelState(enum.StrEnum):
    """Where a model of this node stands.

    - pending: known, but not proved yet (it is being loaded, tested, or started again)
    - active: approved, and proved by a test inference; it may wait unloaded until an offer needs it
    - inactive: it may not be served now (not approved by the network, or not by the operator)
    - failed: it cannot be served: its file changed, it does not load, the test inference failed
    - archived: kept by the operator, never served
    """

    PENDING = "pending"
    ACTIVE = "active"
    INACTIVE = "inactive"
    FAILED = "failed"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a served model is. Digests have 32 bytes.

    `verified`: this node read the whole model and the digest is its file's; False for a server
    that the operator merely says serves it. `resumable`: `resume_tokens` work.
    """

    name: str
    digest: bytes
    model_id: bytes
    quantisation: str
    tasks: tuple[str, ...] = ("chat",)
    modalities: tuple[str, ...] = ("text",)
    verified: bool = True
    resumable: bool = True


@dataclass(frozen=True, slots=True)
class ModelPace:
    """What was measured of a model lately, in tokens a second; 0: nothing is known yet.

    `output`: of all sequences together; `output_each`: of one sequence in a full batch; `prefill`:
    of input that is not cached.
    """

    output: float = 0.0
    output_each: float = 0.0
    prefill: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelCounters:
    """What a model's runtime did, over all its restarts (for the operator's view)."""

    restarts: int = 0
    loads: int = 0
    steps: int = 0
    prefill_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    memory_bytes: int = 0
    """Measured of what is loaded now, or estimated; 0 if nothing is."""


class Served(Protocol):
    """One model that this node serves, or might.

    The agent calls `count` for each of its jobs from the offer to the end: a model with jobs is
    never unloaded.
    """

    @property
    def facts(self) -> ModelFacts:
        """What it is."""
        ...

    @property
    def state(self) -> ModelState:
        """Whether jobs may run on it (only if ACTIVE)."""
        ...

    @property
    def reason(self) -> str:
        """One line: why it is in this state; empty if there is nothing to say."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a job could start now, without waiting for a runtime."""
        ...

    @property
    def slots(self) -> int:
        """Jobs that run at once (of what is loaded, else what it would have)."""
        ...

    @property
    def jobs(self) -> int:
        """Jobs in any state, as counted by `count`."""
        ...

    @property
    def pace(self) -> ModelPace:
        """How fast it is."""
        ...

    @property
    def counters(self) -> ModelCounters:
        """What it did."""
        ...

    def count(self, change: int) -> None:
        """A job came (+1) or went (-1)."""
        ...

    def advert(self) -> ModelAdvert | None:
        """What to advertise now; None unless it is active."""
        ...

    async def runtime(self, wait_s: float) -> Runtime:
        """Give the runtime; start it if need be, but do not wait longer than `wait_s`.

        Raises: RefusedError (`runtime`: it takes longer, or it failed; the reason says which).
        """
        ...


class Models(Protocol):
    """The models of this node."""

    def get(self, digest: bytes) -> Served | None:
        """The model with this digest, in whatever state, or None."""
        ...

    def all(self) -> Iterable[Served]:
        """All models, in a stable order."""
        ...
