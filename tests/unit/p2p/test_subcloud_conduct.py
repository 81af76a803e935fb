"""How members are judged: nobody's word weighs too much, order does not matter, failures hurt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.conduct_messages import ConductCounts, UptimeDay
from p2p.subclouds.conduct import (
    DAY_MS,
    GATEWAY_WEIGHT_JOBS,
    MINUTE_MS,
    Conduct,
    counted_jobs,
    is_below,
    judge,
    judged_since_ms,
    reputation_of,
    step_of,
    with_conduct,
)
from p2p.subclouds.facts import Reputation, Service, Standing
from p2p.subclouds.policy_rules import ServiceLevel
from p2p.types import AccountId, PeerId

NODE = PeerId("node")
OWNER = AccountId("acct-owner")
HOUR_MS = 60 * MINUTE_MS
START_MS = 20_000 * DAY_MS
LEVEL = ServiceLevel(first_token_ms_max=500, window_s=3600, jobs_judged_min=10, suspension_s=600)


def seen(account: str, jobs: int = 10, failed: int = 0, **fields: Any) -> ConductCounts:
    """What a gateway of an account saw in the first minute."""
    content: dict[str, Any] = {
        "related": False,
        "from_ms": START_MS,
        "until_ms": START_MS + MINUTE_MS,
        "unproven": 0,
        "first_tokens": jobs,
        "first_token_ms": 100 * jobs,
        "output_tokens": 100 * jobs,
        "output_ms": 1000 * jobs,
    }
    gateway = PeerId(f"gateway-of-{account}")
    return ConductCounts(
        NODE, gateway, AccountId(account), jobs=jobs, failed=failed, **content | fields
    )


ROWS = st.lists(
    st.builds(
        lambda account, jobs, part, related: seen(
            account, jobs, jobs * part // 10, related=related
        ),
        st.sampled_from(["a", "b", "c", "d", OWNER]),
        st.integers(1, 40),
        st.integers(0, 10),
        st.booleans(),
    ),
    max_size=12,
)


def share(rows: list[ConductCounts]) -> int:
    found = reputation_of(rows, OWNER)
    return 0 if found is None else found.share


# --- reputation ---------------------------------------------------------------------------------
def test_reputation_by_hand() -> None:
    assert reputation_of([], OWNER) is None
    assert reputation_of([seen("a", related=True)], OWNER) is None
    rows = [seen("a", 1000, 0), seen("b", 20, 10)]
    # Each account weighs the same from ten jobs on; a brings no more jobs than all others.
    assert reputation_of(rows, OWNER) == Reputation(7500, 20, 2)
    assert reputation_of([seen("a", 1000, 0)], OWNER) == Reputation(10_000, 0, 1)


def test_two_gateways_of_one_account_are_one() -> None:
    rows = [seen("a"), replace(seen("a"), gateway_id=PeerId("another"))]
    found = reputation_of(rows, OWNER)
    assert found is not None
    assert (found.gateways, found.jobs) == (1, 0)


def test_the_owners_own_gateways_are_enough_for_his_subcloud_only() -> None:
    rows = [seen(OWNER, 15, 3, related=True), seen("a", 4, 4)]
    found = reputation_of(rows, OWNER)
    assert found == Reputation(10_000 * 12 // 19, 12, 2)
    assert reputation_of(rows, AccountId("somebody")) == Reputation(0, 0, 0)


@given(ROWS, st.randoms())
def test_the_order_of_observations_does_not_matter(rows: list[ConductCounts], random: Any) -> None:
    mixed = list(rows)
    random.shuffle(mixed)
    assert reputation_of(mixed, OWNER) == reputation_of(rows, OWNER)
    assert judge(LEVEL, mixed, (), OWNER, START_MS + HOUR_MS // 2) == judge(
        LEVEL, rows, (), OWNER, START_MS + HOUR_MS // 2
    )


@given(ROWS, st.sampled_from(["a", "b", "c", "d", OWNER]), st.integers(1, 30))
def test_a_failure_never_raises_anything(
    rows: list[ConductCounts], account: str, count: int
) -> None:
    before = reputation_of(rows, OWNER)
    after = reputation_of([*rows, seen(account, count, count)], OWNER)
    if before is not None:
        assert after is not None
        assert after.share <= before.share
        assert after.jobs <= before.jobs
        assert after.gateways <= before.gateways


@given(
    st.lists(st.tuples(st.integers(10, 60), st.integers(0, 10)), min_size=1, max_size=5),
    st.integers(1, 10**6),
    st.integers(0, 10),
)
def test_no_account_lifts_or_sinks_beyond_its_part(
    others: list[tuple[int, int]], jobs: int, part: int
) -> None:
    """With k accounts of full weight, one moves the share by at most 1/k."""
    rows = [seen(f"other-{n}", c, c * p // 10) for n, (c, p) in enumerate(others)]
    with_it = [*rows, seen("liar", jobs, jobs * part // 10)]
    bound = 10_000 // (len(others) + 1) + 1
    assert abs(share(with_it) - share(rows)) <= bound
    good = [c - c * p // 10 for c, p in others]
    known = reputation_of(with_it, OWNER)
    assert known is not None
    assert known.jobs <= 2 * sum(good)  # its jobs count no more than those of all others


@given(st.lists(st.integers(0, 1000), max_size=6), st.integers(0, 1000))
def test_nobody_brings_more_jobs_than_the_rest(others: list[int], own: int) -> None:
    total = own + sum(others)
    found = counted_jobs(own, others)
    assert own <= found <= total
    for count in others:
        assert found <= 2 * (total - count)


def test_few_jobs_make_no_gateway() -> None:
    rows = [seen("a"), seen("b", GATEWAY_WEIGHT_JOBS - 1)]
    found = reputation_of(rows, OWNER)
    assert found is not None
    assert found.gateways == 1


# --- service ------------------------------------------------------------------------------------
def slow(account: str, minute: int, jobs: int = 10, each_ms: int = 900) -> ConductCounts:
    """What was seen in one minute."""
    since_ms = START_MS + minute * MINUTE_MS
    return seen(
        account,
        jobs,
        from_ms=since_ms,
        until_ms=since_ms + MINUTE_MS,
        first_token_ms=each_ms * jobs,
    )


def judged(rows: list[ConductCounts], minute: int, level: ServiceLevel = LEVEL) -> Any:
    return judge(level, rows, (), OWNER, START_MS + minute * MINUTE_MS)


def test_a_slow_member_is_suspended_and_returns() -> None:
    rows = [slow("a", 0, 5), slow("b", 0, 5)]
    assert judged(rows, 0).suspended_until_ms == 0  # the minute is not over
    found = judged(rows, 1)
    assert found.suspended_until_ms == START_MS + 11 * MINUTE_MS
    assert found.service is None  # only what comes after its return counts
    assert judged(rows, 30) == found  # whenever somebody asks
    # Back, and with few jobs it is not judged; with enough good ones it stays.
    back = [*rows, slow("a", 12, 4), slow("b", 12, 4)]
    assert judged(back, 13).suspended_until_ms == found.suspended_until_ms
    good = [*back, slow("a", 14, 40, 100), slow("b", 14, 40, 100)]
    now = judged(good, 15)
    assert now.suspended_until_ms == found.suspended_until_ms
    assert now.service.first_token_ms < 500
    assert not is_below(LEVEL, now.service)
    again = judged([*back, slow("a", 14, 4), slow("b", 14, 4)], 15)
    assert again.suspended_until_ms == START_MS + 25 * MINUTE_MS


def test_jobs_that_ran_on_in_the_suspension_do_not_count() -> None:
    rows = [slow("a", 0), slow("b", 0), slow("a", 5), slow("b", 5)]
    assert judged(rows, 30).suspended_until_ms == START_MS + 11 * MINUTE_MS


def test_a_window_ends_for_everybody_at_the_same_time() -> None:
    rows = [slow("a", 59, 9), slow("a", 60, 9), slow("b", 59, 9), slow("b", 60, 9)]
    level = LEVEL.model_copy(update={"jobs_judged_min": 20})
    assert judged(rows, 61, level).suspended_until_ms == 0
    assert judged(rows, 61, level).service.jobs == 18
    assert judged(rows, 121, level).service is None


def test_one_account_alone_suspends_nobody() -> None:
    assert judged([slow("a", 0, 1000)], 1).suspended_until_ms == 0
    assert judged([slow(OWNER, 0)], 1).suspended_until_ms > 0


@given(
    st.lists(st.tuples(st.integers(10, 50), st.integers(1, 400)), min_size=1, max_size=4),
    st.integers(1, 10**5),
    st.integers(1, 10**7),
)
def test_one_liar_cannot_sink_a_node(
    others: list[tuple[int, int]], jobs: int, each_ms: int
) -> None:
    """Whatever one account says, first outputs are no worse than the worst that others saw."""
    rows = [slow(f"other-{n}", 0, count, ms) for n, (count, ms) in enumerate(others)]
    found = judged([*rows, slow("liar", 0, jobs, each_ms)], 1)
    assert found.suspended_until_ms == 0
    assert found.service.first_token_ms <= max(ms for _, ms in others)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 130), st.integers(1, 1000))))
def test_the_judgement_depends_on_whole_steps_only(rows: list[tuple[str, int, int]]) -> None:
    """Within a minute every gateway judges alike; and a suspension never goes backwards."""
    counts = [slow(account, minute, 6, ms) for account, minute, ms in rows]
    last = 0
    for minute in range(0, 140, 7):
        now_ms = START_MS + minute * MINUTE_MS
        found = judge(LEVEL, counts, (), OWNER, now_ms)
        later = judge(LEVEL, counts, (), OWNER, now_ms + MINUTE_MS - 1)
        assert found.suspended_until_ms == later.suspended_until_ms
        assert found.suspended_until_ms >= last
        last = found.suspended_until_ms


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 500), st.integers(1, 1000))))
def test_what_is_asked_for_is_enough(rows: list[tuple[str, int, int]]) -> None:
    """Older rows than `judged_since_ms` change no suspension that lasts."""
    counts = [slow(account, minute, 6, ms) for account, minute, ms in rows]
    now_ms = START_MS + 500 * MINUTE_MS
    since_ms = judged_since_ms(LEVEL, now_ms)
    recent = [row for row in counts if row.until_ms > since_ms]
    whole, part = (judge(LEVEL, kept, (), OWNER, now_ms) for kept in (counts, recent))
    if whole.suspended_until_ms > now_ms or part.suspended_until_ms > now_ms:
        assert whole == part
    assert whole.service == part.service


def test_speed_and_steps() -> None:
    level = ServiceLevel(tokens_per_second_min=50.0, jobs_judged_min=5, window_s=86_400)
    assert step_of(level) == 10 * MINUTE_MS
    rows = [seen("a", 5, output_tokens=100, output_ms=1000), seen("b", 5)]
    found = judge(level, rows, (), OWNER, START_MS + 10 * MINUTE_MS)
    assert found.service == Service(10, 100.0, 100.0, 10_000)
    assert judge(level, rows, (), OWNER, START_MS + 9 * MINUTE_MS).service is None
    assert judge(ServiceLevel(), rows, (), OWNER, START_MS + DAY_MS).service is None
    unmeasured = [seen(a, first_tokens=0, output_tokens=0, output_ms=0) for a in "ab"]
    nothing = judge(level, unmeasured, (), OWNER, START_MS + 10 * MINUTE_MS).service
    assert nothing is not None
    assert nothing.tokens_per_second > level.tokens_per_second_min


# --- uptime -------------------------------------------------------------------------------------
def days(*minutes: int) -> list[UptimeDay]:
    """Of the days before START_MS, the oldest first."""
    first = START_MS // DAY_MS - len(minutes)
    return [UptimeDay(NODE, first + place, m, 1440) for place, m in enumerate(minutes)]


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [((), 10_000), ((10,), 10_000), ((10, 1440), 10_000), ((1440, 720), 5_000)],
)
def test_uptime_of_whole_days_without_the_first(minutes: tuple[int, ...], expected: int) -> None:
    level = ServiceLevel(uptime_min=9_900, jobs_judged_min=5)
    rows = [seen("a", 5), seen("b", 5)]
    found = judge(level, rows, days(*minutes), OWNER, START_MS + HOUR_MS)
    assert (found.suspended_until_ms > 0) is (expected < 9_900)
    few = [seen("a", 2), seen("b", 2)]
    alone = judge(level, few, days(*minutes), OWNER, START_MS + HOUR_MS)
    assert alone.service is not None
    assert alone.service.uptime == expected


def test_uptime_before_its_return_is_forgotten() -> None:
    level = ServiceLevel(uptime_min=9_900, jobs_judged_min=5, suspension_s=60)
    rows = [seen("a", 5), seen("b", 5)]
    later = [slow("a", 30, 5), slow("b", 30, 5)]
    found = judge(level, [*rows, *later], days(1440, 720), OWNER, START_MS + HOUR_MS)
    assert found.suspended_until_ms == START_MS + 11 * MINUTE_MS


def test_conduct_goes_into_the_standing() -> None:
    known = Conduct(Reputation(1, 2, 3), Service(1, 2.0, 3.0, 4), 77)
    found = with_conduct(Standing(policy_digest="d"), known)
    assert (found.policy_digest, found.reputation, found.service) == (
        "d",
        known.reputation,
        known.service,
    )
    assert found.suspended_until_ms == 77
