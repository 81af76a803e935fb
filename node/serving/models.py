"""Owns all models of one node: those of its shelves, and whatever else implements `Served`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import trio

from node.agent.admission_rules import OperatorRules
from node.agent.runtime_port import Served
from node.errors import NodeError
from node.limits import SHELF_LOOK_INTERVAL_S
from node.serving.local_model import LocalModel
from node.serving.room import Room
from node.serving.runtime_plan import RuntimePlan
from node.serving.shelf import ModelShelf, ShelfModel
from node.serving.standing import OwnModel, no_own_model
from p2p.configuration_book import ConfigurationBook
from p2p.limits import MODELS_PER_NODE_MAX

log = logging.getLogger(__name__)


class ServedModels:
    """The models of one node (a `node.agent.runtime_port.Models`)."""

    def __init__(
        self,
        shelves: Sequence[ModelShelf],
        plan: RuntimePlan,
        configuration: ConfigurationBook,
        *,
        room: Room,
        rules: OperatorRules,
        expected: Callable[[ShelfModel], bool],
        on_change: Callable[[], None],
        own_model: OwnModel = no_own_model,
    ) -> None:
        """Serve what the shelves have.

        Args:
            expected: says which models are loaded at the start; a single one always is.
            on_change: called after every change of a model's state.
            own_model: gives what a policy of this node's subclouds approves by itself.
        """
        self.room = room
        self.on_change = on_change
        self._shelves = tuple(shelves)
        self._plan = plan
        self._configuration = configuration
        self._rules = rules
        self._expected = expected
        self._own_model = own_model
        self._models: dict[bytes, Served] = {}
        self._local: dict[bytes, LocalModel] = {}
        self._tokens: tuple[bytes, ...] = ()

    def get(self, digest: bytes) -> Served | None:
        """The model with this digest, or None."""
        return self._models.get(digest)

    def all(self) -> Iterable[Served]:
        """All models, in the order in which they came."""
        return self._models.values()

    @property
    def local(self) -> tuple[LocalModel, ...]:
        """Those with files."""
        return tuple(self._local.values())

    def add(self, served: Served) -> None:
        """Serve a model that is no file of ours."""
        self._models.setdefault(served.facts.digest, served)
        self.on_change()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once the shelves were looked at."""
        async with trio.open_nursery() as nursery:
            await self._look(nursery)
            task_status.started()
            while True:
                await trio.sleep(SHELF_LOOK_INTERVAL_S)
                await self._look(nursery)

    def local_with(self, digest: bytes) -> LocalModel:
        """The model with this file. Raises: KeyError."""
        return self._local[digest]

    async def _look(self, nursery: trio.Nursery) -> None:
        try:
            tokens = await trio.to_thread.run_sync(self._all_tokens)
            if tokens == self._tokens:
                return
            kept = await trio.to_thread.run_sync(self._all_kept)
        except (NodeError, OSError) as error:
            log.warning("the model store cannot be read, what is served stays: %s", error)
            return
        self._tokens = tokens
        alone = len(kept) == 1 and not self._models
        for digest, (model, shelf) in kept.items():
            present = self._local.get(digest)
            if present is not None:
                present.update(model)
            elif digest not in self._models and len(self._models) < MODELS_PER_NODE_MAX:
                self._begin(nursery, model, shelf, alone)
        for digest in [digest for digest in self._local if digest not in kept]:
            self._local.pop(digest).retire()
            del self._models[digest]
        self.on_change()

    def _begin(
        self, nursery: trio.Nursery, kept: ShelfModel, shelf: ModelShelf, alone: bool
    ) -> None:
        model = LocalModel(
            kept,
            shelf,
            self._plan,
            self._configuration,
            self.room,
            rules=self._rules,
            expected=alone or self._expected(kept),
            on_change=self.on_change,
            own_model=self._own_model,
        )
        self._local[kept.file.digest] = self._models[kept.file.digest] = model
        nursery.start_soon(model.run)

    def _all_tokens(self) -> tuple[bytes, ...]:
        return tuple(shelf.changed_token() for shelf in self._shelves)

    def _all_kept(self) -> dict[bytes, tuple[ShelfModel, ModelShelf]]:
        """Everything that is kept, by digest; the first shelf and the first name count."""
        found: dict[bytes, tuple[ShelfModel, ModelShelf]] = {}
        for shelf in self._shelves:
            for model in shelf.models():
                found.setdefault(model.file.digest, (model, shelf))
        return found
