"""Owns the fixtures of the contract suites."""

from __future__ import annotations

import pytest

from tests.fakes.networks import WORLDS, World


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]()
