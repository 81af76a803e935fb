"""Owns the status of a node that has done nothing yet, for tests of what is shown of it."""

from __future__ import annotations

from typing import Any

from node.observation.status import NodeStatus


def node_status(**changes: Any) -> NodeStatus:
    """A status with the given fields."""
    content: dict[str, Any] = {
        "network": "test-" + "0" * 32,
        "peer_id": "12D3KooWnode",
        "account_id": "acct-1",
        "pid": 1,
        "started_ms": 1_000,
        "at_ms": 61_000,
        "certificate_expires_ms": 10**12,
        "model": "Tiny",
        "model_digest": "00",
        "model_state": "active",
        "bootstrap": "12D3KooWbootstrap",
        "gateways": 1,
        "draining": False,
        "sandboxed": True,
        "runtime_ready": True,
        "runtime_restarts": 0,
        "reproducible": True,
        "slots": 4,
        "jobs_running": 0,
        "jobs_waiting": 0,
        "jobs_done": 0,
        "claims_waiting": 0,
        "tokens_per_second": 0.0,
        "steps": 0,
        "prefill_tokens": 0,
        "cached_tokens": 0,
        "output_tokens": 0,
    }
    return NodeStatus(**content | changes)
