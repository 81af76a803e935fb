"""Owns the network of real processes that the tests of faults and bad input share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.real_network import DELAY_MS, TOKENS, RealNetwork


@pytest.fixture(scope="session")
def shared_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNetwork]:
    """Two nodes whose engine says `word0 word1 ...`, TOKENS words, one every DELAY_MS."""
    network = RealNetwork(
        tmp_path_factory.mktemp("shared_network"), nodes=2, tokens=TOKENS, delay_ms=DELAY_MS
    )
    try:
        network.up()
        yield network
    finally:
        network.down()


@pytest.fixture
def network(shared_network: RealNetwork) -> RealNetwork:
    """The shared network with everything running, whatever the test before did to it."""
    shared_network.heal()
    return shared_network
