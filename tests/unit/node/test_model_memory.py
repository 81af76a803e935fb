"""Several models in one memory: who is loaded, who leaves for whom, who is told to go elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.agent.runtime_port import ModelState
from node.gguf_header import ArrayPlace
from node.serving.local_model import LocalModel
from node.serving.memory import (
    Loaded,
    choose_victims,
    default_memory_bytes,
    estimated_bytes,
    key_value_bytes_per_token,
    measured_bytes,
)
from p2p.errors import RefusedError
from p2p.network_configuration import ApprovedModel
from tests.fakes.local_models import ModelWorld, Shelf, at_once, file_with, until
from tests.fakes.trust import MODEL, book_with, configuration

DEMO_MODEL = Path(__file__).parents[3] / "resultity" / "models" / "tiny-chat-q8_0.gguf"
A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))


@pytest.fixture
def clock(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> trio.testing.MockClock:
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    return autojump_clock


def world_of_three(*, bytes_max: int = 200) -> ModelWorld:
    """Three models of 100 bytes each, all approved."""
    names = {A: "a", B: "b", C: "c"}
    approved: tuple[ApprovedModel, ...] = tuple(
        MODEL.model_copy(update={"name": name, "digest": digest.hex()})
        for digest, name in names.items()
    )
    book = book_with()
    book.offer(configuration(2, book.signed, models=approved))
    shelf = Shelf([file_with(digest, name) for digest, name in names.items()])
    return ModelWorld(shelf, expected=False, bytes_max=bytes_max, book=book)


def loaded_in(world: ModelWorld) -> set[str]:
    return {model.facts.name for model in world.models.local if model.ready}


async def use(model: LocalModel) -> None:
    """One job from offer to end."""
    model.count(+1)
    await model.runtime(30)
    await trio.sleep(0.1)
    model.count(-1)


async def test_the_least_lately_used_leaves(clock: Any, nursery: Any) -> None:
    world = world_of_three()
    await nursery.start(world.models.run)
    a, b, c = (world.with_digest(digest) for digest in (A, B, C))
    await use(a)
    await use(b)
    assert loaded_in(world) == {"a", "b"}
    await use(a)
    await use(c)
    assert loaded_in(world) == {"a", "c"}
    assert [model.counters.loads for model in (a, b, c)] == [1, 1, 1]
    assert b.state is ModelState.ACTIVE, "it comes back when it is needed"
    await use(b)
    assert loaded_in(world) == {"b", "c"}
    assert world.models.room.used_bytes == 200


async def test_none_with_jobs_leaves(clock: Any, nursery: Any) -> None:
    world = world_of_three()
    await nursery.start(world.models.run)
    a, b, c = (world.with_digest(digest) for digest in (A, B, C))
    for model in (a, b):
        model.count(+1)
        await model.runtime(30)
    c.count(+1)
    with pytest.raises(RefusedError, match="models with jobs have") as refused:
        await c.runtime(30)
    assert refused.value.code == "busy"
    assert refused.value.retry_after_s
    assert loaded_in(world) == {"a", "b"}
    assert c.state is ModelState.ACTIVE, "that is no failure of the model"
    b.count(-1)
    await c.runtime(30)
    assert loaded_in(world) == {"a", "c"}


async def test_a_model_larger_than_the_memory(clock: Any, nursery: Any) -> None:
    world = world_of_three(bytes_max=99)
    await nursery.start(world.models.run)
    with pytest.raises(RefusedError, match="raise memory_bytes_max") as refused:
        await world.with_digest(A).runtime(30)
    assert refused.value.code == "runtime"
    assert world.with_digest(A).state is ModelState.FAILED, "it never fits: it is not offered"
    assert world.with_digest(A).advert() is None
    assert world.shelf.processes == {}


async def test_a_deadline_that_loading_would_miss(clock: Any, nursery: Any) -> None:
    world = world_of_three(bytes_max=100)
    await nursery.start(world.models.run)
    a, b = world.with_digest(A), world.with_digest(B)
    await use(a)
    with pytest.raises(
        RefusedError, match=r"takes about 1\.0 s, the deadline leaves 0\.2 s"
    ) as told:
        await b.runtime(0.2)
    assert told.value.code == "deadline"
    await trio.sleep(3)
    assert loaded_in(world) == {"a"}, "nobody leaves for a job that is refused"
    await a.unload()
    with pytest.raises(RefusedError):
        await b.runtime(0.2)
    await until(lambda: loaded_in(world) == {"b"}, 5)  # there was room: the next offer finds it
    await b.unload()
    world.shelf.load_s = 3.0
    with pytest.raises(RefusedError, match="was not loaded within") as told:
        await b.runtime(2)
    assert told.value.code == "deadline"
    await until(lambda: b.ready, 5)
    await b.unload()
    with pytest.raises(RefusedError, match="takes about 3"):  # it was measured meanwhile
        await b.runtime(2)


async def test_a_load_that_fails_is_told_to_those_who_wait(clock: Any, nursery: Any) -> None:
    world = world_of_three()
    world.shelf.changed[A] = "the file was changed"
    await nursery.start(world.models.run)
    with pytest.raises(RefusedError, match="the file was changed") as refused:
        await world.with_digest(A).runtime(30)
    assert refused.value.code == "runtime"
    assert world.with_digest(A).state is ModelState.FAILED
    await use(world.with_digest(B))


LOADED = st.lists(
    st.builds(
        Loaded,
        digest=st.binary(min_size=4, max_size=4),
        memory_bytes=st.integers(1, 100),
        jobs=st.integers(0, 2),
        used_at_s=st.floats(0, 100),
    ),
    max_size=6,
    unique_by=lambda model: model.digest,
)


@given(LOADED, st.integers(1, 300), st.integers(1, 300))
def test_who_leaves(loaded: list[Loaded], needed: int, bytes_max: int) -> None:
    victims = choose_victims(loaded, needed, bytes_max)
    by_digest = {model.digest: model for model in loaded}
    idle = sum(model.memory_bytes for model in loaded if not model.jobs)
    used = sum(model.memory_bytes for model in loaded)
    if victims is None:
        assert used - idle + needed > bytes_max, "there was a way"
        return
    gone = [by_digest[digest] for digest in victims]
    assert all(model.jobs == 0 for model in gone)
    assert used - sum(model.memory_bytes for model in gone) + needed <= bytes_max
    if gone:  # nobody leaves who need not, and the least lately used go first
        assert used - sum(model.memory_bytes for model in gone[:-1]) + needed > bytes_max
        stays = [model for model in loaded if model.digest not in victims and not model.jobs]
        assert all(left.used_at_s >= gone[-1].used_at_s for left in stays)


def test_what_a_model_takes() -> None:
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 32,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "llama.embedding_length": 4096,
    }
    # Llama 3.1 8B: 32 layers, 8 heads of 128, keys and values, two bytes each.
    assert key_value_bytes_per_token(metadata) == 32 * 8 * 256 * 2
    wide = {**metadata, "llama.attention.key_length": 256, "llama.attention.value_length": 128}
    assert key_value_bytes_per_token(wide) == 32 * 8 * 384 * 2
    by_layer = {**metadata, "llama.attention.head_count_kv": ArrayPlace(4, 32, 0, 0)}
    assert key_value_bytes_per_token(by_layer) == 32 * 32 * 256 * 2
    assert key_value_bytes_per_token({"general.architecture": "mamba"}) == 0
    small = estimated_bytes(DEMO_MODEL, slots=1, context_tokens=1)
    assert small > DEMO_MODEL.stat().st_size
    # The demo model: 4 layers, 4 heads of 32.
    more = estimated_bytes(DEMO_MODEL, slots=4, context_tokens=1024)
    assert more - small == (4 * 1024 - 1) * 4 * 4 * 64 * 2
    assert default_memory_bytes() > 0
    assert measured_bytes(2**22 + 1) == 0
