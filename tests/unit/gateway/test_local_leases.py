"""When a lease is worth asking for, and that one never promises more than it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import LEASE_DEMAND_S, LEASE_IDLE_S
from gateway.peer.lease_rules import LocalLease, is_in_demand, lease_amount


def lease(amount: int = 1000) -> LocalLease:
    return LocalLease(bytes(16), amount, None, 0, 300_000, 1_000_000, used_s=0.0)


@pytest.mark.parametrize(
    ("available", "maximum", "amount_max", "amount"),
    [
        (10**9, 100, 10**7, 6400),  # 64 jobs
        (10**9, 10**6, 10**7, 10**7),  # what the configuration allows
        (8_000, 100, 10**7, 1000),  # an eighth of the balance
        (3_200, 100, 10**7, 400),  # four jobs just fit
        (3_199, 100, 10**7, 0),
        (0, 100, 10**7, 0),
        (-5, 100, 10**7, 0),
        (10**9, 100, 0, 0),  # the network has no leases
        (10**9, 0, 10**7, 0),  # what costs nothing needs none
    ],
)
def test_amount(available: int, maximum: int, amount_max: int, amount: int) -> None:
    assert lease_amount(available, maximum, amount_max) == amount


def test_demand() -> None:
    assert not is_in_demand(None, 100.0)
    assert is_in_demand(100.0, 100.0 + LEASE_DEMAND_S)
    assert not is_in_demand(100.0, 100.1 + LEASE_DEMAND_S)


def test_renewal_and_closing() -> None:
    one = lease()
    assert not one.renewal_is_due(0)
    assert not one.renewal_is_due(224_999)
    assert one.renewal_is_due(225_000)  # three quarters of its time
    one.take(b"a", 749, 0.0)
    assert not one.renewal_is_due(0)
    one.take(b"b", 1, 5.0)
    assert one.renewal_is_due(0)  # three quarters of its credit
    assert not one.is_to_close(5.0 + LEASE_IDLE_S - 0.1, 0)
    assert one.is_to_close(5.0 + LEASE_IDLE_S, 0)
    assert one.is_to_close(5.0, 300_000)


def test_what_fits() -> None:
    one = lease()
    assert one.fits(1000, 1_000_000, 299_999)
    assert not one.fits(1001, 1_000_000, 0)
    assert not one.fits(1000, 1_000_001, 0)  # the job could outlive it
    assert not one.fits(1000, 1_000_000, 300_000)
    one.closing = True
    assert not one.fits(1, 1_000_000, 0)


def test_what_goes_back() -> None:
    one = lease()
    one.take(b"a", 300, 0.0)
    assert one.next_return() is None
    one.closing = True
    assert one.next_return() == (700, False)
    one.returned += 700
    assert one.next_return() is None
    one.charge(b"a", 100)
    assert one.next_return() == (200, False)  # not the end: the capture is on its way
    one.returned += 200
    assert one.next_return() is None
    one.settle(b"a")
    assert one.next_return() == (0, True)


STEPS = st.lists(st.tuples(st.sampled_from("tcsrb"), st.integers(0, 15), st.integers(0, 400)))


@given(STEPS)
def test_never_more_than_the_ledger_granted(steps: list[tuple[str, int, int]]) -> None:
    one = lease()
    ledger_left = one.amount
    charges: dict[bytes, int] = {}
    for kind, number, amount in steps:
        hold_id = bytes([number])
        running = hold_id in one.jobs and hold_id not in charges
        if kind == "t" and hold_id not in one.jobs and one.fits(amount, 0, 0):
            one.take(hold_id, amount, 0.0)
        elif kind == "c" and running:
            charges[hold_id] = min(amount, one.jobs[hold_id])
            one.charge(hold_id, charges[hold_id])
        elif kind == "s" and hold_id in charges:  # the ledger captures, later than we count it
            ledger_left -= charges.pop(hold_id)
            one.settle(hold_id)
        elif kind == "r" and running:
            one.settle(hold_id)
        elif kind == "b":
            ledger_left -= one.room
            one.returned += one.room
        assert one.held == sum(m for h, m in one.jobs.items() if h not in charges)
        assert one.room >= 0
        assert one.room + one.held + sum(charges.values()) == ledger_left
