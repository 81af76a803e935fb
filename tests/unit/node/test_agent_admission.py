"""What an agent takes: several models, the operator's rules, deadlines; each refusal is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from node.agent.admission_rules import OperatorRules
from node.agent.job_pace import JobPace
from node.agent.runtime_port import ModelPace, ModelState
from p2p.errors import RefusedError
from p2p.job_messages import AcceptFrame, CancelFrame, EndFrame, LoadReport, RefuseFrame
from p2p.network_configuration import price_terms
from tests.fakes.job_desk import INPUT_TOKENS, Desk, FakeRuntime
from tests.fakes.served_models import FakeModel
from tests.fakes.trust import GATEWAY, MODEL, OTHER_GATEWAY, configuration

OTHER_DIGEST = bytes([9]) * 32
OTHER = MODEL.model_copy(update={"name": "other-chat", "digest": OTHER_DIGEST.hex()})


def desk_of_two(**options: Any) -> tuple[Desk, FakeModel, FakeRuntime]:
    """A node that serves two models; gives the second one and its runtime."""
    desk = Desk(**options)
    desk.book.offer(configuration(2, desk.book.signed, models=(MODEL, OTHER)))
    runtime = FakeRuntime()
    facts = replace(desk.model.facts, name="other-chat", digest=OTHER_DIGEST, model_id=bytes(32))
    other = FakeModel(runtime, facts=facts)
    desk.models.list.append(other)
    return desk, other, runtime


def offer_to_other(desk: Desk, number: int = 1, **changes: Any) -> Any:
    terms = price_terms(desk.book.current, OTHER)
    return desk.offer(number, model_digest=OTHER_DIGEST, terms=terms, **changes)


async def refusal_of(desk: Desk, offer: Any, number: int = 1) -> RefuseFrame:
    before = len(desk.of(RefuseFrame))
    desk.send_offer(offer, number)
    frame = await desk.next(RefuseFrame, before + 1)
    await desk.settle()
    assert desk.agent.jobs == 0
    assert sum(model.jobs for model in desk.models.list) == 0
    return frame


# --- several models -----------------------------------------------------------------------------
async def test_each_job_goes_to_its_models_runtime() -> None:
    desk, other, runtime = desk_of_two()
    async with desk.session():
        await desk.start_job(1)
        offer = offer_to_other(desk, 2)
        desk.send_offer(offer, 2)
        desk.send_voucher(offer, 2)
        await desk.settle()
        assert (len(desk.runtime.sinks), len(runtime.sinks)) == (1, 1)
        assert (desk.model.jobs, other.jobs, desk.agent.jobs) == (1, 1, 2)
        desk.link.send(CancelFrame(2, "enough"))
        await desk.next(EndFrame)
        assert (desk.runtime.cancelled, runtime.cancelled) == ([], [1])
        assert (desk.model.jobs, other.jobs) == (1, 0)
    assert desk.model.jobs == 0
    assert desk.runtime.cancelled == [1]


async def test_the_load_is_over_all_models_that_are_active(
    autojump_clock: trio.abc.Clock,
) -> None:
    desk, other, _ = desk_of_two(slots=2)
    async with desk.session():
        for number in (1, 2, 3):
            await desk.start_job(number)
        offer = offer_to_other(desk, 4)
        desk.send_offer(offer, 4)
        await desk.next(AcceptFrame, 4)
        assert desk.agent.load() == LoadReport(3, 1, 4, 25.0, True)
        other.state = ModelState.FAILED
        assert desk.agent.load() == LoadReport(3, 1, 2, 12.5, True)
        desk.model.state = ModelState.INACTIVE
        assert desk.agent.load() == LoadReport(3, 1, 0, 0.0, False)
        assert desk.agent.adverts() == ()


async def test_a_queue_of_one_model_leaves_the_other_free() -> None:
    desk, _, _ = desk_of_two(slots=1, queue_jobs_max=1)
    async with desk.session():
        for number in (1, 2):
            await desk.start_job(number)
        desk.send_offer(desk.offer(3), 3)
        assert (await desk.next(RefuseFrame)).code == "busy"
        desk.send_offer(offer_to_other(desk, 4), 4)
        await desk.next(AcceptFrame, 3)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (ModelState.PENDING, "runtime"),
        (ModelState.FAILED, "runtime"),
        (ModelState.INACTIVE, "model_not_served"),
        (ModelState.ARCHIVED, "model_not_served"),
    ],
)
async def test_a_model_that_is_not_active(state: ModelState, code: str) -> None:
    desk = Desk()
    desk.model.state, desk.model.reason = state, "because of the weather"
    async with desk.session():
        frame = await refusal_of(desk, desk.offer())
        assert frame.code == code
        assert "because of the weather" in frame.reason
        assert desk.agent.refusals.counts == {code: 1}


async def test_an_offer_waits_for_a_model_as_long_as_its_deadline_allows() -> None:
    async with Desk().session() as desk:
        desk.model.refusal = RefusedError("deadline", "loading takes 9 s", 9.0)
        frame = await refusal_of(desk, desk.offer(deadline_ms=desk.clock.now_ms + 5_000))
        assert (frame.code, frame.retry_after_ms) == ("deadline", 9000)
        assert desk.model.waits == [5.0]
        assert desk.runtime.prepared == {}


async def test_what_another_node_began() -> None:
    async with Desk().session() as desk:
        desk.model.facts = replace(desk.model.facts, resumable=False)
        frame = await refusal_of(desk, desk.offer(resume_tokens=(1, 2)))
        assert frame.code == "not_resumable"


# --- the operator's rules -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"callers_denied": (GATEWAY.peer_id,)}, "caller_not_allowed"),
        ({"callers_allowed": (OTHER_GATEWAY.peer_id,)}, "caller_not_allowed"),
        ({"models": ("other",)}, "model_not_served"),
        ({"output_microcredits_per_million_tokens_min": 10**9}, "price_too_low"),
        ({"output_tokens_max": 49}, "too_large"),
        ({"input_tokens_max": INPUT_TOKENS - 1}, "too_large"),
    ],
)
async def test_rules_refuse(rules: dict[str, Any], code: str) -> None:
    desk = Desk(rules=OperatorRules(**rules))
    async with desk.session():
        assert (await refusal_of(desk, desk.offer())).code == code
        assert len(desk.runtime.cancelled) == len(desk.runtime.prepared), "nothing stays prepared"


async def test_hours(autojump_clock: trio.abc.Clock) -> None:
    desk = Desk(rules=OperatorRules(schedule=("fri 08:00-08:01",)))  # the fake clock's start
    async with desk.session():
        assert desk.agent.load().accepting
        assert len(desk.agent.adverts()) == 1
        await desk.start_job()
        desk.clock.now_ms += 60_000
        assert not desk.agent.load().accepting
        assert desk.agent.adverts() == ()
        desk.send_offer(desk.offer(2, deadline_ms=desk.clock.now_ms + 20_000), 2)
        frame = await desk.next(RefuseFrame)
        assert frame.code == "outside_hours"
        assert 0 < frame.retry_after_ms <= 3_600_000
        assert desk.agent.jobs == 1, "what runs goes on"


async def test_the_load_that_an_operator_allows() -> None:
    desk = Desk(slots=4, rules=OperatorRules(jobs_max=2))
    async with desk.session():
        for number in (1, 2):
            await desk.start_job(number)
        desk.send_offer(desk.offer(3), 3)
        frame = await desk.next(RefuseFrame)
        assert (frame.code, frame.retry_after_ms) == ("busy", 1000)
    desk = Desk(slots=4, rules=OperatorRules(slots_share_max=0.25))
    async with desk.session():
        await desk.start_job(1)
        desk.send_offer(desk.offer(2), 2)
        assert (await desk.next(RefuseFrame)).code == "busy"


# --- deadlines ------------------------------------------------------------------------------------
async def test_a_job_that_could_not_begin_in_time_is_refused_at_once() -> None:
    desk = Desk(slots=2, queue_jobs_max=10)
    desk.model.pace = ModelPace(output=10.0)
    async with desk.session():
        for number in (1, 2, 3):
            await desk.start_job(number)
        # Nothing is known of answers yet: the fourth is taken.
        desk.send_offer(desk.offer(4, deadline_ms=desk.clock.now_ms + 3_000), 4)
        await desk.next(AcceptFrame, 4)
        desk.runtime.sinks[1].on_output(tuple(range(20)), "x")
        desk.runtime.sinks[1].on_end("stop", "")
        await desk.next(EndFrame)
        # Answers have 20 tokens, 10 come a second: two jobs ahead take 4 s.
        desk.send_offer(desk.offer(5, deadline_ms=desk.clock.now_ms + 3_000), 5)
        frame = await desk.next(RefuseFrame)
        assert (frame.code, frame.retry_after_ms) == ("deadline", 4000)
        assert "in 4.0 s" in frame.reason
        desk.send_offer(desk.offer(6, deadline_ms=desk.clock.now_ms + 5_000), 6)
        await desk.next(AcceptFrame, 5)


async def test_reading_the_input_counts_too() -> None:
    desk = Desk()
    desk.agent.paces[desk.model.facts.digest] = JobPace(prefill_tokens_per_s=1.0)
    async with desk.session():
        frame = await refusal_of(desk, desk.offer(deadline_ms=desk.clock.now_ms + 6_000))
        assert frame.code == "deadline"
        assert "in 7.0 s (0.0 s of them waiting)" in frame.reason
        assert desk.runtime.cancelled == [1]


async def test_speed_is_learnt_from_jobs() -> None:
    async with Desk().session() as desk:
        desk.runtime.input_tokens = 100
        await desk.start_job()
        desk.clock.now_ms += 500
        desk.runtime.sink.on_cached(20)
        desk.runtime.sink.on_output((1,), "a")
        desk.runtime.sink.on_end("stop", "")
        pace = desk.agent.pace_of(desk.model)
        assert (pace.output_tokens, pace.prefill_tokens_per_s) == (1.0, 160.0)


async def test_a_job_that_waits_for_a_slot_ends_with_its_deadline(
    autojump_clock: trio.abc.Clock,
) -> None:
    desk = Desk(slots=1)
    desk.runtime.ends_by_itself = False
    async with desk.session():
        await desk.start_job(1, deadline_ms=desk.clock.now_ms + 100_000)
        await desk.start_job(2, deadline_ms=desk.clock.now_ms + 2_000)
        desk.clock.now_ms += 3_000
        end = await desk.next(EndFrame)
        assert (end.number, end.outcome) == (2, "cancelled")
        assert "deadline passed" in end.detail
        assert desk.runtime.cancelled == [2]
        assert (desk.agent.jobs, desk.model.jobs) == (1, 1)
        await trio.sleep(3)
        assert desk.agent.jobs == 1
