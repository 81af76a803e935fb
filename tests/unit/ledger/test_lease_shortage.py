"""What a refused hold is told when the credit is there, but leased to gateways."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.errors import (
    CreditLeasedError,
    HoldExpiredError,
    InsufficientFundsError,
    KeyCapError,
    KeyDayCapError,
    RequestError,
)
from ledger.lease_shortage import OpenLeaseView, Standing, shortage_of
from tests.fakes.ledger_world import START_MS

MINE, OTHER = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"
LEASES = (
    OpenLeaseView(MINE, 300, START_MS + 5_000, 7),
    OpenLeaseView(OTHER, 200, START_MS + 9_000, 7),
    OpenLeaseView(MINE, 0, START_MS + 99_000, 7),
    OpenLeaseView(MINE, 50, START_MS + 1_000, 6),
)


@pytest.mark.parametrize(
    ("error", "leased", "wanted"),
    [
        (InsufficientFundsError(100, 650), 550, {MINE, OTHER}),
        (InsufficientFundsError(100, 651), None, set()),
        (KeyCapError(900, 400, 1_000), 350, {MINE}),
        (KeyCapError(900, 451, 1_000), None, set()),
        (KeyDayCapError(900, 400, 1_000, START_MS, START_MS), 300, {MINE}),
        (KeyDayCapError(900, 401, 1_000, START_MS, START_MS), None, set()),
        (HoldExpiredError("late"), None, set()),
    ],
)
def test_leases_are_named_where_they_would_help(
    error: RequestError, leased: int | None, wanted: set[str]
) -> None:
    standing = Standing(MINE, 100, 900, 7, 900, LEASES)
    found, keys = shortage_of(error, standing)
    assert keys == wanted
    if leased is None:
        assert found is error
        return
    assert isinstance(found, CreditLeasedError)
    assert found.leased == leased
    assert found.back_ms == START_MS + (9_000 if OTHER in wanted else 5_000)
    assert str(found).startswith(str(error))
    assert shortage_of(error, replace(standing, leases=())) == (error, frozenset())
    # What has come back since then makes it worth trying again.
    came_back = replace(standing, available=650, used=600, day_used=600, leases=())
    assert shortage_of(error, came_back) == (None, frozenset())
