"""Minutes of uptime: each once, across days, restarts and clocks that jump."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap import uptime
from bootstrap.uptime import MINUTE_MS, UptimeCounter
from ledger.usage import DAY_MS, day_of
from p2p.types import AccountId, PeerId
from p2p.usage_messages import MINUTES_MAX
from tests.fakes.clocks import START_MS

A, B = AccountId("acct-" + "a" * 40), AccountId("acct-" + "b" * 40)
ONE, TWO = (PeerId("one"), A), (PeerId("two"), B)
DAY = day_of(START_MS)
MIDNIGHT_MS = DAY * DAY_MS


def minutes(counter: UptimeCounter, day: int = DAY) -> dict[str, int]:
    records = counter.records(START_MS)
    return {node.peer_id: node.minutes for r in records if r.day == day for node in r.nodes}


def test_a_minute_counts_once_for_who_is_alive() -> None:
    counter = UptimeCounter()
    for second in range(0, 180, 20):
        counter.observe(MIDNIGHT_MS + second * 1000, [ONE] if second < 60 else [ONE, TWO])
    assert minutes(counter) == {"one": 3, "two": 2}


def test_a_new_day_begins_at_nothing_and_the_old_one_is_told_once_more() -> None:
    counter = UptimeCounter()
    counter.observe(MIDNIGHT_MS - MINUTE_MS, [ONE])
    counter.observe(MIDNIGHT_MS, [ONE])
    assert (minutes(counter, DAY - 1), minutes(counter)) == ({"one": 1}, {"one": 1})
    counter.forget(MIDNIGHT_MS)
    assert (minutes(counter, DAY - 1), minutes(counter)) == ({}, {"one": 1})


def test_it_goes_on_after_a_restart() -> None:
    before, after = UptimeCounter(), UptimeCounter()
    before.observe(MIDNIGHT_MS, [ONE, TWO])
    after.restore(before.records(MIDNIGHT_MS + 500))
    after.observe(MIDNIGHT_MS + 1_000, [ONE])  # this minute was counted
    after.observe(MIDNIGHT_MS + MINUTE_MS, [ONE])
    assert minutes(after) == {"one": 2, "two": 1}


def test_a_node_stays_in_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uptime, "UPTIME_NODES_MAX", 2)
    counter, again = UptimeCounter(), UptimeCounter()
    for number, names in enumerate(("c", "cb", "cbae")):
        live = [(PeerId(name), A) for name in names]
        counter.observe(MIDNIGHT_MS + number * MINUTE_MS, live)
    parts = [[node.peer_id for node in record.nodes] for record in counter.records(START_MS)]
    assert parts == [["c", "b"], ["a", "e"]]
    again.restore(reversed(counter.records(MIDNIGHT_MS)))
    assert again.records(START_MS) == counter.records(START_MS)


def test_who_is_bound_anew_is_counted_for_the_new_account() -> None:
    counter = UptimeCounter()
    counter.observe(MIDNIGHT_MS, [ONE])
    counter.observe(MIDNIGHT_MS + MINUTE_MS, [(PeerId("one"), B)])
    (record,) = counter.records(START_MS)
    assert [(node.account_id, node.minutes) for node in record.nodes] == [(B, 2)]


def test_a_clock_that_was_far_ahead_does_not_stop_the_count() -> None:
    counter = UptimeCounter()
    counter.observe(START_MS + 30 * DAY_MS, [ONE])
    counter.observe(START_MS, [ONE])
    assert minutes(counter) == {"one": 1}


@given(st.lists(st.integers(-30 * MINUTE_MS, 30 * MINUTE_MS), max_size=60))
def test_jumping_clocks_never_count_more_minutes_than_there_are(jumps_ms: list[int]) -> None:
    counter, seen = UptimeCounter(), set()
    base_ms = MIDNIGHT_MS + DAY_MS // 2
    for jump_ms in jumps_ms:
        counter.observe(base_ms + jump_ms, [ONE])
        seen.add((base_ms + jump_ms) // MINUTE_MS)
    assert minutes(counter).get("one", 0) <= min(len(seen), MINUTES_MAX)
