"""Usage at the level of rules: what the end of each hold adds, and to whom."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import HoldEndedError
from ledger.usage import (
    CLIENT_LEFT,
    COMPLETE,
    DAY_MS,
    FAILED,
    Counts,
    UsageKey,
    WorkKey,
    day_of,
    duration_ms,
)
from ledger.usage_export import (
    COLUMNS,
    as_csv,
    as_record,
    check_usage,
    date_of,
    day_of_date,
    totals,
)
from p2p.errors import UntrustedError
from p2p.usage_messages import DAY_MAX, UsageReport, UsageRequest, UsageRow
from tests.fakes.ledger_world import (
    NODE_ACCOUNTS,
    NODES,
    START_MS,
    TERMS,
    MemoryLedger,
    Tenant,
    World,
)

DAY = day_of(START_MS)
ROW = UsageRow(DAY, "a" * 16, "tiny-chat", 7, 4, 1, 2, 100, 50, 1_000_450, 1_001)


def ready() -> tuple[MemoryLedger, Tenant]:
    world = World()
    ledger, tenant = MemoryLedger(world), world.tenant()
    ledger.do(*world.setup(tenant, 1_000_000))
    return ledger, tenant


def key_of(tenant: Tenant, day: int = DAY) -> UsageKey:
    return UsageKey(tenant.path, day, tenant.api_key.key_id, TERMS.model_name)


def test_a_capture_counts_tokens_charge_and_time() -> None:
    ledger, tenant = ready()
    world = ledger.world
    hold = world.hold(tenant, 1_000)
    ledger.do(hold)
    world.now_ms += 1_500
    legs = [
        world.leg(hold, input_tokens=100, output_tokens=20),
        world.leg(hold, node=NODES[1], attempt=1, output_tokens=30),
    ]
    ledger.do(world.capture(hold, legs, outcome=COMPLETE))
    assert ledger.book.consumed == {key_of(tenant): Counts(1, 1, 0, 0, 100, 50, 450, 1_500)}
    assert ledger.book.worked == {
        WorkKey(tenant.path, DAY, NODES[0].peer_id, NODE_ACCOUNTS[0]): (1, 270),
        WorkKey(tenant.path, DAY, NODES[1].peer_id, NODE_ACCOUNTS[1]): (1, 136),
    }


@pytest.mark.parametrize(
    ("outcome", "left", "failed"),
    [("", 0, 0), (COMPLETE, 0, 0), (CLIENT_LEFT, 1, 0), (FAILED, 0, 1), ("unheard of", 0, 0)],
)
def test_outcomes_of_captures(outcome: str, left: int, failed: int) -> None:
    ledger, tenant = ready()
    world, hold = ledger.world, ledger.world.hold(tenant, 1_000)
    ledger.do(hold, world.capture(hold, [world.leg(hold, output_tokens=1)], outcome=outcome))
    counts = ledger.book.consumed[key_of(tenant)]
    assert (counts.requests, counts.captured, counts.client_left, counts.failed) == (
        1,
        1,
        left,
        failed,
    )


@pytest.mark.parametrize(
    ("outcome", "left", "failed"),
    [("", 0, 1), (COMPLETE, 0, 1), (CLIENT_LEFT, 1, 0), (FAILED, 0, 1)],
)
def test_what_is_not_charged_failed_unless_the_client_left(
    outcome: str, left: int, failed: int
) -> None:
    ledger, tenant = ready()
    hold = ledger.world.hold(tenant, 1_000)
    ledger.do(hold, ledger.world.release(hold, outcome=outcome))
    assert ledger.book.consumed == {key_of(tenant): Counts(1, 0, left, failed)}
    assert not ledger.book.worked


def test_an_expired_hold_failed_on_the_day_of_its_end() -> None:
    ledger, tenant = ready()
    hold = ledger.world.hold(tenant, 1_000)
    ledger.do(hold)
    ledger.world.now_ms += DAY_MS
    ledger.do(ledger.world.expire(hold))
    assert ledger.book.consumed == {key_of(tenant, DAY + 1): Counts(1, 0, 0, 1)}


def test_repetitions_and_refusals_count_nothing() -> None:
    ledger, tenant = ready()
    world, hold = ledger.world, ledger.world.hold(tenant, 1_000)
    capture = world.capture(hold, [world.leg(hold, input_tokens=10, output_tokens=1)])
    ledger.do(hold)
    assert not ledger.book.consumed  # what still runs is not counted
    ledger.do(capture, capture, world.expire(hold), hold)
    with pytest.raises(HoldEndedError):
        ledger.do(world.release(hold))
    assert ledger.book.consumed[key_of(tenant)].requests == 1


def test_the_outcome_is_not_what_makes_a_capture_another_one() -> None:
    ledger, tenant = ready()
    world, hold = ledger.world, ledger.world.hold(tenant, 1_000)
    legs = [world.leg(hold, output_tokens=1)]
    ledger.do(hold, world.capture(hold, legs, capture_id=bytes(16), outcome=COMPLETE))
    again = ledger.do(world.capture(hold, legs, capture_id=bytes(16), outcome=FAILED))
    assert again.exists
    assert ledger.book.consumed[key_of(tenant)] == Counts(1, 1, 0, 0, 0, 1, 5, 0)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_a_duration_is_within_the_hold(delivered_ms: list[int]) -> None:
    assert 0 <= duration_ms(START_MS, START_MS + 60_000, delivered_ms) <= 60_000


counts_strategy = st.builds(Counts, *[st.integers(0, 10**9)] * 8)


@given(counts_strategy, counts_strategy, counts_strategy)
def test_adding_counts_does_not_depend_on_the_order(one: Counts, two: Counts, six: Counts) -> None:
    assert one.plus(two).plus(six) == six.plus(one).plus(two) == one.plus(two.plus(six))
    assert one.plus(Counts()) == one


# --- export -----------------------------------------------------------------------------------
@given(st.integers(0, 2_900_000))
def test_days_and_dates(day: int) -> None:
    assert day_of_date(date_of(day)) == day
    assert day <= DAY_MAX


@pytest.mark.parametrize("text", ["", "today", "2026-13-01", "1969-12-31", "20260101", "2026-1"])
def test_bad_dates(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        day_of_date(text)


def test_csv_has_the_documented_columns() -> None:
    text = as_csv("dev", [ROW, replace(ROW, captured=0, duration_ms=0, charged=0)])
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(lines[0]) == COLUMNS
    assert lines[0] == {name: str(value) for name, value in as_record("dev", ROW).items()}
    assert (lines[0]["date"], lines[0]["credits"]) == ("2027-01-15", "1.000450")
    assert (lines[0]["completed"], lines[0]["duration_ms_mean"]) == ("4", "250")
    assert lines[1]["duration_ms_mean"] == "0"
    assert text.count("\r\n") == 3
    assert totals([ROW, ROW])["charged_microcredits"] == 2_000_900


def test_answers_that_were_not_asked_for() -> None:
    request = UsageRequest("acct", "dev", DAY, DAY + 1, bytes(16), START_MS)
    good = UsageReport((ROW, replace(ROW, model="x"), replace(ROW, day=DAY + 1)), False)
    assert check_usage(request, good) is good
    bad = (
        UsageReport((replace(ROW, day=DAY - 1),), False),
        UsageReport((replace(ROW, day=DAY + 2),), False),
        UsageReport((ROW, ROW), False),
        UsageReport((replace(ROW, day=DAY + 1), ROW), False),
        UsageReport((), True),
    )
    for report in bad:
        with pytest.raises(UntrustedError):
            check_usage(request, report)
    with pytest.raises(UntrustedError):
        check_usage(replace(request, key_id="b" * 16), good)
    after = replace(request, after_day=DAY, after_key_id=ROW.key_id, after_model=ROW.model)
    with pytest.raises(UntrustedError):
        check_usage(after, good)
