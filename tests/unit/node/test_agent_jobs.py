"""Owns the tests of the agent's jobs: from an offer to the final receipt, paid or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from node.errors import RuntimeRefusedError, RuntimeUnavailableError
from node.limits import DELIVERY_WAIT_S
from p2p.job_messages import (
    OUTPUT_HASH_START,
    Accept,
    AcceptFrame,
    CancelFrame,
    EndFrame,
    NodeReceipt,
    OutputFrame,
    RefuseFrame,
    next_output_hash,
)
from p2p.signing import open_signed
from tests.fakes.clocks import START_MS
from tests.fakes.job_desk import INPUT_TOKENS, REQUEST, Desk
from tests.fakes.trust import (
    GATEWAY,
    MODEL_DIGEST,
    MODEL_ID,
    NETWORK,
    NODE,
)


def receipt_of(frame: OutputFrame | EndFrame) -> NodeReceipt:
    assert frame.receipt is not None
    return open_signed(frame.receipt, NodeReceipt, NETWORK, NODE.public_key)


# --- the good case ------------------------------------------------------------------------------
async def test_a_job_from_offer_to_receipt() -> None:
    async with Desk().session() as desk:
        offer = desk.offer(resume_tokens=(1, 2))
        signed_offer = desk.send_offer(offer)
        desk.send_voucher(offer)
        accept_frame = await desk.next(AcceptFrame)
        accept = open_signed(accept_frame.accept, Accept, NETWORK, NODE.public_key)
        assert accept == Accept(offer.job_id, 0, signed_offer.digest(), INPUT_TOKENS, 50)
        assert desk.runtime.prepared == {1: (REQUEST, 50, 5, (1, 2))}
        steps: list[tuple[tuple[int, ...], str]] = [((5,), "one "), ((6, 7), "two "), ((), "!")]
        running = OUTPUT_HASH_START
        for place, (tokens, text) in enumerate(steps, start=1):
            desk.clock.advance(0.1)
            desk.runtime.sink.on_output(tokens, text)
            frame = await desk.next(OutputFrame, place)
            assert (frame.number, frame.token_ids, frame.text) == (1, tokens, text)
            running = next_output_hash(running, tokens, text)
            receipt = receipt_of(frame)
            assert (receipt.output_hash, receipt.final) == (running, False)
            assert receipt.output_tokens == sum(len(t) for t, _ in steps[:place])
            assert receipt.at_ms == desk.clock.now_ms
        desk.runtime.sink.on_end("stop", "")
        end = await desk.next(EndFrame)
        receipt = receipt_of(end)
        assert (end.outcome, receipt.finish_reason, receipt.final) == ("stop", "stop", True)
        assert (receipt.input_tokens, receipt.output_tokens) == (INPUT_TOKENS, 3)
        assert receipt.output_hash == running
        assert (receipt.job_id, receipt.hold_id, receipt.seed) == (offer.job_id, offer.hold_id, 5)
        assert (receipt.offer_hash, receipt.gateway_id) == (signed_offer.digest(), GATEWAY.peer_id)
        assert (receipt.request_hash, receipt.model_digest) == (offer.request_hash, MODEL_DIGEST)
        assert (receipt.model_id, receipt.started_ms) == (MODEL_ID, START_MS)
        work = desk.runtime.work
        assert (receipt.build, receipt.mode) == (work.build, "reproducible")
        assert receipt.sampling_hash == work.sampling_hash
        assert desk.agent.jobs == 0
        assert desk.agent.jobs_done == 1


async def test_jobs_side_by_side_keep_their_own_receipts() -> None:
    async with Desk().session() as desk:
        offers = [await desk.start_job(number) for number in (1, 2, 3)]
        for round_number in range(5):
            for number in (1, 2, 3):
                desk.runtime.sinks[number].on_output((round_number,) * number, "x" * number)
        await desk.settle()
        for number, offer in enumerate(offers, start=1):
            frames = [frame for frame in desk.of(OutputFrame) if frame.number == number]
            counts = [receipt_of(frame).output_tokens for frame in frames]
            assert counts == [number * (place + 1) for place in range(5)]
            running = OUTPUT_HASH_START
            for frame in frames:
                running = next_output_hash(running, frame.token_ids, frame.text)
            assert receipt_of(frames[-1]).output_hash == running
            assert receipt_of(frames[-1]).job_id == offer.job_id


@pytest.mark.parametrize("outcome", ["stop", "length", "failed"])
async def test_each_outcome_has_a_receipt(outcome: str) -> None:
    async with Desk().session() as desk:
        await desk.start_job()
        desk.runtime.sink.on_output((1,), "a")
        desk.runtime.sink.on_end(outcome, "detail")
        end = await desk.next(EndFrame)
        assert (end.outcome, end.detail) == (outcome, "detail")
        assert receipt_of(end).finish_reason == outcome
        desk.runtime.sink.on_end(outcome, "again")
        desk.runtime.sink.on_output((2,), "late")
        await desk.settle()
        assert len(desk.of(EndFrame)) == len(desk.of(OutputFrame)) == 1
        assert desk.agent.jobs == 0


# --- refusals -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "code", "numbers"),
    [
        (RuntimeRefusedError("bad_request", "no messages"), "bad_request", (0, 0)),
        (RuntimeRefusedError("unsupported", "no images"), "unsupported", (0, 0)),
        (RuntimeRefusedError("c" * 100, "r" * 5000), "c" * 64, (0, 0)),
        (RuntimeUnavailableError("restarting"), "runtime", (0, 0)),
        (
            RuntimeRefusedError(
                "context_length_exceeded", "too long", input_tokens=9, context_tokens=8
            ),
            "context_length_exceeded",
            (9, 8),
        ),
    ],
)
async def test_what_the_runtime_refuses(error: Any, code: str, numbers: tuple[int, int]) -> None:
    desk = Desk()
    desk.runtime.error = error
    async with desk.session():
        desk.send_offer(desk.offer())
        frame = await desk.next(RefuseFrame)
        assert frame.code == code
        assert (frame.input_tokens, frame.context_tokens) == numbers
        assert desk.agent.jobs == 0
        assert desk.link.is_open


async def test_a_prompt_that_is_longer_than_what_is_paid_for() -> None:
    desk = Desk()
    desk.runtime.input_tokens = 101
    async with desk.session():
        desk.send_offer(desk.offer())
        frame = await desk.next(RefuseFrame)
        assert (frame.code, desk.runtime.cancelled) == ("price", [1])
        assert "101" in frame.reason


async def test_a_full_node_is_busy_and_free_again() -> None:
    async with Desk(slots=1, queue_jobs_max=1).session() as desk:
        await desk.start_job(1)
        await desk.start_job(2)
        desk.send_offer(desk.offer(3), 3)
        frame = await desk.next(RefuseFrame)
        assert (frame.number, frame.code, frame.retry_after_ms) == (3, "busy", 1000)
        desk.runtime.sinks[1].on_end("stop", "")
        await desk.settle()
        desk.send_offer(desk.offer(4), 4)
        await desk.next(AcceptFrame, 3)


# --- cancelling ---------------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["preparing", "accepted", "running", "ended", "unknown"])
async def test_cancel_in_each_state(state: str) -> None:
    desk = Desk()
    if state == "preparing":
        desk.runtime.hold_back = trio.Event()
    async with desk.session():
        offer = desk.offer()
        if state != "unknown":
            desk.send_offer(offer)
        if state in ("running", "ended"):
            desk.send_voucher(offer)
        await desk.settle()
        if state == "ended":
            desk.runtime.sink.on_output((1,), "a")
            desk.runtime.sink.on_end("stop", "")
        desk.link.send(CancelFrame(1, "client left"))
        await desk.settle()
        if desk.runtime.hold_back is not None:
            desk.runtime.hold_back.set()
            await desk.settle()
        outcomes = [(end.outcome, end.receipt is not None) for end in desk.of(EndFrame)]
        expected = {
            "preparing": [("cancelled", False)],
            "accepted": [("cancelled", False)],
            "running": [("cancelled", True)],
            "ended": [("stop", True)],
            "unknown": [],
        }
        assert outcomes == expected[state]
        assert desk.agent.jobs == 0
        assert desk.link.is_open


async def test_output_that_was_made_before_the_cancel_is_in_the_receipt() -> None:
    desk = Desk()
    desk.runtime.ends_by_itself = False
    async with desk.session():
        await desk.start_job()
        desk.runtime.sink.on_output((1, 2), "ab")
        desk.link.send(CancelFrame(1, "enough"))
        await desk.settle()
        assert desk.runtime.cancelled == [1]
        desk.runtime.sink.on_output((3,), "c")
        desk.runtime.sink.on_end("cancelled", "")
        assert receipt_of(await desk.next(EndFrame)).output_tokens == 3


async def test_work_ends_at_the_deadline(autojump_clock: trio.abc.Clock) -> None:
    async with Desk().session() as desk:
        await desk.start_job()
        desk.runtime.sink.on_output((1,), "a")
        desk.clock.advance(61)
        end = await desk.next(EndFrame)
        assert end.outcome == "cancelled"
        assert receipt_of(end).output_tokens == 1


# --- delivery counts ----------------------------------------------------------------------------
async def test_delivery_counts_end_an_attempt(autojump_clock: trio.abc.Clock) -> None:
    async with Desk().session() as desk:
        offer = await desk.start_job()
        desk.runtime.sink.on_output((1, 2, 3), "abc")
        desk.send_delivery(offer, 2, final=False)
        desk.runtime.sink.on_end("stop", "")
        await desk.next(EndFrame)
        desk.send_delivery(offer, 3, final=True)
        await desk.settle()
        assert desk.link.is_open
        desk.send_offer(desk.offer(2), 1)  # the number is free again
        await desk.next(AcceptFrame, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"job_id": bytes(16)},
        {"attempt": 1},
        {"offer_hash": bytes(32)},
        {"hold_id": bytes(16)},
        {"node_id": GATEWAY.peer_id},
        {"output_tokens": 4},
    ],
)
async def test_delivery_counts_that_do_not_fit(changes: dict[str, Any]) -> None:
    async with Desk().session() as desk:
        offer = await desk.start_job()
        desk.runtime.sink.on_output((1, 2, 3), "abc")
        desk.send_delivery(offer, changes.pop("output_tokens", 3), final=False, **changes)
        await desk.ended.wait()
        assert desk.runtime.cancelled == [1]


async def test_delivery_counts_of_nothing_are_ignored() -> None:
    async with Desk().session() as desk:
        desk.send_delivery(desk.offer(), 3, 99, final=True)
        await desk.settle()
        assert desk.link.is_open


async def test_an_attempt_is_forgotten_when_its_last_count_is_late(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with Desk().session() as desk:
        offer = await desk.start_job()
        desk.runtime.sink.on_output((1,), "a")
        desk.runtime.sink.on_end("stop", "")
        await desk.next(EndFrame)
        desk.clock.advance(DELIVERY_WAIT_S + 1)
        await trio.sleep(3)
        desk.send_delivery(offer, 1, final=True)
        desk.send_offer(desk.offer(2), 1)
        await desk.next(AcceptFrame, 2)
