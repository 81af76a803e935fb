"""Gateways with leases that die, with real processes: the money is whole again afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator

import pytest

from ledger.limits import KEY_CACHE_S
from tests.fakes.real_network import (
    DELAY_MS,
    TOKENS,
    RealNetwork,
    StreamSeen,
    eventually,
    read_stream,
)

SOAK = os.environ.get("RESULTITY_SOAK") == "1"
LIMITS = {"lease_usable_s": 10, "job_deadline_s_max": 5, "hold_lifetime_s_max": 65}
"""The shortest that a configuration may have: a lease ends after 75 s."""
LEASE_ENDS_S = 120.0


@pytest.fixture(scope="module")
def leasing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNetwork]:
    folder = tmp_path_factory.mktemp("leasing") / "data"
    network = RealNetwork(folder, nodes=1, use_leases=True, tokens=TOKENS, delay_ms=DELAY_MS)
    try:
        network.up()
        yield network
    finally:
        network.down()


def ledger(network: RealNetwork, question: str) -> int:
    """Read one number from the ledger's file."""
    path = network.data_dir / "bootstrap" / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return int(database.execute(question).fetchone()[0] or 0)


def held(network: RealNetwork) -> int:
    return ledger(network, "SELECT SUM(held) FROM ledger_namespaces")


def use_lease(network: RealNetwork) -> None:
    """Ask until a lease has paid."""
    for _ in range(3):
        network.ask()
    eventually(lambda: network.health().get("leases"), "there is a lease")
    network.ask()
    eventually(
        lambda: ledger(
            network, "SELECT COUNT(*) FROM ledger_transfers WHERE kind = 'leased_capture'"
        ),
        "a capture came out of the lease",
    )


def lease_and_die(network: RealNetwork) -> None:
    """Use a lease, and be killed in the middle of an answer that it pays for."""
    use_lease(network)
    seen = StreamSeen()
    with network.client() as client, network.open_stream(client) as stream:
        read_stream(stream, seen, until_characters=100)  # journalled by now
        network.part("gateway").kill()
        # A killed process says no goodbye: the transport's error is the client's to see.
        with contextlib.suppress(Exception):
            read_stream(stream, seen)
    assert held(network) > 0


def test_a_lease_serves_while_no_bootstrap_answers(leasing: RealNetwork) -> None:
    use_lease(leasing)
    spent = ledger(leasing, "SELECT SUM(spent) FROM ledger_api_keys")
    leasing.part("bootstrap").kill()
    eventually(lambda: not leasing.health().get("bootstrap_connected"), "the gateway notices")
    ends_s = time.monotonic() + KEY_CACHE_S + 1.0
    while time.monotonic() < ends_s:
        assert leasing.ask()
    leasing.up()
    eventually(
        lambda: not leasing.health().get("settlements_waiting"), "what was delivered is settled"
    )
    assert ledger(leasing, "SELECT SUM(spent) FROM ledger_api_keys") > spent


def test_a_killed_gateway_settles_and_returns_its_leases_when_it_is_back(
    leasing: RealNetwork,
) -> None:
    lease_and_die(leasing)
    spent = ledger(leasing, "SELECT SUM(spent) FROM ledger_api_keys")
    leasing.up()
    eventually(lambda: not held(leasing), "the lease went back")
    balance = leasing.settled_balance()
    assert balance["spent_microcredits"] > spent  # what the killed one had delivered


@pytest.mark.skipif(not SOAK, reason="a lease cannot end in less than a minute")
def test_the_credit_of_a_gateway_that_stays_dead_comes_back(leasing: RealNetwork) -> None:
    where = str(leasing.data_dir / "network")
    document = json.loads(leasing.run("network", "show", where).stdout)
    document["limits"] |= LIMITS
    path = leasing.data_dir.parent / "configuration.json"
    path.write_text(json.dumps(document))
    done = leasing.run("network", "sign", str(path), "--data-dir", where)
    assert done.returncode == 0, done.stderr
    version = json.loads(leasing.run("network", "show", where).stdout)["version"]
    eventually(
        lambda: leasing.get("/status/network")["configuration_version"] == version, "it is in force"
    )
    lease_and_die(leasing)
    eventually(lambda: not held(leasing), "the lease has ended", LEASE_ENDS_S)
    granted = -ledger(leasing, "SELECT SUM(amount) FROM ledger_entries WHERE account = 'mint'")
    available = ledger(leasing, "SELECT SUM(available) FROM ledger_namespaces")
    spent = ledger(leasing, "SELECT SUM(spent) FROM ledger_api_keys")
    assert (available + spent, leasing.ledger_sum()) == (granted, 0)
