"""A node process without a listener serves: through the relay, and over its own dial."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.real_network import RealNetwork, eventually

pytestmark = pytest.mark.e2e
ANSWER = "word0 word1"


def test_a_node_without_a_listener_serves(tmp_path: Path) -> None:
    network = RealNetwork(tmp_path, nodes=1, tokens=8, delay_ms=1)
    # The gateway tells an address that nobody answers at, as behind a router.
    closed = "/ip4/127.0.0.1/tcp/1"
    network.configure(RESULTITY_NODE_LISTEN="none", RESULTITY_GATEWAY_ANNOUNCE=closed)
    network.configure(RESULTITY_GATEWAY_REACHABLE="no")

    def log_of(role: str) -> str:
        return (tmp_path / "logs" / f"{role}.log").read_text(errors="replace")

    try:
        network.up()  # which waits until the node can be used
        node = network.part("node").peer_id
        assert network.ask(max_tokens=2).split() == ANSWER.split()
        assert f"session with node {node} opened (relayed)" in log_of("gateway")
        assert f"to {node} opened" in log_of("bootstrap")  # the circuit

        # Another gateway process, that can be dialled: the node finds it by itself.
        network.configure(RESULTITY_GATEWAY_REACHABLE="auto", RESULTITY_GATEWAY_ANNOUNCE="")
        network.part("gateway").kill()
        network.up()
        eventually(
            lambda: f"session with node {node} opened (direct)" in log_of("gateway"),
            "the node has dialled the gateway",
        )
        assert network.ask(max_tokens=2).split() == ANSWER.split()
        eventually(
            lambda: log_of("bootstrap").count("circuit from") % 2 == 0, "the circuit is closed"
        )
        status = ("node", "status", "--json", "--data-dir", str(tmp_path))
        eventually(
            lambda: "hidden: has dialled 1 of 1 gateways" in network.run(*status).stdout,
            "the status says so too",
        )
        assert network.settled_balance()["spent_microcredits"] > 0
    finally:
        network.down()
