"""Owns the fixtures of the contract suites."""

from __future__ import annotations

import pytest

from tests.fakes.ledger_databases import postgres, url
from tests.fakes.networks import WORLDS, World

__all__ = ["postgres", "url", "world"]


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]()
