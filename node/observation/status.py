"""Owns what a node says of itself to its operator: one frozen value, and why it is idle. Pure."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from p2p.errors import MalformedError

FORMAT = "resultity/node-status/1"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node at one moment. Times in milliseconds since 1970, amounts in microcredits.

    Counters count since the process (the runtime's: since its runtime) started. `batch_fill` is the
    mean number of sequences in a step. Earnings are what the ledger said last, None before.
    """

    network: str
    peer_id: str
    account_id: str
    pid: int
    started_ms: int
    at_ms: int
    certificate_expires_ms: int
    model: str
    model_digest: str
    model_state: str
    bootstrap: str
    gateways: int
    draining: bool
    sandboxed: bool
    runtime_ready: bool
    runtime_restarts: int
    reproducible: bool
    slots: int
    jobs_running: int
    jobs_waiting: int
    jobs_done: int
    claims_waiting: int
    tokens_per_second: float
    steps: int
    prefill_tokens: int
    cached_tokens: int
    output_tokens: int
    earned: int | None = None
    earned_unmatured: int | None = None
    format: str = FORMAT

    @property
    def batch_fill(self) -> float:
        """Output tokens for each step of the runtime."""
        return self.output_tokens / self.steps if self.steps else 0.0

    @property
    def idle_reason(self) -> str:
        """Why nothing runs, from the operator's side first; empty if something does."""
        if self.jobs_running or self.jobs_waiting:
            return ""
        reasons = (
            (self.draining, "it is draining: it takes no new jobs"),
            (not self.bootstrap, "no bootstrap can be reached"),
            (not self.runtime_ready, "the runtime is starting"),
            (self.model_state == "inactive", "the network does not approve its model (any more)"),
            (self.model_state != "active", f"its model is {self.model_state}"),
            (not self.gateways, "no gateway has a session with it"),
        )
        return next((text for holds, text in reasons if holds), "no gateway has a job for it")

    def to_json(self) -> bytes:
        """Give the status as it is kept in the data folder."""
        content = {**dataclasses.asdict(self), "idle_reason": self.idle_reason}
        return json.dumps({**content, "batch_fill": round(self.batch_fill, 3)}).encode()


def read_status(path: Path) -> NodeStatus:
    """Read a status file. Raises: OSError, MalformedError."""
    try:
        content = json.loads(path.read_bytes())
        names = {field.name for field in dataclasses.fields(NodeStatus)}
        status = NodeStatus(**{name: value for name, value in content.items() if name in names})
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedError(f"{path} is not a node's status") from error
    if status.format != FORMAT:
        raise MalformedError(f"{path} was written by another version: {status.format!r}")
    return status
