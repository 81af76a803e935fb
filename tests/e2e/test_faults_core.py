"""Bootstraps and gateways that die, freeze, or are asked to end, with real processes."""

from __future__ import annotations

import contextlib
import time

import openai

from tests.fakes.real_network import (
    TOKENS,
    RealNetwork,
    StreamSeen,
    eventually,
    read_stream,
)


def asked_again(network: RealNetwork) -> bool:
    try:
        return bool(network.ask())
    except openai.APIError:
        return False


def refusal(network: RealNetwork) -> openai.APIStatusError | None:
    """Ask; give the refusal, or None if there was an answer."""
    try:
        network.ask()
    except openai.APIStatusError as error:
        return error
    return None


def test_a_killed_bootstrap_comes_back_with_its_ledger(network: RealNetwork) -> None:
    network.ask()
    before, paid = network.part("bootstrap"), network.settled_balance()
    before.kill()
    eventually(lambda: not network.health().get("bootstrap_connected"), "the gateway notices")
    started_s = time.monotonic()
    network.up()
    eventually(lambda: network.health().get("bootstrap_connected"), "the gateway is back")
    print(f"bootstrap restarted and peers back after {time.monotonic() - started_s:.1f} s")
    after = network.part("bootstrap")
    assert after.peer_id == before.peer_id
    assert network.settled_balance() == paid
    eventually(lambda: asked_again(network), "the next request is served")
    assert network.settled_balance()["spent_microcredits"] > paid["spent_microcredits"]


def test_a_bootstrap_killed_during_an_answer_loses_no_money(network: RealNetwork) -> None:
    before = network.settled_balance()
    seen = StreamSeen()
    with network.client() as client, network.open_stream(client) as stream:
        read_stream(stream, seen, until_characters=10)
        network.part("bootstrap").kill()
        read_stream(stream, seen)
    assert len(seen.text.split()) == TOKENS, f"{seen} {network.logs()}"
    network.up()
    after = network.settled_balance()
    assert after["spent_microcredits"] > before["spent_microcredits"]


def test_a_killed_gateway_comes_back_and_settles(network: RealNetwork) -> None:
    network.ask()
    paid = network.settled_balance()
    before, base_url = network.part("gateway"), network.base_url
    seen = StreamSeen()
    with network.client() as client, network.open_stream(client) as stream:
        read_stream(stream, seen, until_characters=10)
        before.kill()
        # A killed process says no goodbye: the transport's error is the client's to see.
        with contextlib.suppress(Exception):
            read_stream(stream, seen)
    network.up()
    assert network.part("gateway").peer_id == before.peer_id
    assert network.base_url == base_url
    eventually(lambda: asked_again(network), "the next request is served")
    balance = network.settled_balance()
    assert balance["spent_microcredits"] > paid["spent_microcredits"]


def test_a_frozen_bootstrap_hangs_nobody(network: RealNetwork) -> None:
    network.ask()
    with network.part("bootstrap").frozen():
        started_s = time.monotonic()
        refused = refusal(network)
        took_s = time.monotonic() - started_s
    print(f"with a frozen bootstrap: {refused or 'served'} after {took_s:.1f} s")
    assert took_s < 45
    if refused is not None:
        assert refused.status_code == 503
        assert refused.response.headers.get("retry-after")
    eventually(lambda: asked_again(network), "requests are served again")
    network.settled_balance()
