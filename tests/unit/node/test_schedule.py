"""Working hours: how they are read, weeks that wrap around, clocks that are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.agent.schedule import ALWAYS, DAYS, Schedule, parse_schedule, show_moment
from p2p.errors import MalformedError

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
MINUTE_MS = 60_000


def at(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int(moment.timestamp() * 1000)


def open_at(windows: tuple[str, ...], text: str, zone: str = "UTC", *, fold: int = 0) -> bool:
    return parse_schedule(windows, zone).is_open(at(text, zone, fold=fold))


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("mon 09:00-17:00", ["16T09:00", "16T16:59"], ["16T08:59", "16T17:00", "17T10:00"]),
        ("09:00-17:00", ["16T09:00", "22T09:00"], ["22T17:00"]),
        ("daily 9:00 - 17:00", ["21T09:00"], ["21T08:00"]),
        ("Mon-Fri 18:00-08:00", ["16T18:00", "17T07:59", "21T07:59"], ["16T07:00", "21T08:00"]),
        ("sun 22:00-02:00", ["22T23:00", "16T01:59", "23T01:59"], ["16T02:00", "22T01:00"]),
        ("sat,sun 00:00-24:00", ["21T00:00", "22T23:59"], ["20T23:59", "23T00:00"]),
        ("fri-mon 00:00-24:00", ["20T00:00", "16T12:00"], ["17T00:00", "19T23:59"]),
        ("wed 00:00-00:30", ["18T00:29"], ["18T00:30", "19T00:00"]),
    ],
)
def test_windows(window: str, inside: list[str], outside: list[str]) -> None:
    for day in inside:
        assert open_at((window,), f"2026-11-{day}"), day
    for day in outside:
        assert not open_at((window,), f"2026-11-{day}"), day


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "always",
        "mon",
        "mon 9-17",
        "mon 09:00-25:00",
        "mon 09:60-10:00",
        "mon 24:00-24:00",
        "mon 09:00-09:00",
        "24:00-01:00",
        "monday 09:00-10:00",
        "mon- 09:00-10:00",
        "mon,,tue 09:00-10:00",
        "mon 24:01-10:00",
    ],
)
def test_what_is_no_window(wrong: str) -> None:
    with pytest.raises(MalformedError):
        parse_schedule((wrong,), "UTC")


def test_zones_and_numbers() -> None:
    for zone in ("Mars/Olympus", "../etc/passwd", "", "/etc/passwd"):
        with pytest.raises(MalformedError, match="time_zone"):
            parse_schedule((), zone)
    with pytest.raises(MalformedError, match="at most"):
        parse_schedule(("09:00-10:00",) * 65, "UTC")
    assert ALWAYS.is_open(0)
    assert ALWAYS.opens_ms(5) == 5


def test_the_clock_is_put_forward() -> None:
    # Berlin, 2026-03-29: 02:00 becomes 03:00.
    windows = ("sun 01:00-04:00", "sun 02:15-02:45")
    zone = "Europe/Berlin"
    schedule = parse_schedule(windows[:1], zone)
    begin = at("2026-03-29T01:00", zone)
    open_minutes = [m for m in range(-120, 300) if schedule.is_open(begin + m * MINUTE_MS)]
    assert len(open_minutes) == 120, "an hour shorter"
    # What lies in the missing hour altogether does not happen on that day.
    gap = parse_schedule(windows[1:], zone)
    before = at("2026-03-28T12:00", zone)
    assert gap.opens_ms(before) == at("2026-04-05T02:15", zone)
    # An opening after the change is found, although the offset differs.
    later = parse_schedule(("sun 05:00-06:00",), zone)
    assert later.opens_ms(before) == at("2026-03-29T05:00", zone)


def test_the_clock_is_put_back() -> None:
    # Berlin, 2026-10-25: 03:00 becomes 02:00.
    zone = "Europe/Berlin"
    schedule = parse_schedule(("sun 02:00-03:00",), zone)
    first = at("2026-10-25T02:00", zone)
    open_minutes = [m for m in range(-60, 300) if schedule.is_open(first + m * MINUTE_MS)]
    assert open_minutes == list(range(120)), "an hour longer"
    assert schedule.opens_ms(at("2026-10-24T12:00", zone)) == first
    assert open_at(("sun 02:00-03:00",), "2026-10-25T02:30", zone, fold=1)


def test_half_hour_zones() -> None:
    assert open_at(("mon 09:00-10:00",), "2026-11-16T09:30", "Asia/Kolkata")
    assert parse_schedule(("mon 09:00-10:00",), "Asia/Kolkata").opens_ms(
        at("2026-11-15T12:00")
    ) == at("2026-11-16T03:30")


CLOCK = st.integers(0, 24 * 60 - 1)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    windows = []
    for _ in range(draw(st.integers(1, 3))):
        begin, end = draw(CLOCK), draw(CLOCK)
        if begin == end:
            end = (end + 1) % (24 * 60)
        days = draw(st.lists(st.sampled_from(DAYS), min_size=1, max_size=3))
        windows.append(f"{','.join(days)} {begin // 60}:{begin % 60:02}-{end // 60}:{end % 60:02}")
    zone = draw(
        st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
    )
    return parse_schedule(tuple(windows), zone)


@given(schedules(), st.integers(0, 366 * 24 * 60))
def test_the_next_opening_is_one_and_the_first(schedule: Schedule, minute: int) -> None:
    now_ms = int((MONDAY + timedelta(minutes=minute)).timestamp() * 1000) + 12_345
    opens_ms = schedule.opens_ms(now_ms)
    if schedule.is_open(now_ms):
        assert opens_ms == now_ms
        return
    assert opens_ms > now_ms
    assert schedule.is_open(opens_ms)
    assert not schedule.is_open(opens_ms - 1)
    step = max(MINUTE_MS, (opens_ms - now_ms) // 50)
    assert not any(schedule.is_open(moment) for moment in range(now_ms, opens_ms, step))


def test_moments_are_shown_in_utc() -> None:
    assert show_moment(at("2026-11-16T03:30")) == "2026-11-16 03:30 UTC"
