"""Owns the tests of the agent's sessions: gateways that misbehave, losses, load reports."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from node.agent.runtime_port import ModelState
from node.limits import LOAD_REPORT_INTERVAL_S, SESSION_ATTEMPTS_MAX
from p2p.codec import Message, encode_messages
from p2p.job_messages import (
    AcceptFrame,
    CancelFrame,
    DeliveryFrame,
    EndFrame,
    LoadReport,
    OfferFrame,
    OutputFrame,
    RefuseFrame,
    VoucherFrame,
)
from p2p.limits import HEARTBEAT_INTERVAL_S, SESSION_SILENCE_S_MAX
from p2p.signing import Signed
from p2p.wire import encode_frame
from tests.fakes.job_desk import Desk
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_GATEWAY,
    OTHER_NETWORK,
    configuration,
    gateway_chain,
)

NOT_SIGNED = Signed(b"", bytes(32), bytes(64))


# --- who may offer ------------------------------------------------------------------------------
async def refusal_of(desk: Desk) -> RefuseFrame:
    frame = await desk.next(RefuseFrame)
    assert desk.agent.jobs == 0
    assert desk.runtime.prepared == {}
    assert desk.link.is_open
    return frame


async def test_offers_signed_by_or_for_somebody_else() -> None:
    for options in (
        {"signer": OTHER_GATEWAY},
        {"signer": NODE},
        {"network": OTHER_NETWORK},
    ):
        async with Desk().session() as desk:
            desk.send_offer(desk.offer(), **options)  # type: ignore[arg-type]
            assert (await refusal_of(desk)).code == "not_entitled"


async def test_an_offer_that_is_none() -> None:
    async with Desk().session() as desk:
        desk.link.send(OfferFrame(1, NOT_SIGNED))
        body = b"\x90"
        signature = GATEWAY.sign_bytes(NETWORK, "offer", body)
        desk.link.send(OfferFrame(2, Signed(body, GATEWAY.public_key, signature)))
        await desk.next(RefuseFrame, 2)
        assert {frame.code for frame in desk.of(RefuseFrame)} == {"not_entitled"}


async def test_a_gateway_without_a_certificate_now() -> None:
    async with Desk().session() as desk:
        desk.membership.forget(GATEWAY.peer_id)
        desk.send_offer(desk.offer())
        assert "certified" in (await refusal_of(desk)).reason


async def test_a_gateway_that_was_banned_meanwhile() -> None:
    async with Desk().session() as desk:
        desk.book.offer(configuration(2, desk.book.signed, banned_peers=(GATEWAY.peer_id,)))
        desk.send_offer(desk.offer())
        assert (await refusal_of(desk)).code == "not_entitled"


async def test_another_certified_gateway_has_its_own_session() -> None:
    desk = Desk()
    desk.greeted(desk.membership, OTHER_GATEWAY, gateway_chain(OTHER_GATEWAY))
    async with desk.session(OTHER_GATEWAY):
        desk.send_offer(desk.offer(), signer=GATEWAY)
        assert (await desk.next(RefuseFrame)).code == "not_entitled"
        desk.send_offer(desk.offer(gateway_id=OTHER_GATEWAY.peer_id), 2, signer=OTHER_GATEWAY)
        await desk.next(AcceptFrame)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_digest": bytes(32)}, "model_not_served"),
        ({"maximum": 0}, "price"),
        ({"deadline_ms": 0}, "deadline"),
        ({"request": b"other"}, "not_entitled"),
        ({"resume_tokens": tuple(range(51))}, "bad_request"),
    ],
)
async def test_rules_are_asked(changes: dict[str, Any], code: str) -> None:
    async with Desk().session() as desk:
        desk.send_offer(desk.offer(**changes))
        assert (await refusal_of(desk)).code == code


async def test_a_node_that_leaves_or_cannot() -> None:
    async with Desk().session() as desk:
        desk.model.state = ModelState.PENDING
        desk.send_offer(desk.offer(1), 1)
        assert (await desk.next(RefuseFrame)).code == "runtime"
        desk.agent.draining = True
        desk.send_offer(desk.offer(2), 2)
        assert (await desk.next(RefuseFrame, 2)).code == "draining"


# --- losses -------------------------------------------------------------------------------------
async def lose_in_each_state(desk: Desk, lose: Any) -> None:
    """Have attempts prepared, accepted, running and ended, then lose the session."""
    desk.runtime.ends_by_itself = False
    for number in (1, 2):
        await desk.start_job(number)
        desk.runtime.sinks[number].on_output((1,), "a")
    desk.runtime.sinks[2].on_end("stop", "")
    desk.send_offer(desk.offer(3), 3)
    await desk.next(AcceptFrame, 3)
    desk.runtime.hold_back = trio.Event()
    desk.send_offer(desk.offer(4), 4)
    await desk.settle()
    assert desk.agent.jobs == 3
    await lose()
    await desk.ended.wait()
    assert desk.agent.jobs == 0
    assert desk.agent.jobs_done == 2, "the other two were never worked on"
    assert sorted(desk.runtime.cancelled) == [1, 3]
    desk.runtime.sinks[1].on_output((2,), "late")
    desk.runtime.sinks[1].on_end("cancelled", "")
    assert desk.agent.jobs == 0


@pytest.mark.parametrize("how", ["broken", "closed", "bye", "frozen"])
async def test_a_lost_session_cancels_its_jobs(autojump_clock: trio.abc.Clock, how: str) -> None:
    desk = Desk(slots=8)

    async def lose() -> None:
        match how:
            case "broken":
                desk.stream.break_now()
            case "closed":
                await desk.stream.close()
            case "bye":
                desk.link.close("leaving")
            case _:
                desk.stream.freeze()
                frozen_at = trio.current_time()
                await desk.ended.wait()
                assert trio.current_time() - frozen_at < SESSION_SILENCE_S_MAX + 3

    async with desk.session():
        await lose_in_each_state(desk, lose)


async def test_a_runtime_that_dies() -> None:
    async with Desk().session() as desk:
        for number in (1, 2):
            await desk.start_job(number)
        desk.runtime.sinks[1].on_output((1,), "a")
        for number in (1, 2):
            desk.runtime.sinks[number].on_end("failed", "the runtime stopped")
        await desk.next(EndFrame, 2)
        assert {end.outcome for end in desk.of(EndFrame)} == {"failed"}
        assert all(end.receipt is not None for end in desk.of(EndFrame))
        assert desk.agent.jobs == 0


async def test_output_that_fits_no_frame_ends_nothing_else() -> None:
    async with Desk().session() as desk:
        await desk.start_job()
        desk.runtime.sink.on_output((1,), "\U0001f600" * (1 << 19))
        desk.runtime.sink.on_end("stop", "")
        await desk.next(EndFrame)
        assert desk.of(OutputFrame) == []
        assert desk.link.is_open


# --- frames that do not belong ------------------------------------------------------------------
@pytest.mark.parametrize(
    "item",
    [
        AcceptFrame(1, NOT_SIGNED),
        RefuseFrame(1, "busy", "no"),
        OutputFrame(1, (1,), "a", NOT_SIGNED),
        EndFrame(1, "stop", ""),
        LoadReport(0, 0, 1, 1.0, True),
        NOT_SIGNED,
    ],
    ids=lambda item: type(item).__name__,
)
async def test_frames_of_a_node_from_a_gateway(item: Message) -> None:
    async with Desk().session() as desk:
        await desk.start_job()
        desk.link.send(item)
        await desk.ended.wait()
        assert desk.agent.jobs == 0
        assert desk.runtime.cancelled == [1]


async def test_a_number_in_use() -> None:
    async with Desk().session() as desk:
        await desk.start_job()
        desk.send_offer(desk.offer(2), 1)
        await desk.ended.wait()
        assert desk.agent.jobs == 0


async def test_misplaced_frames_that_do_no_harm() -> None:
    async with Desk().session() as desk:
        offer = await desk.start_job()
        for item in (
            VoucherFrame(1, NOT_SIGNED),
            VoucherFrame(99, NOT_SIGNED),
            CancelFrame(99, "what"),
            DeliveryFrame(99, NOT_SIGNED),
        ):
            desk.link.send(item)
        desk.send_voucher(offer)
        await desk.settle()
        assert desk.link.is_open
        assert desk.of(EndFrame) == []


async def test_a_delivery_that_is_not_signed_ends_the_session() -> None:
    async with Desk().session() as desk:
        await desk.start_job()
        desk.link.send(DeliveryFrame(1, NOT_SIGNED))
        await desk.ended.wait()
        assert desk.agent.jobs == 0


async def test_a_thousand_malformed_and_misplaced_frames(
    autojump_clock: trio.abc.Clock,
) -> None:
    draw = random.Random(5)
    desk = Desk(slots=64)
    offer = desk.offer()
    signed = GATEWAY.sign(NETWORK, offer)
    voucher = BOOTSTRAP.sign(NETWORK, desk.voucher(offer))
    for _ in range(1_000):
        items: list[Message] = [
            OfferFrame(draw.randrange(3), signed),
            VoucherFrame(draw.randrange(3), voucher),
            CancelFrame(draw.randrange(3), "x"),
            DeliveryFrame(draw.randrange(3), signed),
            RefuseFrame(1, "busy", ""),
        ]
        draw.shuffle(items)
        data = bytearray(encode_messages(items[: draw.randint(1, 5)]))
        for _ in range(draw.randint(0, 2)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        async with desk.session():
            await desk.stream.send_all(encode_frame(bytes(data)))
            await desk.stream.close()
            await desk.ended.wait()
        desk.ended = trio.Event()
        assert desk.agent.jobs == 0
    assert desk.membership.certificate_of(GATEWAY.peer_id) is not None


async def test_attempts_of_one_session_are_bounded() -> None:
    desk = Desk(slots=SESSION_ATTEMPTS_MAX * 2)
    desk.runtime.hold_back = trio.Event()
    async with desk.session():
        offer = GATEWAY.sign(NETWORK, desk.offer())
        for number in range(SESSION_ATTEMPTS_MAX + 1):
            desk.link.send(OfferFrame(number, offer))
        frame = await desk.next(RefuseFrame)
        assert (frame.number, frame.code) == (SESSION_ATTEMPTS_MAX, "busy")
        assert desk.agent.jobs == SESSION_ATTEMPTS_MAX
    assert desk.agent.jobs == 0


# --- load ---------------------------------------------------------------------------------------
async def test_load_is_told_at_once_and_with_the_heartbeat(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with Desk().session() as desk:
        first = await desk.next(LoadReport)
        assert first == LoadReport(0, 0, 2, 12.5, True)
        await trio.sleep(20)
        beats = 20 / (HEARTBEAT_INTERVAL_S + LOAD_REPORT_INTERVAL_S)
        assert beats - 1 <= len(desk.loads) <= beats + 2


async def test_load_counts_running_and_queued(autojump_clock: trio.abc.Clock) -> None:
    async with Desk(slots=2).session() as desk:
        await desk.next(LoadReport)
        for number in (1, 2, 3):
            await desk.start_job(number)
        await trio.sleep(2 * LOAD_REPORT_INTERVAL_S)
        assert (desk.loads[-1].running, desk.loads[-1].queued) == (2, 1)
        desk.agent.draining = True
        desk.agent.load_changed()
        await trio.sleep(2 * LOAD_REPORT_INTERVAL_S)
        assert not desk.loads[-1].accepting


async def test_a_change_right_after_a_report_is_not_missed(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with Desk().session() as desk:
        await desk.next(LoadReport)
        await desk.start_job()
        await trio.sleep(0.5 * LOAD_REPORT_INTERVAL_S)
        desk.runtime.sink.on_end("stop", "")
        await trio.sleep(2.5 * LOAD_REPORT_INTERVAL_S)
        assert desk.loads[-1].running == 0
        await desk.start_job(2)
        await trio.sleep(2.5 * LOAD_REPORT_INTERVAL_S)
        assert desk.loads[-1].running == 1


async def test_load_is_not_told_more_often_than_worth_it(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with Desk().session() as desk:
        await desk.next(LoadReport)
        for _ in range(200):
            desk.agent.load_changed()
            await trio.sleep(LOAD_REPORT_INTERVAL_S / 20)
        assert len(desk.loads) <= 200 / 20 + 2
