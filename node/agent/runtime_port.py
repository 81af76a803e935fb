"""Owns what the agent needs of the runtime: a port that `node.runtime_process` implements."""

from __future__ import annotations

from typing import Protocol

from node.runtime_process import JobSink, PreparedJob


class Runtime(Protocol):
    """What the agent needs of the runtime (`node.runtime_process.RuntimeProcess`)."""

    async def prepare(
        self,
        request: bytes,
        *,
        output_tokens_max: int,
        seed: int,
        resume_tokens: tuple[int, ...],
        cache_scope: bytes,
    ) -> PreparedJob:
        """Render and tokenise. Raises: RuntimeRefusedError, RuntimeUnavailableError."""
        ...

    def start(self, number: int, sink: JobSink) -> None:
        """Generate; output goes to the sink (`on_end("failed", ...)` if the job is gone)."""
        ...

    def cancel(self, number: int) -> None:
        """Stop a job; `on_end("cancelled", ...)` follows if it was started."""
        ...
