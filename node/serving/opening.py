"""Owns the step from the operator's settings to the models with files that a node serves."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import trio

from node.errors import ModelFileError
from node.sandbox import sandbox_prefix
from node.serving.local_model import LocalModel
from node.serving.memory import default_memory_bytes
from node.serving.models import ServedModels
from node.serving.room import Room
from node.serving.runtime_plan import RuntimePlan
from node.serving.shelf import ModelShelf, OneFileShelf, ShelfModel
from node.serving.standing import OwnModel, no_own_model
from node.settings import NodeSettings
from node.store.shelf import StoreShelf
from node.store.store import ModelStore
from p2p.configuration_book import ConfigurationBook

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenModels:
    """The models of this node, and how they run.

    `file`: the model of `--model`, if it was given. `sandboxed`: runtimes have no network.
    """

    models: ServedModels
    file: LocalModel | None
    sandboxed: bool


@asynccontextmanager
async def open_models(
    settings: NodeSettings,
    configuration: ConfigurationBook,
    on_change: Callable[[], None],
    own_model: OwnModel = no_own_model,
) -> AsyncIterator[OpenModels]:
    """Read and load what the operator names, and keep serving it until the block ends.

    Returns when the model of `--model` was loaded and proved; those of a store load meanwhile.
    Raises: NodeError with the reason if there is nothing to serve, or that one model fails.
    """
    shelves, only = await trio.to_thread.run_sync(_open_shelves, settings)
    prefix = await trio.to_thread.run_sync(sandbox_prefix, settings.sandbox)
    if prefix:
        log.info("the runtime has no network: user and network namespaces of its own")
    elif shelves:
        log.warning("the runtime is not kept from the network (sandbox=%s)", settings.sandbox)
    bytes_max = settings.memory_bytes_max
    if bytes_max is None and len(shelves) != (only is not None):
        bytes_max = default_memory_bytes()
    with _runtime_log(settings).open("ab") as runtime_log:
        models = ServedModels(
            shelves,
            RuntimePlan(settings, prefix, runtime_log),
            configuration,
            room=Room(bytes_max),
            rules=settings.rules,
            expected=lambda kept: _is_expected(settings, only, kept),
            on_change=on_change,
            own_model=own_model,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(models.run)
            file = None
            if only is not None:
                file = models.local_with(only.file.digest)
                await file.first()
            yield OpenModels(models, file, bool(prefix))
            nursery.cancel_scope.cancel()


def _runtime_log(settings: NodeSettings) -> Path:
    """Where the runtimes' stderr goes: nowhere if the operator promised to store no content, for a
    trace or a library's message may quote a prompt."""
    return Path(os.devnull) if settings.stores_no_content else settings.data_dir / "runtime.log"


def _open_shelves(settings: NodeSettings) -> tuple[tuple[ModelShelf, ...], OneFileShelf | None]:
    shelves: list[ModelShelf] = []
    only = None
    if settings.model is not None:
        only = OneFileShelf(settings.model)
        log.info("model %s: sha256 %s", only.file.name, only.file.digest.hex())
        shelves.append(only)
    folder = settings.models_dir or settings.data_dir / "models"
    if settings.models_dir is not None or (settings.model is None and folder.is_dir()):
        shelves.append(StoreShelf(ModelStore(folder)))
    if settings.upstream is None and not any(shelf.models() for shelf in shelves):
        raise ModelFileError(
            f"there is no model to serve: give --model FILE, or put one into {folder} with "
            "`resultity node models add`"
        )
    return tuple(shelves), only


def _is_expected(settings: NodeSettings, only: OneFileShelf | None, kept: ShelfModel) -> bool:
    if only is not None and kept.file.digest == only.file.digest:
        return True
    return any(fnmatchcase(kept.file.name, pattern) for pattern in settings.preload)
