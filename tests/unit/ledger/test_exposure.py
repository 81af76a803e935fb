"""What a gateway has in its hands: counted from entries, capped exactly, per UTC day."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import GatewayExposureError, RequestError
from ledger.exposure import RETRY_AFTER_OPEN_S, GatewayExposure, check_exposure, moved
from ledger.operations import Operation, PlaceHold
from ledger.records import Entry, Transfer, TransferKind
from p2p.ledger_messages import TransferResult
from p2p.types import PeerId
from tests.fakes.claim_world import claim, settle
from tests.fakes.lease_world import charge_leased, expire, give_back, lease
from tests.fakes.ledger_world import GATEWAY, OTHER_GATEWAY, START_MS, MemoryLedger, World

DAY_MS = 86_400_000
GATEWAY_ID = PeerId("gateway")


def capped(operation: Operation, exposure_max: int) -> Operation:
    return replace(operation, exposure_max=exposure_max)  # type: ignore[type-var]


def test_the_cap_is_exact_and_counts_holds_leases_and_charges() -> None:
    world = World()
    tenant, ledger = world.tenant(), MemoryLedger(world)
    ledger.do(*world.setup(tenant, 100_000))
    hold, opened = world.hold(tenant, 400), lease(world, tenant, 500)
    ledger.do(capped(hold, 1_000), capped(opened, 1_000))
    with pytest.raises(GatewayExposureError) as refused:
        ledger.do(capped(world.hold(tenant, 101), 1_000))
    assert (refused.value.held, refused.value.charged, refused.value.cap) == (900, 0, 1_000)
    assert refused.value.retry_after_s == RETRY_AFTER_OPEN_S
    with pytest.raises(GatewayExposureError):
        ledger.do(capped(lease(world, tenant, 101), 1_000))
    assert isinstance(refused.value, RequestError)
    # Another gateway has its own; a repetition is no second hold.
    ledger.do(capped(world.hold(tenant, 1_000, gateway=OTHER_GATEWAY), 1_000))
    assert ledger.do(capped(hold, 0)).exists
    ledger.do(capped(world.hold(tenant, 100), 1_000))
    # What was charged still counts, what came back does not.
    ledger.do(world.capture(hold, [world.leg(hold, output_tokens=20)]))
    ledger.do(charge_leased(world, opened, tenant, 10), give_back(world, opened, final=True))
    exposure = ledger.book.exposure_of(GATEWAY.peer_id)
    assert (exposure.held, exposure.charged) == (100, 150)
    ledger.do(capped(world.hold(tenant, 750), 1_000))
    with pytest.raises(GatewayExposureError):
        ledger.do(capped(world.hold(tenant, 1), 1_000))


def test_charges_count_on_their_day_only() -> None:
    world = World()
    tenant, ledger = world.tenant(), MemoryLedger(world)
    ledger.do(*world.setup(tenant, 100_000))
    hold = world.hold(tenant, 1_000)
    ledger.do(hold, world.capture(hold, [world.leg(hold, output_tokens=200)]))
    with pytest.raises(GatewayExposureError) as refused:
        ledger.do(capped(world.hold(tenant, 1), 1_000))
    midnight_ms = START_MS - START_MS % DAY_MS + DAY_MS
    assert refused.value.retry_after_s == (midnight_ms - START_MS) / 1000
    assert "resets at 2027-01-16T00:00:00Z" in str(refused.value)
    world.now_ms = midnight_ms
    ledger.do(capped(world.hold(tenant, 1_000), 1_000))
    # A clock that goes back over midnight does not begin the old day again.
    world.now_ms -= 1
    with pytest.raises(GatewayExposureError):
        ledger.do(capped(world.hold(tenant, 1), 1_000))


def test_claims_move_it_like_captures() -> None:
    world = World()
    tenant, ledger = world.tenant(), MemoryLedger(world)
    ledger.do(*world.setup(tenant, 100_000))
    hold, opened = world.hold(tenant, 1_000), lease(world, tenant, 300)
    ledger.do(hold, opened, claim(world, hold, output_tokens=30))
    world.now_ms = opened.document.expires_ms
    ledger.do(settle(world, hold), expire(world, opened))
    exposure = ledger.book.exposure_of(GATEWAY.peer_id)
    assert (exposure.held, exposure.charged) == (0, 150)


charges = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1_000), st.integers(0, 1_000)), max_size=8
)


@given(charges, st.randoms())
def test_the_order_of_transfers_does_not_matter(
    made: list[tuple[int, int, int]], source: object
) -> None:
    """Two processes commit in another order than an audit reads: both find the same."""

    def run(order: list[tuple[int, int, int]]) -> GatewayExposure:
        exposure = GatewayExposure(GATEWAY_ID, 10**6)
        for day, charged, returned in order:
            exposure = moved(exposure, ended(day, charged, returned))
        return exposure

    mixed = list(made)
    source.shuffle(mixed)  # type: ignore[attr-defined]
    first = run(made)
    assert first == run(mixed)
    paid = {day: sum(c for d, c, _ in made if d == day) for day, charged, _ in made if charged}
    newest = max(paid, default=0)
    assert (first.day, first.charged) == (newest, paid.get(newest, 0))
    assert first.held == 10**6 - sum(charged + returned for _, charged, returned in made)


def ended(day: int, charged: int, returned: int) -> Transfer:
    entries = (
        Entry("held:a/dev", -charged - returned),
        Entry("namespace:a/dev", returned),
        Entry("earnings:b", charged),
    )
    result = TransferResult(bytes(16), charged, 0, False)
    return Transfer(
        bytes(16),
        TransferKind.CAPTURE,
        "a/dev",
        bytes(16),
        b"",
        b"",
        tuple(entry for entry in entries if entry.amount),
        result,
        day * DAY_MS,
    )


def test_a_correction_is_not_the_gateways_doing() -> None:
    exposure = GatewayExposure(GATEWAY_ID, 5, 3, 100)
    refund = replace(
        ended(3, 1, 1), entries=(Entry("earnings:b", -50), Entry("namespace:a/dev", 50))
    )
    assert moved(exposure, refund) == exposure


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100), st.integers(0, 300))
def test_refused_exactly_above_the_cap(held: int, charged: int, amount: int, cap: int) -> None:
    exposure = GatewayExposure(GATEWAY_ID, held, START_MS // DAY_MS, charged)
    if held + charged + amount <= cap:
        check_exposure(exposure, amount, cap, START_MS)
        return
    with pytest.raises(GatewayExposureError) as refused:
        check_exposure(exposure, amount, cap, START_MS)
    assert 0 < (refused.value.retry_after_s or 0) <= DAY_MS / 1000


def test_no_cap_is_given_by_default() -> None:
    world = World()
    assert isinstance(world.hold(world.tenant(), 1), PlaceHold)
    assert world.hold(world.tenant(), 1).exposure_max == 2**62
