"""Owns models with runtimes by hand: no process, no file, everything as the test says."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import trio

from node.agent.admission_rules import NO_RULES, OperatorRules
from node.agent.runtime_port import ModelState
from node.errors import ModelFileError, NodeError
from node.model_file import ModelFile
from node.runtime_messages import Ready, Stats
from node.serving.local_model import LocalModel
from node.serving.models import ServedModels
from node.serving.room import Room
from node.serving.runtime_plan import RuntimePlan
from node.serving.shelf import ShelfModel
from node.serving.standing import OwnModel, no_own_model
from tests.fakes.trust import MODEL_DIGEST, MODEL_ID, book_with

FILE = ModelFile(
    path=Path("model.gguf"),
    size_bytes=1,
    digest=MODEL_DIGEST,
    model_id=MODEL_ID,
    tensor_digest=bytes(32),
    architecture="llama",
    name="tiny",
    version="1",
    context_tokens=4096,
    quantisation="Q8_0",
    parameter_count=1,
    chat_template=None,
)


def file_with(digest: bytes, name: str) -> ModelFile:
    return replace(FILE, digest=digest, name=name)


@dataclass
class FakeProcess:
    """What a `LocalModel` asks of its `RuntimeProcess`."""

    world: Shelf
    before_restart: Callable[[], Awaitable[None]]
    ready: bool = False
    restarts: int = 0
    facts: Ready = field(default_factory=lambda: Ready(512, 4, "llama", "test", 1, 100, True))
    stats: Stats = field(default_factory=lambda: Stats(0, 0, 0, 7.0, 0, 0, 0))
    pid: int | None = None
    ended: bool = False
    _crash: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await trio.sleep(self.world.load_s)
            if self.world.start_error is not None:
                raise self.world.start_error
            self.ready = True
            task_status.started()
            while True:
                await self._crash.wait()
                self._crash = trio.Event()
                self.ready = False
                await self.before_restart()
                self.restarts += 1
                self.ready = True
        finally:
            self.ready = False
            self.ended = True

    def crash(self) -> None:
        self._crash.set()

    async def self_test(self) -> None:
        await trio.lowlevel.checkpoint()
        self.world.tests += 1
        if self.world.hold_back is not None:
            await self.world.hold_back.wait()
        if self.world.test_error is not None:
            raise self.world.test_error


@dataclass
class Shelf:
    """A `ModelShelf` and `RuntimePlan` of models that all take `estimate` bytes."""

    files: list[ModelFile] = field(default_factory=lambda: [FILE])
    states: dict[bytes, tuple[ModelState, str]] = field(default_factory=dict)
    version: int = 0
    estimate: int = 100
    load_s: float = 0.0
    start_error: NodeError | None = None
    test_error: NodeError | None = None
    hold_back: trio.Event | None = None
    changed: dict[bytes, str] = field(default_factory=dict)
    tests: int = 0
    verified: int = 0
    notes: list[tuple[bytes, ModelState, str]] = field(default_factory=list)
    processes: dict[bytes, list[FakeProcess]] = field(default_factory=dict)
    slots: int = 4

    def changed_token(self) -> bytes:
        return str(self.version).encode()

    def models(self) -> tuple[ShelfModel, ...]:
        return tuple(
            ShelfModel(file, *self.states.get(file.digest, (ModelState.PENDING, "")))
            for file in self.files
        )

    def verify_unchanged(self, model: ShelfModel) -> ShelfModel:
        self.verified += 1
        if reason := self.changed.get(model.file.digest):
            raise ModelFileError(reason)
        return model

    def note(self, model: ShelfModel, state: ModelState, reason: str) -> None:
        self.notes.append((model.file.digest, state, reason))

    def context_tokens(self, kept: ShelfModel) -> int:
        return 1024

    def make(self, kept: ShelfModel, before_restart: Callable[[], Awaitable[None]]) -> FakeProcess:
        process = FakeProcess(self, before_restart)
        self.processes.setdefault(kept.file.digest, []).append(process)
        return process

    def estimated_bytes(self, kept: ShelfModel) -> int:
        return self.estimate


class ModelWorld:
    """The models of one node."""

    def __init__(
        self,
        shelf: Shelf | None = None,
        *,
        expected: bool = True,
        bytes_max: int | None = None,
        rules: OperatorRules = NO_RULES,
        book: Any = None,
        own_model: OwnModel = no_own_model,
    ) -> None:
        self.shelf = shelf or Shelf()
        self.book = book or book_with()
        self.changes: list[ModelState] = []
        self.models = ServedModels(
            [self.shelf],
            cast(RuntimePlan, self.shelf),
            self.book,
            room=Room(bytes_max),
            rules=rules,
            expected=lambda kept: expected,
            on_change=self._on_change,
            own_model=own_model,
        )

    def _on_change(self) -> None:
        local = self.models.local
        if local:
            self.changes.append(local[0].state)

    @property
    def model(self) -> LocalModel:
        return self.models.local[0]

    @property
    def process(self) -> FakeProcess:
        """The latest process of the first model."""
        return self.shelf.processes[MODEL_DIGEST][-1]

    def with_digest(self, digest: bytes) -> LocalModel:
        return self.models.local_with(digest)


async def until(condition: Callable[[], object], limit_s: float = math.inf) -> None:
    """Wait for a condition that has no event, on a mock clock."""
    with trio.fail_after(limit_s):
        while not condition():
            await trio.sleep(0.05)


async def at_once(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Instead of a thread: threads take real time, in which a mock clock jumps."""
    await trio.lowlevel.checkpoint()
    return work(*arguments)
