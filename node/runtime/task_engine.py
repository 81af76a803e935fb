"""Owns the engine of a runtime that has more than one task: chats and embeddings side by side.

Each step is one of the chat engine and one of the embeddings, as far as they have work. The context
for embeddings is made when the first of them comes; until then it costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from node.errors import ModelFileError, RuntimeRefusedError
from node.runtime.embedding_batches import EmbeddingBatches, EmbeddingJob
from node.runtime.embedding_model import EmbeddingModel
from node.runtime.engine import (
    Engine,
    EngineFacts,
    EngineJob,
    EngineStats,
    JobRequest,
    StepResult,
)
from p2p.embeddings import CHAT, EMBEDDINGS


class TaskEngine:
    """The engine port over a chat engine, embeddings, or both."""

    def __init__(
        self,
        chat: Engine | None,
        open_embeddings: Callable[[], EmbeddingModel] | None,
        facts: EngineFacts,
    ) -> None:
        """`open_embeddings` makes the context (it raises ModelFileError where it cannot); `facts`:
        those of the whole runtime, but for its tasks."""
        self._chat = chat
        self._open_embeddings = open_embeddings
        self._embeddings: EmbeddingBatches | None = None
        tasks = (CHAT,) * (chat is not None) + (EMBEDDINGS,) * (open_embeddings is not None)
        self._facts = dataclasses.replace(facts, tasks=tasks)
        self._stats = EngineStats()

    @property
    def facts(self) -> EngineFacts:
        """What was loaded, and how."""
        return self._facts

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        if self._chat is not None and self._chat.busy:
            return True
        return self._embeddings is not None and self._embeddings.busy

    # --- reading thread -----------------------------------------------------------------------
    def prepare(self, request: JobRequest) -> EngineJob:
        """Validate and tokenise. Raises: RuntimeRefusedError."""
        if request.task not in self._facts.tasks:
            raise RuntimeRefusedError(
                "unsupported",
                f"this model does {' and '.join(self._facts.tasks)} here, not {request.task[:32]}",
            )
        if request.task == EMBEDDINGS:
            return self._batches().prepare(request)
        assert self._chat is not None
        return self._chat.prepare(request)

    def _batches(self) -> EmbeddingBatches:
        if self._embeddings is None:
            assert self._open_embeddings is not None
            try:
                # llama.cpp allows a second context to be made while the first computes.
                self._embeddings = EmbeddingBatches(self._open_embeddings())
            except ModelFileError as error:
                raise RuntimeRefusedError("runtime", str(error)) from error
        return self._embeddings

    def discard(self, job: EngineJob) -> None:
        """Free a prepared job that was never started."""
        if self._chat is not None and not isinstance(job, EmbeddingJob):
            self._chat.discard(job)

    # --- engine's thread ----------------------------------------------------------------------
    def start(self, job: EngineJob) -> None:
        """Let a prepared job join at the next step."""
        if isinstance(job, EmbeddingJob):
            assert self._embeddings is not None
            self._embeddings.start(job)
        else:
            assert self._chat is not None
            self._chat.start(job)

    def cancel(self, number: int) -> None:
        """End a job with outcome `cancelled` at the next step; unknown numbers are ignored."""
        if self._chat is not None:
            self._chat.cancel(number)
        if self._embeddings is not None:
            self._embeddings.cancel(number)

    def step(self) -> StepResult:
        """Advance everything that runs by one step."""
        chat, embeddings = self._chat, self._embeddings
        result = chat.step() if chat is not None and chat.busy else StepResult()
        if embeddings is not None and embeddings.busy:
            embeddings.step(result)
        return result

    def stats(self) -> EngineStats:
        """Give the counters; an embeddings job counts as running, its input as prefill."""
        stats = self._chat.stats() if self._chat is not None else self._stats
        if self._embeddings is None:
            return stats
        return dataclasses.replace(
            stats,
            running=stats.running + self._embeddings.jobs,
            prefill_tokens=stats.prefill_tokens + self._embeddings.tokens_done,
        )
