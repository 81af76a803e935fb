"""Owns the tests of leases at the node: what stands where a voucher would, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from node.agent.payment import LeaseUse
from p2p.errors import RefusedError
from p2p.job_messages import EndFrame, Offer, RefuseFrame
from p2p.lease_messages import Lease, LeasedHold, LeaseVoucherFrame, leased_hold_id
from p2p.signing import KeyPair
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.job_desk import Desk
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_BOOTSTRAP,
    bootstrap_chain,
    gateway_chain,
)

LEASE_ID = bytes([7]) * 16


def lease_for(desk: Desk, offer: Offer, **changes: Any) -> Lease:
    base = Lease(
        lease_id=LEASE_ID,
        gateway_id=GATEWAY.peer_id,
        amount=3 * offer.maximum,
        terms=offer.terms,
        issued_ms=START_MS,
        expires_ms=desk.clock.now_ms + 600_000,
    )
    return replace(base, **changes)


def offer_of(desk: Desk, number: int = 1, **changes: Any) -> Offer:
    """An offer that is paid from the lease."""
    job_id = number.to_bytes(16, "big")
    return desk.offer(number, hold_id=leased_hold_id(LEASE_ID, job_id), **changes)


def hold_for(desk: Desk, offer: Offer, **changes: Any) -> LeasedHold:
    base = LeasedHold(
        lease_id=LEASE_ID,
        hold_id=offer.hold_id,
        job_id=offer.job_id,
        maximum=offer.maximum,
        issued_ms=desk.clock.now_ms,
        expires_ms=desk.clock.now_ms + 120_000,
    )
    return replace(base, **changes)


def show(
    desk: Desk,
    offer: Offer,
    number: int = 1,
    *,
    signer: KeyPair = BOOTSTRAP,
    hold_signer: KeyPair = GATEWAY,
    chain: Any = None,
    with_lease: bool = True,
    lease: dict[str, Any] | None = None,
    hold: dict[str, Any] | None = None,
) -> None:
    """Send what pays for an offer; all of it is acceptable unless changed."""
    signed_hold = hold_signer.sign(NETWORK, hold_for(desk, offer, **(hold or {})))
    signed_lease = signer.sign(NETWORK, lease_for(desk, offer, **(lease or {})))
    shown = bootstrap_chain() if chain is None else chain
    if with_lease:
        desk.link.send(LeaseVoucherFrame(number, signed_hold, signed_lease, shown))
    else:
        desk.link.send(LeaseVoucherFrame(number, signed_hold))


async def test_a_lease_stands_where_a_voucher_would() -> None:
    async with Desk().session() as desk:
        offer = offer_of(desk)
        desk.send_offer(offer)
        show(desk, offer)
        await desk.settle()
        assert set(desk.runtime.sinks) == {1}


async def test_a_lease_is_shown_once_whatever_became_of_its_offer() -> None:
    async with Desk().session() as desk:
        first, second = offer_of(desk, 1, model_digest=bytes(32)), offer_of(desk, 2)
        desk.send_offer(first, 1)
        show(desk, offer_of(desk, 1), 1)
        assert (await desk.next(RefuseFrame)).code == "model_not_served"
        desk.send_offer(second, 2)
        show(desk, second, 2, with_lease=False)
        await desk.settle()
        assert len(desk.runtime.sinks) == 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"hold": {"job_id": bytes(16)}}, "another job"),
    ({"hold": {"hold_id": bytes(16)}}, "another job"),
    ({"hold": {"lease_id": bytes(16)}}, "names another lease"),
    ({"offer": {"hold_id": bytes(16)}}, "does not follow"),
    ({"hold": {"maximum": 1}}, "less than the offer"),
    ({"hold": {"maximum": 10**9}}, "larger than its lease"),
    ({"hold": {"expires_ms": START_MS + 1000}}, "ends before the job"),
    ({"hold": {"expires_ms": START_MS + 10**9}}, "outlives its lease"),
    ({"hold": {"expires_ms": START_MS}}, "expired"),
    ({"hold_signer": NODE}, "somebody else"),
    ({"hold_signer": BOOTSTRAP}, "somebody else"),
    ({"lease": {"gateway_id": NODE.peer_id}}, "another gateway"),
    ({"lease": {"amount": 1}}, "larger than its lease"),
    ({"lease": {"expires_ms": START_MS + 1000}}, "ends before the job"),
    ({"lease": {"expires_ms": START_MS}}, "expired"),
    ({"lease": {"issued_ms": START_MS + 61_000}}, "future"),
    ({"signer": GATEWAY, "chain": gateway_chain()}, "only a bootstrap"),
    ({"signer": OTHER_BOOTSTRAP, "chain": ()}, "not known"),
    ({"with_lease": False}, "not shown in this session"),
]


@pytest.mark.parametrize(("given", "reason"), BAD)
async def test_bad_leases_start_nothing(given: dict[str, Any], reason: str) -> None:
    changes = dict(given)
    async with Desk().session() as desk:
        offer = replace(offer_of(desk), **changes.pop("offer", {}))
        desk.send_offer(offer)
        show(desk, offer, **changes)
        end = await desk.next(EndFrame)
        assert (end.outcome, end.receipt) == ("failed", None)
        assert reason in end.detail
        assert desk.runtime.sinks == {}
        assert desk.agent.jobs == 0


async def test_what_is_done_under_a_lease_fits_into_it() -> None:
    async with Desk(slots=8).session() as desk:
        offers = {number: offer_of(desk, number) for number in range(1, 6)}
        for number in (1, 2, 3, 4):
            desk.send_offer(offers[number], number)
            show(desk, offers[number], number, with_lease=number == 1)
            await desk.settle()
        assert len(desk.runtime.sinks) == 3
        refused = await desk.next(RefuseFrame)
        assert (refused.number, refused.code) == (4, "needs_voucher")
        assert refused.retry_after_ms == 1000  # another lease will do
        # What ends leaves only what it can earn.
        desk.runtime.sinks[1].on_output((1, 2), "ab")
        desk.runtime.sinks[1].on_end("stop", "")
        desk.send_offer(offers[5], 5)
        show(desk, offers[5], 5, with_lease=False)
        await desk.settle()
        assert len(desk.runtime.sinks) == 3
        desk.runtime.sinks[2].on_end("failed", "")
        desk.send_offer(offers[5], 6)
        show(desk, offers[5], 6, with_lease=False)
        await desk.settle()
        assert len(desk.runtime.sinks) == 4


async def test_a_lost_session_frees_its_part_of_a_lease() -> None:
    desk = Desk()
    async with desk.session():
        offer = offer_of(desk)
        desk.send_offer(offer)
        show(desk, offer)
        await desk.settle()
        assert len(desk.runtime.sinks) == 1
        await desk.stream.reset()
        await desk.ended.wait()
    desk.agent.leases.begin(lease_for(desk, offer), 3 * offer.maximum)


async def test_a_node_that_takes_no_leases_says_so() -> None:
    desk = Desk()
    desk.agent.accept_leases = False
    async with desk.session():
        offer = offer_of(desk)
        desk.send_offer(offer)
        show(desk, offer)
        assert (await desk.next(RefuseFrame)).code == "needs_voucher"
        await desk.settle()
        assert (desk.runtime.sinks, desk.agent.jobs) == ({}, 0)
        assert desk.of(EndFrame) == []
        again = desk.offer(2)
        desk.send_offer(again, 2)
        desk.send_voucher(again, 2)
        await desk.settle()
        assert len(desk.runtime.sinks) == 1


def test_a_lease_is_never_worth_more_than_its_amount() -> None:
    clock = FakeClock()
    uses = LeaseUse(clock)
    lease = Lease(LEASE_ID, GATEWAY.peer_id, 100, None, 0, clock.now_ms + 1)  # type: ignore[arg-type]
    for _ in range(3):  # one after the other: what was earned stays counted
        uses.begin(lease, 60)
        uses.end(LEASE_ID, 60, 20)
    with pytest.raises(RefusedError, match="120 microcredits are too much"):
        uses.begin(lease, 60)
    uses.begin(lease, 40)
    uses.end(LEASE_ID, 40, 10**9)  # never above its maximum
    with pytest.raises(RefusedError):
        uses.begin(lease, 1)
