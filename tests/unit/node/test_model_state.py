"""Owns the tests of the model's state: served only while approved, ready and proved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import trio

from node.agent.model_state import ModelState, ServedModel
from node.errors import NodeError, RuntimeRefusedError, RuntimeUnavailableError
from node.limits import MODEL_CHECK_INTERVAL_S
from node.model_file import ModelFile
from node.runtime_messages import Ready
from node.runtime_process import RuntimeProcess
from tests.fakes.trust import MODEL_DIGEST, MODEL_ID, book_with, configuration

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


class Runtime:
    """What the model's state looks at."""

    def __init__(self) -> None:
        self.ready = True
        self.restarts = 0
        self.facts = Ready(512, 4, "llama", "test", 1, 100, True)
        self.error: NodeError | None = None
        self.tests = 0
        self.hold_back: trio.Event | None = None

    async def self_test(self) -> None:
        await trio.lowlevel.checkpoint()
        self.tests += 1
        if self.hold_back is not None:
            await self.hold_back.wait()
        if self.error is not None:
            raise self.error


class World:
    def __init__(self) -> None:
        self.runtime = Runtime()
        self.book = book_with()
        self.changes: list[ModelState] = []
        self.served = ServedModel(
            FILE,
            cast(RuntimeProcess, self.runtime),
            self.book,
            on_change=lambda: self.changes.append(self.served.state),
        )


async def tick(count: int = 2) -> None:
    await trio.sleep(count * MODEL_CHECK_INTERVAL_S)


async def test_it_is_served_once_it_proved_itself(
    autojump_clock: trio.abc.Clock, nursery: Any
) -> None:
    world = World()
    assert world.served.state is ModelState.PENDING
    assert not world.served.active
    assert world.served.adverts() == ()
    nursery.start_soon(world.served.watch)
    await tick()
    assert world.served.active
    assert world.runtime.tests == 1
    (advert,) = world.served.adverts()
    assert (advert.name, advert.digest, advert.model_id) == ("tiny-chat", MODEL_DIGEST, MODEL_ID)
    assert (advert.context_tokens, advert.slots, advert.quantisation) == (512, 4, "Q8_0")
    await tick(100)
    assert world.runtime.tests == 1
    assert world.changes == [ModelState.ACTIVE]


async def test_a_proof_before_the_watch_counts(
    autojump_clock: trio.abc.Clock, nursery: Any
) -> None:
    world = World()
    await world.served.prove()
    nursery.start_soon(world.served.watch)
    await tick()
    assert world.served.active
    assert world.runtime.tests == 1


async def test_a_proof_that_fails_is_told(autojump_clock: trio.abc.Clock) -> None:
    world = World()
    world.runtime.error = RuntimeUnavailableError("no token")
    with pytest.raises(NodeError, match="no token"):
        await world.served.prove()
    assert not world.served.active


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "between two looks"])
async def test_a_restarted_runtime_proves_itself_again(
    autojump_clock: trio.abc.Clock, nursery: Any, seen: bool
) -> None:
    world = World()
    nursery.start_soon(world.served.watch)
    await tick()
    if seen:
        world.runtime.ready = False
        assert not world.served.active
        await tick()
        assert world.served.state is ModelState.PENDING
    world.runtime.restarts += 1
    world.runtime.ready = True
    world.runtime.hold_back = trio.Event()
    assert not world.served.active
    await tick()
    assert world.served.state is ModelState.PENDING
    world.runtime.hold_back.set()
    await tick()
    assert world.served.active
    assert world.runtime.tests == 2
    assert world.changes == [ModelState.ACTIVE, ModelState.PENDING, ModelState.ACTIVE]


@pytest.mark.parametrize(
    "error", [RuntimeUnavailableError("slow"), RuntimeRefusedError("busy", "full")]
)
async def test_a_failed_proof_is_tried_again(
    autojump_clock: trio.abc.Clock, nursery: Any, error: NodeError
) -> None:
    world = World()
    world.runtime.error = error
    nursery.start_soon(world.served.watch)
    await tick()
    assert world.served.state is ModelState.FAILED
    assert world.served.adverts() == ()
    world.runtime.error = None
    await tick()
    assert world.served.active


async def test_the_configuration_decides(autojump_clock: trio.abc.Clock, nursery: Any) -> None:
    world = World()
    nursery.start_soon(world.served.watch)
    await tick()
    without = configuration(2, world.book.signed, models=())
    world.book.offer(without)
    assert world.served.adverts() == ()
    await tick()
    assert world.served.state is ModelState.INACTIVE
    assert not world.served.active
    world.book.offer(configuration(3, without))
    await tick()
    assert world.served.active
    assert world.changes == [ModelState.ACTIVE, ModelState.INACTIVE, ModelState.ACTIVE]
