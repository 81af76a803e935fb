"""Owns a node's weekly working hours: how they are written, and when they are open. Pure.

Theory of operation. A window is `DAYS HH:MM-HH:MM`, for example `mon-fri 18:00-08:00`,
`sat,sun 00:00-24:00`, or `09:00-17:00` for every day. One that ends before it begins goes on into
the next day. Times are what a clock on the wall shows in the schedule's time zone: where the clock
is put forward a window is an hour shorter, and where it is put back an hour longer. The end is
exclusive. No window at all means always open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from p2p.errors import MalformedError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WINDOWS_MAX = 64
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
_MINUTE_MS = 60_000
_CLOCK_CHANGE_MINUTES_MAX = 180
"""No zone moves its clock by more at once (two hours have happened)."""
_WINDOW = re.compile(r"(?:([a-z,-]+)\s+)?(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Weekly windows in a time zone.

    `minutes`: pairs of begin and end in minutes since Monday 00:00; an end may lie in the next
    week. Make it with `parse_schedule`.
    """

    minutes: tuple[tuple[int, int], ...]
    time_zone: ZoneInfo

    def is_open(self, now_ms: int) -> bool:
        """Whether a moment (milliseconds since 1970) lies in a window."""
        if not self.minutes:
            return True
        now = self._minute_of_week(now_ms)
        return any(
            begin <= now < end or begin <= now + _WEEK_MINUTES < end for begin, end in self.minutes
        )

    def opens_ms(self, now_ms: int) -> int:
        """When it opens next (`now_ms` itself if it is open): milliseconds since 1970."""
        if self.is_open(now_ms):
            return now_ms
        now = self._minute_of_week(now_ms)
        wait = min((begin - now) % _WEEK_MINUTES for begin, _ in self.minutes)
        minute_ms = now_ms - now_ms % _MINUTE_MS
        opens_ms = minute_ms + wait * _MINUTE_MS
        if self._offset(opens_ms) == self._offset(now_ms):
            return opens_ms
        # The clock is changed before: look at each minute around, and go on after it if the window
        # lies in the hour that is left out.
        last = wait + _CLOCK_CHANGE_MINUTES_MAX
        first = max(1, wait - _CLOCK_CHANGE_MINUTES_MAX)
        found = (minute_ms + minute * _MINUTE_MS for minute in range(first, last + 1))
        for moment_ms in found:
            if self.is_open(moment_ms):
                return moment_ms
        return self.opens_ms(minute_ms + last * _MINUTE_MS)

    def _minute_of_week(self, moment_ms: int) -> int:
        local = datetime.fromtimestamp(moment_ms // 1000, self.time_zone)
        return local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute

    def _offset(self, moment_ms: int) -> object:
        return datetime.fromtimestamp(moment_ms // 1000, self.time_zone).utcoffset()


ALWAYS = Schedule((), ZoneInfo("UTC"))


def parse_schedule(windows: tuple[str, ...], time_zone: str) -> Schedule:
    """Read windows. Raises: MalformedError that names what is wrong."""
    try:
        zone = ZoneInfo(time_zone)
    except (OSError, ValueError, LookupError) as error:
        raise MalformedError(
            f"time_zone {time_zone!r} is not known on this machine (for example: Europe/Berlin)"
        ) from error
    if len(windows) > WINDOWS_MAX:
        raise MalformedError(f"a schedule has at most {WINDOWS_MAX} windows")
    minutes = [pair for window in windows for pair in _window(window)]
    return Schedule(tuple(sorted(minutes)), zone)


def _window(text: str) -> list[tuple[int, int]]:
    found = _WINDOW.fullmatch(text.strip().lower())
    if found is None:
        raise MalformedError(
            f"schedule: {text!r} is not a window like 'mon-fri 18:00-08:00' or '09:00-17:00'"
        )
    days, *numbers = found.groups()
    begin = _clock(numbers[0], numbers[1], text)
    end = _clock(numbers[2], numbers[3], text)
    if begin in (_DAY_MINUTES, end):
        raise MalformedError(f"schedule: {text!r} is empty (a whole day is 00:00-24:00)")
    length = (end - begin) % _DAY_MINUTES or _DAY_MINUTES
    starts = [day * _DAY_MINUTES + begin for day in _days(days, text)]
    return [(start, start + length) for start in starts]


def _clock(hours: str, minutes: str, text: str) -> int:
    value = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or value > _DAY_MINUTES:
        raise MalformedError(f"schedule: {text!r} has a time that no clock shows")
    return value


def _days(text: str | None, window: str) -> list[int]:
    if text is None or text == "daily":
        return list(range(7))
    days: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS or part.endswith("-"):
            raise MalformedError(
                f"schedule: {part!r} in {window!r} is not a day or a range of {', '.join(DAYS)}"
            )
        begin = DAYS.index(first)
        count = (DAYS.index(last or first) - begin) % 7 + 1
        days += [(begin + offset) % 7 for offset in range(count)]
    return sorted(set(days))


def show_moment(moment_ms: int) -> str:
    """A moment for people, in UTC."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
