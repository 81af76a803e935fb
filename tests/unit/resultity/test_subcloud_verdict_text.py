"""The values of criteria as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from resultity.subclouds.verdict_text import value_text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("uptime", 9950, "99.5%"),
        ("memory", 24 * 2**30, "24 GiB"),
        ("cooldown", 1_700_000_000_000, "until 2023-11-14 22:13 UTC"),
        ("suspension", 10**18, f"until {10**18} ms since 1970"),
        ("first_output", 800, "800 ms"),
        ("speed", 12.5, "12.5 tokens/s"),
        ("region", [["DE", "FR"], [], "proven"], "DE FR proven"),
        ("reputation", {"reputation_min": 9900, "jobs_min": 3}, "reputation_min=99% jobs_min=3"),
        ("reputation", None, "none"),
        ("gpu", {"kind": "RTX", "memory_bytes_min": 2**34}, "kind=RTX memory_bytes_min=16 GiB"),
        ("isolation", False, "no"),
        ("models", "0 of 1", "0 of 1"),
    ],
)
def test_values_are_shown_in_units_of_people(name: str, value: Any, text: str) -> None:
    assert value_text(name, value) == text
