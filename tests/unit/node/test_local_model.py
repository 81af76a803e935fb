"""Owns the tests of one served model: active only while approved, unchanged and proved."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from node.agent.admission_rules import OperatorRules
from node.agent.runtime_port import ModelState
from node.errors import NodeError, RuntimeRefusedError, RuntimeStartError, RuntimeUnavailableError
from node.limits import MODEL_RETRY_S_MAX, MODEL_RETRY_S_MIN
from node.serving.judging import Signs, judge
from node.serving.trouble import Trouble
from p2p.approved_models import ApprovedModel
from p2p.errors import RefusedError
from tests.fakes.local_models import FILE, ModelWorld, Shelf, at_once, file_with, until
from tests.fakes.trust import MODEL, MODEL_DIGEST, MODEL_ID, configuration


@pytest.fixture
def clock(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> trio.testing.MockClock:
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    return autojump_clock


async def test_it_is_served_once_it_proved_itself(clock: Any, nursery: Any) -> None:
    world = ModelWorld()
    world.shelf.hold_back = trio.Event()
    await nursery.start(world.models.run)
    await until(lambda: world.shelf.tests)
    assert (world.model.state, world.model.ready) == (ModelState.PENDING, False)
    assert world.model.advert() is None
    world.shelf.hold_back.set()
    await world.model.first()
    assert world.model.state is ModelState.ACTIVE
    advert = world.model.advert()
    assert advert is not None
    assert (advert.name, advert.digest, advert.model_id) == ("tiny-chat", MODEL_DIGEST, MODEL_ID)
    assert (advert.context_tokens, advert.slots, advert.quantisation) == (512, 4, "Q8_0")
    await until(lambda: world.changes[-1] is ModelState.ACTIVE)
    await trio.sleep(5)
    assert (world.shelf.tests, world.model.counters.loads) == (1, 1)
    assert world.shelf.notes == [(MODEL_DIGEST, ModelState.ACTIVE, "")]


async def test_it_is_loaded_when_an_offer_needs_it(clock: Any, nursery: Any) -> None:
    other = file_with(bytes([9]) * 32, "other")
    world = ModelWorld(Shelf([FILE, other]), expected=False)
    await nursery.start(world.models.run)
    model = world.model
    await trio.sleep(2)
    assert world.shelf.processes == {}
    world.shelf.load_s = 0.5
    assert model.state is ModelState.ACTIVE
    advert = model.advert()
    assert advert is not None
    assert (advert.context_tokens, advert.slots) == (1024, 4)
    got: list[Any] = []

    async def ask() -> None:
        got.append(await model.runtime(20))

    async with trio.open_nursery() as asking:
        for _ in range(5):
            asking.start_soon(ask)
        await until(lambda: not model.ready)
        assert model.state is ModelState.ACTIVE, "it is advertised while it is being loaded"
    assert model.counters.loads == 1
    assert all(one is world.process for one in got)


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "between two looks"])
async def test_a_restarted_runtime_proves_itself_again(
    clock: Any, nursery: Any, seen: bool
) -> None:
    world = ModelWorld()
    await nursery.start(world.models.run)
    await world.model.first()
    world.shelf.hold_back = trio.Event()
    if seen:
        world.process.ready = False
        assert world.model.state is ModelState.PENDING
        await trio.sleep(2)
    world.process.crash()
    await until(lambda: world.process.restarts == 1)
    assert not world.model.ready
    assert world.model.state is ModelState.PENDING
    with pytest.raises(RefusedError, match="starting again"):
        await world.model.runtime(1)
    world.shelf.hold_back.set()
    await until(lambda: world.model.ready)
    assert world.model.state is ModelState.ACTIVE
    assert (world.shelf.tests, world.model.counters.restarts) == (2, 1)


@pytest.mark.parametrize(
    "error", [RuntimeUnavailableError("slow"), RuntimeRefusedError("busy", "slow")]
)
async def test_a_failed_proof_is_tried_again(clock: Any, nursery: Any, error: NodeError) -> None:
    world = ModelWorld()
    world.shelf.test_error = error
    await nursery.start(world.models.run)
    with pytest.raises(NodeError, match="slow"):
        await world.model.first()
    assert (world.model.state, world.model.reason) == (ModelState.FAILED, "slow")
    assert world.model.advert() is None
    assert world.process.ended, "a runtime that proved nothing is not kept"
    with pytest.raises(RefusedError, match="slow"):
        await world.model.runtime(1)
    world.shelf.test_error = None
    await until(lambda: world.model.ready, 2 * MODEL_RETRY_S_MIN)
    # Proved once, then failing after a restart: the runtime is kept and asked again.
    world.shelf.test_error = error
    world.process.crash()
    await until(lambda: world.model.state is ModelState.FAILED)
    world.shelf.test_error = None
    await until(lambda: world.model.ready, 5)
    assert world.model.state is ModelState.ACTIVE


async def test_a_runtime_that_does_not_start_is_tried_again(clock: Any, nursery: Any) -> None:
    world = ModelWorld()
    world.shelf.start_error = RuntimeStartError("cannot load")
    await nursery.start(world.models.run)
    with pytest.raises(RuntimeStartError):
        await world.model.first()
    world.shelf.start_error = None
    await until(lambda: world.model.ready, 2 * MODEL_RETRY_S_MIN)


def test_what_keeps_failing_is_tried_less_and_less() -> None:
    trouble, now_s, tries = Trouble(), 0.0, 0
    while now_s < 86_400:
        trouble.note("cannot load", now_s)
        assert MODEL_RETRY_S_MIN <= trouble.retry_at_s - now_s <= MODEL_RETRY_S_MAX
        now_s, tries = trouble.retry_at_s, tries + 1
    assert tries < 200
    trouble.clear()
    assert trouble == Trouble()


async def test_a_file_that_was_changed_is_noticed_before_each_start(
    clock: Any, nursery: Any
) -> None:
    world = ModelWorld()
    await nursery.start(world.models.run)
    await world.model.first()
    world.shelf.changed[MODEL_DIGEST] = "changed on disk"
    await trio.sleep(4)
    assert world.model.ready, "what runs has the old file in memory"
    world.process.crash()
    await until(lambda: world.model.state is ModelState.FAILED)
    assert world.model.reason == "changed on disk"
    assert world.process.ended
    assert world.process.restarts == 0
    processes = len(world.shelf.processes[MODEL_DIGEST])
    await trio.sleep(3 * MODEL_RETRY_S_MIN)
    assert len(world.shelf.processes[MODEL_DIGEST]) == processes, "nothing was loaded"
    world.shelf.changed.clear()
    await until(lambda: world.model.ready, 1000)


async def test_the_configuration_decides(clock: Any, nursery: Any) -> None:
    world = ModelWorld()
    await nursery.start(world.models.run)
    await world.model.first()
    without = configuration(2, world.book.signed, models=())
    world.book.offer(without)
    assert world.model.advert() is None
    assert world.model.state is ModelState.INACTIVE
    assert "does not approve" in world.model.reason
    await trio.sleep(4)
    assert world.changes[-1] is ModelState.INACTIVE
    assert world.shelf.notes[-1][1] is ModelState.INACTIVE
    world.book.offer(configuration(3, without))
    assert world.model.ready, "the model that a node is for stays in memory"
    assert world.model.state is ModelState.ACTIVE


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (OperatorRules(models=("other-*",)), "do not allow tiny-chat"),
        (OperatorRules(input_microcredits_per_million_tokens_min=10**9), "input tokens"),
        (OperatorRules(output_microcredits_per_million_tokens_min=10**9), "output tokens"),
    ],
)
async def test_the_operators_rules_decide(
    clock: Any, nursery: Any, rules: OperatorRules, words: str
) -> None:
    world = ModelWorld(rules=rules)
    await nursery.start(world.models.run)
    assert world.model.state is ModelState.INACTIVE
    assert words in world.model.reason
    assert world.model.advert() is None


async def test_what_the_operator_put_aside_is_not_loaded(clock: Any, nursery: Any) -> None:
    world = ModelWorld()
    world.shelf.states[MODEL_DIGEST] = (ModelState.ARCHIVED, "by the operator")
    await nursery.start(world.models.run)
    await trio.sleep(5)
    assert world.shelf.processes == {}
    assert (world.model.state, world.model.reason) == (ModelState.ARCHIVED, "by the operator")
    world.shelf.states.clear()
    world.shelf.version += 1
    await until(lambda: world.model.ready, 20)
    # And away again, while it has a job: that one is finished first.
    world.model.count(+1)
    world.shelf.states[MODEL_DIGEST] = (ModelState.ARCHIVED, "")
    world.shelf.version += 1
    await until(lambda: world.model.state is ModelState.ARCHIVED)
    await trio.sleep(5)
    assert not world.process.ended
    world.model.count(-1)
    await until(lambda: world.process.ended, 5)


async def test_a_model_that_is_removed_finishes_its_jobs(clock: Any, nursery: Any) -> None:
    world = ModelWorld()
    await nursery.start(world.models.run)
    model = world.model
    await model.first()
    model.count(+1)
    world.shelf.files = []
    world.shelf.version += 1
    await until(lambda: not world.models.local)
    assert world.models.get(MODEL_DIGEST) is None
    assert not world.process.ended
    model.count(-1)
    await until(lambda: world.process.ended, 5)


SIGNS = Signs(ModelState.PENDING, "", True, True, "", "", False, False, False)


def test_every_state_has_its_reason() -> None:
    assert judge(SIGNS) == (ModelState.ACTIVE, "it is loaded when a job needs it")
    seen = set()
    for state in ModelState:
        for flags in range(2**6):
            bits = [bool(flags >> bit & 1) for bit in range(6)]
            signs = Signs(
                state, "shelf", bits[0], bits[1], "", "broken" if bits[2] else "", *bits[3:]
            )
            found, reason = judge(signs)
            seen.add(found)
            assert reason or (found is ModelState.ACTIVE and signs.ready)
            if found is ModelState.ACTIVE:
                assert signs.approved
                assert signs.configured
                assert not signs.failure
    assert seen == set(ModelState)


async def test_a_store_that_cannot_be_read_changes_nothing(clock: Any, nursery: Any) -> None:
    world = ModelWorld()
    await nursery.start(world.models.run)
    await world.model.first()

    def broken() -> bytes:
        raise OSError("the disk is gone")

    world.shelf.changed_token = broken  # type: ignore[method-assign]
    await trio.sleep(5)
    assert world.model.ready


async def test_a_policy_may_approve_what_the_network_does_not(clock: Any, nursery: Any) -> None:
    approved: list[ApprovedModel] = []
    world = ModelWorld(own_model=lambda digest: next(iter(approved), None))
    await nursery.start(world.models.run)
    await world.model.first()
    world.book.offer(configuration(2, world.book.signed, models=()))
    assert world.model.state is ModelState.INACTIVE
    approved.append(MODEL.model_copy(update={"name": "tuned", "context_tokens": 512}))
    assert world.model.state is ModelState.ACTIVE
    advert = world.model.advert()
    assert advert is not None
    assert (advert.name, advert.context_tokens) == ("tuned", 512)
    approved.clear()
    assert world.model.advert() is None
