"""Owns what a node says of itself to its operator: one frozen value, and why it is idle. Pure."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from node.agent.schedule import show_moment
from node.observation.subcloud_status import SubcloudStatus, subcloud_status_of
from p2p.errors import MalformedError

FORMAT = "resultity/node-status/1"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model of a node. Counters are over all its runtimes since the node started.

    `loaded`: a job could start now without waiting for a runtime. `memory_bytes`: what it counts as
    taking, 0 while it is not loaded. `step_costs_us`: what a step of so many sequences was measured
    to take; `notes`: what its runtime could not have as it was asked for.
    """

    name: str
    digest: str
    state: str
    reason: str
    verified: bool
    loaded: bool
    slots: int
    jobs: int
    tokens_per_second: float
    restarts: int
    loads: int
    memory_bytes: int
    steps: int
    prefill_tokens: int
    cached_tokens: int
    output_tokens: int
    mode: str = ""
    threads: int = 0
    gpu_layers: int = 0
    build: str = ""
    step_costs_us: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node at one moment. Times in milliseconds since 1970, amounts in microcredits.

    Counters are over all models since the process started. `batch_fill` is the mean number of
    sequences in a step. Earnings are what the ledger said last, None before. `model` names all
    models, `model_state` is the best of their states. `refused_recently`: offers of the last five
    minutes. `opens_ms`: when the node's hours begin; None while they last. `isolated`: the subcloud
    for which it left the global pool, or empty. `wishes_ns`: which version of the operator's wishes
    (when it was written) the subclouds were judged by. `evidence`: a line for each document of
    others about the node that it shows.
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
    models: tuple[ModelStatus, ...] = ()
    memory_bytes_max: int | None = None
    refused: int = 0
    refused_recently: int = 0
    last_refusal: str = ""
    opens_ms: int | None = None
    hardware: str = ""
    reach: str = ""
    subclouds: tuple[SubcloudStatus, ...] = ()
    isolated: str = ""
    wishes_ns: int = 0
    evidence: tuple[str, ...] = ()
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
            (self.opens_ms is not None, f"outside its hours: {self._opening}"),
            (self.model_state == "none", "it has no models"),
            (self.model_state != "active", f"no model is active: {self._why_not_active}"),
            (bool(self._why_apart), self._why_apart),
            (not self.gateways, "no gateway has a session with it"),
            (
                bool(self.refused_recently),
                f"it refused {self.refused_recently} offers in the last minutes, the last one "
                f"because of {self.last_refusal}",
            ),
        )
        return next((text for holds, text in reasons if holds), "no gateway has a job for it")

    @property
    def _why_apart(self) -> str:
        """Why it has no work although it left the global pool for a subcloud."""
        found = (s for s in self.subclouds if s.subcloud_id == self.isolated and s.reason)
        return next((f"it works for {s.name} only, and {s.reason}" for s in found), "")

    @property
    def _opening(self) -> str:
        return f"it works again at {show_moment(self.opens_ms or 0)}"

    @property
    def _why_not_active(self) -> str:
        found = (f"{model.name} is {model.state} ({model.reason})" for model in self.models)
        return "; ".join(found) or f"its model is {self.model_state}"

    def to_json(self) -> bytes:
        """Give the status as it is kept in the data folder."""
        content = {**dataclasses.asdict(self), "idle_reason": self.idle_reason}
        return json.dumps({**content, "batch_fill": round(self.batch_fill, 3)}).encode()


def read_status(path: Path) -> NodeStatus:
    """Read a status file. Raises: OSError, MalformedError."""
    try:
        content = json.loads(path.read_bytes())
        names = {field.name for field in dataclasses.fields(NodeStatus)}
        content["models"] = tuple(
            ModelStatus(**{**model, "notes": tuple(model.get("notes", ()))})
            for model in content.get("models", ())
        )
        content["evidence"] = tuple(content.get("evidence", ()))
        content["subclouds"] = tuple(map(subcloud_status_of, content.get("subclouds", ())))
        status = NodeStatus(**{name: value for name, value in content.items() if name in names})
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedError(f"{path} is not a node's status") from error
    if status.format != FORMAT:
        raise MalformedError(f"{path} was written by another version: {status.format!r}")
    return status
