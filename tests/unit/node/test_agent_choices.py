"""Several choices of one offer at the agent: one receipt for all, each drawn by itself."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from gateway.peer.attempt import Attempt, Ending
from gateway.peer.unverified_counts import UnverifiedCounts
from node.agent.admission_rules import OperatorRules
from node.errors import RuntimeRefusedError
from p2p.job_messages import (
    OUTPUT_HASH_START,
    Accept,
    AcceptFrame,
    CancelFrame,
    ChoiceState,
    EndFrame,
    NodeReceipt,
    Offer,
    OutputFrame,
    RefuseFrame,
    choice_seed,
    next_output_hash,
)
from p2p.logprob_messages import TokenLogprob
from p2p.signing import open_signed
from tests.fakes.job_desk import INPUT_TOKENS, REQUEST, Desk
from tests.fakes.trust import GATEWAY, NETWORK, NODE

SEEDS = [choice_seed(5, choice) for choice in range(8)]


def receipt_of(frame: OutputFrame | EndFrame) -> NodeReceipt:
    assert frame.receipt is not None
    return open_signed(frame.receipt, NodeReceipt, NETWORK, NODE.public_key)


async def started(desk: Desk, number: int = 1, **changes: Any) -> Offer:
    """Offer a job and pay for it."""
    offer = desk.offer(number, **changes)
    desk.send_offer(offer, number)
    desk.send_voucher(offer, number)
    await desk.next(AcceptFrame)
    await desk.settle()
    return offer


def watched(desk: Desk, offer: Offer, unverified: UnverifiedCounts | None = None) -> Attempt:
    """What the gateway makes of the frames that came."""
    attempt = Attempt(offer, GATEWAY.sign(NETWORK, offer), 0.0, unverified=unverified)
    attempt.accept(desk.of(AcceptFrame)[0], 0.0)
    for frame in desk.of(OutputFrame):
        attempt.output(frame, 0.0)
    for end in desk.of(EndFrame):
        attempt.end(end, 0.0)
    return attempt


def test_seeds_differ_and_the_first_is_the_job_s() -> None:
    assert SEEDS[0] == 5
    assert len(set(SEEDS)) == 8
    assert SEEDS[1] == 0x2268ADE7


async def test_choices_from_offer_to_receipt() -> None:
    async with Desk(slots=3).session() as desk:
        await started(desk, choices=3)
        accept = open_signed(desk.of(AcceptFrame)[0].accept, Accept, NETWORK, NODE.public_key)
        assert (accept.input_tokens, accept.output_tokens_max) == (INPUT_TOKENS, 48)
        assert desk.runtime.prepared == {
            number: (REQUEST, 16, SEEDS[number - 1], ()) for number in (1, 2, 3)
        }
        assert (desk.agent.jobs, desk.model.jobs) == (3, 3)
        assert desk.agent.load().running == 3
        first, second, third = (desk.runtime.sinks[number] for number in (1, 2, 3))
        first.on_cached(4)
        second.on_cached(6)
        first.on_output((1,), "a")
        third.on_output((2, 3), "bc", (TokenLogprob(b"b", -0.5), TokenLogprob(b"c", -0.25)))
        second.on_end("length", "")
        third.on_end("stop", "")
        first.on_output((4,), "d")
        first.on_end("stop", "")
        end = await desk.next(EndFrame)
        frames = desk.of(OutputFrame)
        assert [(frame.choice, frame.text, frame.finish) for frame in frames] == [
            (0, "a", ""),
            (2, "bc", ""),
            (1, "", "length"),
            (2, "", "stop"),
            (0, "d", ""),
            (0, "", "stop"),
        ]
        assert [len(frame.logprobs) for frame in frames] == [0, 2, 0, 0, 0, 0]
        running = OUTPUT_HASH_START
        for frame in frames:
            running = next_output_hash(running, frame.token_ids, frame.text, frame.choice)
            assert receipt_of(frame).output_hash == running
        receipt = receipt_of(end)
        assert (receipt.input_tokens, receipt.output_tokens) == (INPUT_TOKENS, 4)
        assert (receipt.finish_reason, receipt.seed) == ("length", 5)
        assert receipt.cached_input_tokens == 4
        assert (desk.agent.jobs, desk.agent.jobs_done, desk.model.jobs) == (0, 1, 0)


async def test_the_gateway_agrees_with_the_agent() -> None:
    async with Desk(slots=2).session() as desk:
        offer = await started(desk, choices=2)
        for number in (1, 2):
            desk.runtime.sinks[number].on_output((number,), "x")
            desk.runtime.sinks[number].on_end("stop", "")
        await desk.next(EndFrame)
        attempt = watched(desk, offer)
        assert (attempt.ending, attempt.output_tokens) == (Ending.COMPLETE, 2)
        assert attempt.verified_receipt(NETWORK) is not None


async def test_the_input_of_an_unverified_model_only_rises() -> None:
    """Whichever choice a server answers first: what was accepted is a bound, no statement."""
    async with Desk(slots=2).session() as desk:
        offer = await started(desk, choices=2)
        first, second = desk.runtime.sinks[1], desk.runtime.sinks[2]
        second.on_input(2)
        second.on_output((0,), "x")
        first.on_input(2)
        first.on_output((0,), "y")
        second.on_input(5)
        second.on_end("stop", "")
        first.on_input(4)
        first.on_end("stop", "")
        await desk.next(EndFrame)
        attempt = watched(desk, offer, UnverifiedCounts())
        assert (attempt.ending, attempt.input_tokens) == (Ending.COMPLETE, 5)


async def test_the_prompt_is_computed_once_even_if_nothing_is_shared() -> None:
    desk = Desk(slots=4)
    desk.agent.cache_shared = "off"
    async with desk.session():
        await started(desk, choices=2, cache_scope=b"a" * 16)
        desk.send_offer(desk.offer(2, choices=2, cache_scope=b"a" * 16), 2)
        await desk.next(AcceptFrame, 2)
    scopes = [desk.runtime.asked[number][1] for number in (1, 2, 3, 4)]
    assert scopes[0] == scopes[1]
    assert scopes[2] == scopes[3]
    assert len({b"", b"a" * 16, scopes[0], scopes[2]}) == 4


async def test_only_the_choices_that_are_not_over_run() -> None:
    async with Desk(slots=2).session() as desk:
        states = (ChoiceState(0, (7, 8)), ChoiceState(1, (), "stop"))
        offer = await started(desk, choices=3, resume_choices=states)
        assert [(job[2], job[3]) for job in desk.runtime.prepared.values()] == [
            (SEEDS[0], (7, 8)),
            (SEEDS[2], ()),
        ]
        assert desk.model.jobs == 2
        desk.runtime.sinks[1].on_output((9,), "x")
        for number in (1, 2):
            desk.runtime.sinks[number].on_end("stop", "")
        await desk.next(EndFrame)
        attempt = watched(desk, offer)
        assert (attempt.ending, attempt.output_tokens) == (Ending.COMPLETE, 1)


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
async def test_one_that_fails_ends_all(outcome: str) -> None:
    async with Desk(slots=3).session() as desk:
        await started(desk, choices=3)
        desk.runtime.sinks[3].on_end("stop", "")
        desk.runtime.sinks[1].on_output((1,), "a")
        desk.runtime.sinks[2].on_end(outcome, "detail")
        end = await desk.next(EndFrame)
        assert (end.outcome, end.detail) == (outcome, "detail")
        assert receipt_of(end).output_tokens == 1
        assert desk.runtime.cancelled == [1]
        assert (desk.agent.jobs, desk.model.jobs) == (0, 0)


async def test_a_cancel_stops_all() -> None:
    async with Desk(slots=3).session() as desk:
        await started(desk, choices=3)
        desk.runtime.sinks[2].on_output((1,), "a")
        desk.link.send(CancelFrame(1, "enough"))
        end = await desk.next(EndFrame)
        assert end.outcome == "cancelled"
        assert sorted(desk.runtime.cancelled) == [1, 2, 3]
        assert (desk.agent.jobs, desk.model.jobs) == (0, 0)


async def test_a_lost_session_stops_all() -> None:
    async with Desk(slots=3).session() as desk:
        await started(desk, choices=3)
        await desk.stream.reset()
        await desk.ended.wait()
        assert sorted(set(desk.runtime.cancelled)) == [1, 2, 3]
        assert (desk.agent.jobs, desk.model.jobs) == (0, 0)


async def test_more_choices_than_slots_are_refused_early() -> None:
    async with Desk(slots=2, queue_jobs_max=8).session() as desk:
        desk.send_offer(desk.offer(choices=3))
        refusal = await desk.next(RefuseFrame)
        assert refusal.code == "too_many_choices"
        assert not desk.runtime.prepared
        assert (desk.agent.jobs, desk.model.jobs) == (0, 0)


async def test_more_choices_than_the_operator_s_share_are_not_asked_for_again() -> None:
    desk = Desk(slots=4)
    desk.agent.rules = OperatorRules(slots_share_max=0.5)
    async with desk.session():
        desk.send_offer(desk.offer(choices=3))
        assert (await desk.next(RefuseFrame)).code == "too_many_choices"
        await started(desk, 2, choices=2)


async def test_choices_need_room_in_the_queue() -> None:
    async with Desk(slots=2, queue_jobs_max=1).session() as desk:
        await started(desk, choices=2)
        desk.send_offer(desk.offer(2, choices=2), 2)
        refusal = await desk.next(RefuseFrame)
        assert (refusal.code, desk.model.jobs) == ("busy", 2)
        desk.send_offer(desk.offer(3), 3)
        await desk.next(AcceptFrame, 2)
        assert desk.model.jobs == 3


STATE = ChoiceState(0, (1,))
BAD: list[dict[str, Any]] = [
    {"resume_choices": (STATE,)},
    {"choices": 2, "resume_choices": (STATE, STATE)},
    {"choices": 2, "resume_choices": (ChoiceState(5, ()),)},
    {"choices": 2, "resume_tokens": (1,)},
    {"choices": 2, "resume_choices": (ChoiceState(0, (), "stop"), ChoiceState(1, (), "stop"))},
    {"choices": 2, "resume_choices": (ChoiceState(0, tuple(range(26))),)},
]


@pytest.mark.parametrize("changes", BAD, ids=range(len(BAD)))
async def test_offers_that_contradict_themselves(changes: dict[str, Any]) -> None:
    async with Desk(slots=4).session() as desk:
        desk.send_offer(desk.offer(**changes))
        refusal = await desk.next(RefuseFrame)
        assert refusal.code == "bad_request"
        assert not desk.runtime.prepared
        assert (desk.agent.jobs, desk.model.jobs) == (0, 0)


async def test_a_choice_that_cannot_be_prepared_takes_the_others_along() -> None:
    async with Desk(slots=3).session() as desk:
        prepare = desk.runtime.prepare

        async def two_only(request: bytes, **options: Any) -> Any:
            if len(desk.runtime.prepared) == 2:
                await trio.lowlevel.checkpoint()
                raise RuntimeRefusedError("bad_request", "no more")
            return await prepare(request, **options)

        desk.runtime.prepare = two_only  # type: ignore[method-assign]
        desk.send_offer(desk.offer(choices=3))
        assert (await desk.next(RefuseFrame)).code == "bad_request"
        assert desk.runtime.cancelled == [1, 2]
        assert (desk.agent.jobs, desk.model.jobs) == (0, 0)
