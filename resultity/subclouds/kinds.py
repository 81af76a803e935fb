"""Owns the kinds of values in a policy file: how a person writes them, what the policy has. Pure.

A kind reads the text of a YAML scalar and writes it back; the written form is the only one that it
writes, so that a policy has one file. Amounts are exact: durations and memory are whole numbers of
the policy's unit, shares whole basis points, prices whole microcredits; none is ever a float.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

TEXT_CHARACTERS_MAX = 500
_DECIMAL = r"(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,12})?"
_TIME_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of scalar.

    Attributes:
        what: what to write, in a few words, for errors and the reference.
        pattern: what the text must match as a whole.
        read: makes the policy's value of a text that matches; ValueError with a reason.
        write: the text for a value.
        schema: JSON schema of the value as a YAML reader sees it.
        flag: `true` and `false`, which are no texts in YAML.
        plain: what `write` gives needs no quotation marks.
    """

    what: str
    pattern: re.Pattern[str]
    read: Callable[[str], Any]
    write: Callable[[Any], str]
    schema: dict[str, Any]
    flag: bool = False
    plain: bool = True

    def parse(self, text: str) -> Any:
        """Read a text. Raises: ValueError that says what to write."""
        if len(text) > TEXT_CHARACTERS_MAX or not self.pattern.fullmatch(text):
            raise ValueError(f"expected {self.what}, not {shortened(text)}")
        return self.read(text)


def shortened(text: str) -> str:
    """Quote what somebody typed, in a bounded form and on one line."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _scaled(units: dict[str, int], unit_of_policy: int, name: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = re.match(r"[0-9.]+", text)
        assert number is not None
        unit = text[number.end() :].strip()
        exact = Fraction(number[0]) * units[unit] / unit_of_policy
        if exact.denominator != 1:
            raise ValueError(f"{shortened(text)} is not a whole number of {name}")
        return int(exact)

    return read


def _unscaled(
    units: dict[str, int], unit_of_policy: int, space: str, smallest: str
) -> Callable[[int], str]:
    def write(value: int) -> str:
        whole = value * unit_of_policy
        best = smallest
        for unit, size in units.items():
            if whole and size >= units[smallest] and whole % size == 0:
                best = unit
        return f"{whole // units[best]}{space}{best}"

    return write


def duration(unit: str) -> Kind:
    """A time like `30d`, `12h`, `90s` or `800ms`; the policy has it in `unit` (`s` or `ms`)."""
    names = [name for name, size in _TIME_MS.items() if size >= _TIME_MS[unit]]
    pattern = rf"{_DECIMAL} ?({'|'.join(names)})"
    shown = "a time like `800ms`, `2s`" if unit == "ms" else "a time like `90s`, `12h`, `30d`"
    return Kind(
        shown,
        re.compile(pattern),
        _scaled(_TIME_MS, _TIME_MS[unit], "milliseconds" if unit == "ms" else "seconds"),
        _unscaled(_TIME_MS, _TIME_MS[unit], "", unit),
        {"type": "string", "pattern": f"^{pattern}$"},
    )


def memory() -> Kind:
    """A size like `24 GiB`; the policy has bytes."""
    pattern = rf"{_DECIMAL} ?({'|'.join(_SIZE)})"
    return Kind(
        "a size like `24 GiB` (B, KiB, MiB, GiB, TiB)",
        re.compile(pattern),
        _scaled(_SIZE, 1, "bytes"),
        _unscaled(_SIZE, 1, " ", "B"),
        {"type": "string", "pattern": f"^{pattern}$"},
    )


def _decimal_text(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def share() -> Kind:
    """A percentage like `99.5%`, at most two decimals; the policy has basis points."""
    pattern = r"(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,2})?%"
    return Kind(
        "a percentage like `99.5%` (at most two decimals)",
        re.compile(pattern),
        lambda text: int(Decimal(text[:-1]) * 100),
        lambda value: _decimal_text(Decimal(value) / 100) + "%",
        {"type": "string", "pattern": f"^{pattern}$"},
    )


def price() -> Kind:
    """Credits for a million tokens, at most six decimals; the policy has microcredits."""
    pattern = r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,6})?"
    return Kind(
        "credits for a million tokens like `0.25` (at most six decimals)",
        re.compile(pattern),
        lambda text: int(Decimal(text) * 10**6),
        lambda value: _decimal_text(Decimal(value) / 10**6),
        {"type": ["number", "string"], "pattern": f"^{pattern}$", "minimum": 0},
    )


def whole() -> Kind:
    """A whole number."""
    return Kind("a whole number", re.compile(r"0|[1-9][0-9]{0,17}"), int, str, {"type": "integer"})


def rate() -> Kind:
    """A decimal number such as tokens a second. The policy's JSON has a number."""
    # What was made by other means may be smaller than a person would write.
    pattern = r"(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,400})?"
    return Kind(
        "a number like `30` or `12.5`",
        re.compile(pattern),
        float,
        lambda value: _decimal_text(Decimal(repr(float(value)))),
        {"type": "number", "minimum": 0},
    )


def flag() -> Kind:
    """`true` or `false`."""
    return Kind(
        "`true` or `false`",
        re.compile("true|false"),
        lambda text: text == "true",
        lambda value: "true" if value else "false",
        {"type": "boolean"},
        flag=True,
    )


def choice(options: Sequence[str]) -> Kind:
    """One of some words."""
    what = ", ".join(f"`{option}`" for option in options[:-1]) + f" or `{options[-1]}`"
    return Kind(
        what,
        re.compile("|".join(map(re.escape, options))),
        str,
        str,
        {"enum": list(options)},
    )


def text(what: str, pattern: str = r"(?s).{0,500}", *, numbers: bool = False) -> Kind:
    """A text of some form. `numbers`: YAML may take it for a number; it is read as it stands."""
    schema: dict[str, Any] = {"type": ["string", "number"] if numbers else "string"}
    schema["pattern"] = f"^{pattern.removeprefix('(?s)')}$".replace(".{", "[\\s\\S]{")
    return Kind(what, re.compile(pattern), str, str, schema, plain=False)


def lifetime() -> Kind:
    """How long from its signing a policy holds, or until when (UTC). Read by `until_ms`."""
    pattern = rf"{_DECIMAL} ?(?:{'|'.join(_TIME_MS)})|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}"
    return Kind(
        "a time like `365d` (from its signing) or a date like `2027-12-31` (00:00 UTC)",
        re.compile(pattern),
        _read_lifetime,
        _unscaled(_TIME_MS, 1, "", "ms"),
        {"type": "string", "pattern": f"^(?:{pattern})$"},
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """A date in place of a lifetime (milliseconds since 1970)."""

    at_ms: int


def _read_lifetime(text: str) -> int | Moment:
    if text[4:5] != "-":
        return _scaled(_TIME_MS, 1, "milliseconds")(text)
    try:
        day = datetime.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise ValueError(f"{shortened(text)} is no date of the calendar") from None
    return Moment(int(day.timestamp()) * 1000)
