"""Owns `strftime_now` of chat templates: the job's day, written the same on every computer. Pure.

The day comes with the request (the gateway's, in UTC; docs/decisions/0010), never from this
computer's clock, because a prompt must be the same at every node and when it is checked later. The
time of day reads as midnight, so that prompts begin alike all day and the cache serves them. What
`strftime` writes depends on the system's locale and library, so the directives are written out
here, in English.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

from node.errors import RuntimeRefusedError

_DAY_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FORMAT_CHARACTERS_MAX = 256
_DIRECTIVE = re.compile(r"%([-_]?)(.?)", re.DOTALL)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_TEXTS: dict[str, Callable[[datetime.date], str]] = {
    "A": lambda day: _DAYS[day.weekday()],
    "a": lambda day: _DAYS[day.weekday()][:3],
    "B": lambda day: _MONTHS[day.month - 1],
    "b": lambda day: _MONTHS[day.month - 1][:3],
    "h": lambda day: _MONTHS[day.month - 1][:3],
    "d": lambda day: f"{day.day:02}",
    "e": lambda day: f"{day.day:2}",
    "m": lambda day: f"{day.month:02}",
    "Y": lambda day: f"{day.year:04}",
    "y": lambda day: f"{day.year % 100:02}",
    "C": lambda day: f"{day.year // 100:02}",
    "j": lambda day: f"{day.timetuple().tm_yday:03}",
    "u": lambda day: str(day.isoweekday()),
    "w": lambda day: str(day.isoweekday() % 7),
    "G": lambda day: f"{day.isocalendar().year:04}",
    "V": lambda day: f"{day.isocalendar().week:02}",
    "F": lambda day: day.isoformat(),
    "D": lambda day: f"{day.month:02}/{day.day:02}/{day.year % 100:02}",
    "x": lambda day: f"{day.month:02}/{day.day:02}/{day.year % 100:02}",
    "c": lambda day: (
        f"{_DAYS[day.weekday()][:3]} {_MONTHS[day.month - 1][:3]} {day.day:2} 00:00:00 {day.year}"
    ),
    "H": lambda day: "00",
    "k": lambda day: " 0",
    "I": lambda day: "12",
    "l": lambda day: "12",
    "M": lambda day: "00",
    "S": lambda day: "00",
    "f": lambda day: "000000",
    "p": lambda day: "AM",
    "P": lambda day: "am",
    "r": lambda day: "12:00:00 AM",
    "R": lambda day: "00:00",
    "T": lambda day: "00:00:00",
    "X": lambda day: "00:00:00",
    "Z": lambda day: "UTC",
    "z": lambda day: "+0000",
    "n": lambda day: "\n",
    "t": lambda day: "\t",
    "%": lambda day: "%",
}


def day_of(value: object) -> datetime.date | None:
    """Read the field `date` of a request (`YYYY-MM-DD`); None: it has none.

    Raises: RuntimeRefusedError `bad_request`.
    """
    if value is None:
        return None
    try:
        if isinstance(value, str) and _DAY_FORM.fullmatch(value):
            return datetime.date.fromisoformat(value)
    except ValueError:
        pass
    raise RuntimeRefusedError("bad_request", "date must be a day, YYYY-MM-DD")


def write_day(day: datetime.date, form: object) -> str:
    """Write a day as `strftime` does; `%-d` leaves zeros out, `%_d` has spaces instead.

    Raises: ValueError for a directive that is not known.
    """
    if not isinstance(form, str) or len(form) > _FORMAT_CHARACTERS_MAX:
        raise ValueError("not a form of dates")

    def text_of(match: re.Match[str]) -> str:
        padding, letter = match.groups()
        if letter not in _TEXTS:
            raise ValueError(f"the directive {match.group()!r} is not known")
        text = _TEXTS[letter](day)
        if not padding:
            return text
        bare = text.lstrip("0 ") or ("0" if text else "")
        return bare if padding == "-" else bare.rjust(len(text))

    return _DIRECTIVE.sub(text_of, form)
