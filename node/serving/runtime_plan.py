"""Owns how the runtimes of this node's models are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import IO

from node.limits import (
    CONTEXT_TOKENS_DEFAULT,
    MODEL_CACHE_SHARE,
    SLOTS_DEFAULT,
    SLOTS_MEASURED_MAX,
)
from node.runtime_command import check_gpu_layers, runtime_command
from node.runtime_process import RuntimeProcess
from node.serving.memory import default_memory_bytes, estimated_bytes
from node.serving.shelf import ShelfModel
from node.settings import NodeSettings


@dataclass(frozen=True, slots=True)
class RuntimePlan:
    """Starts a runtime for each model, with what the operator's settings say for all of them.

    `prefix`: the words of the sandbox, none without one.
    """

    settings: NodeSettings
    prefix: tuple[str, ...]
    log_file: IO[bytes] | None
    _cache_bytes: dict[bytes, int] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """Jobs at once, of a model that is not loaded."""
        return self.settings.slots or SLOTS_DEFAULT

    def context_tokens(self, kept: ShelfModel) -> int:
        """The context of each job."""
        wanted = self.settings.context_tokens or CONTEXT_TOKENS_DEFAULT
        return min(wanted, kept.file.context_tokens)

    def make(
        self, kept: ShelfModel, before_restart: Callable[[], Awaitable[None]]
    ) -> RuntimeProcess:
        """Make a runtime for a model; it is not started yet."""
        command = self.settings.runtime_command or runtime_command(
            kept.file.path,
            slots=self.settings.slots,
            context_tokens=self.context_tokens(kept),
            threads=self.settings.threads,
            mode=self.settings.mode,
            gpu_layers=check_gpu_layers(self.settings.gpu_layers),
            cache_bytes_max=self._cache_bytes.get(kept.file.digest),
            remembered=self.settings.data_dir.absolute() / "step-costs.json",
            model_key=kept.file.digest.hex(),
        )
        return RuntimeProcess(
            (*self.prefix, *command), log_file=self.log_file, before_restart=before_restart
        )

    def estimated_bytes(self, kept: ShelfModel) -> int:
        """What the model will take (blocks while its header is read). Raises: ModelFileError.

        Where the runtime decides the number of slots, their caches are bounded by what is counted.
        """
        path, context_tokens = kept.file.path, self.context_tokens(kept)
        if self.settings.slots is not None:
            return estimated_bytes(path, slots=self.settings.slots, context_tokens=context_tokens)
        without = estimated_bytes(path, slots=0, context_tokens=context_tokens)
        each = estimated_bytes(path, slots=1, context_tokens=context_tokens) - without
        memory = self.settings.memory_bytes_max or default_memory_bytes()
        cache = min(SLOTS_MEASURED_MAX * each, max(each, int(memory * MODEL_CACHE_SHARE)))
        self._cache_bytes[kept.file.digest] = cache
        return without + cache
