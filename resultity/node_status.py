"""Owns where nodes keep their status on this machine, and how it is shown."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from node.observation.status import ModelStatus, NodeStatus, read_status
from resultity.accounts import show_credits
from resultity.errors import NotRunningError
from resultity.folder_lock import lock_holder
from resultity.node_subclouds import subcloud_rows
from resultity.settings_sources import default_data_dir

STATUS_FILE = "status.json"
STALE_S = 10.0
"""A status is written every second; an older one is of a node that hangs or is stopped."""


def node_folders(data_dir: Path | None) -> list[Path]:
    """The folders of the nodes that a command is about: the one that was named, or all that the
    default data folder has. Raises: NotRunningError if there is none."""
    if data_dir is not None and (data_dir / "identity.key").exists():
        return [data_dir]
    root = data_dir or default_data_dir()
    found = sorted(
        folder
        for folder in (root / "node", *root.glob("node-*"))
        if (folder / "identity.key").exists()
    )
    if not found:
        raise NotRunningError(f"there is no node in {root}: name its folder with --data-dir")
    return found


def running_status(folder: Path) -> NodeStatus | None:
    """The status of a node that runs; None if it does not. Raises: MalformedError.

    What a node that was killed left there names a process that may be another one by now: only the
    one that holds the folder counts.
    """
    path = folder / STATUS_FILE
    if not path.exists():
        return None
    status = read_status(path)
    return status if lock_holder(folder) == status.pid else None


def status_table(name: str, status: NodeStatus | None, now_ms: int) -> Table:
    """Show one node: what it does, what it earned, and why it is idle if it is."""
    table = Table(title=name, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", min_width=12)
    table.add_column()
    if status is None:
        table.add_row("state", "not running")
        return table
    for label, text in _rows(status, now_ms):
        table.add_row(label, text)
    return table


def _rows(status: NodeStatus, now_ms: int) -> list[tuple[str, str]]:
    silent_s = (now_ms - status.at_ms) / 1000
    state = status.idle_reason and f"idle: {status.idle_reason}"
    if silent_s > STALE_S:
        state = f"says nothing for {silent_s:.0f} s: it hangs, or it was stopped"
    computed = status.prefill_tokens + status.cached_tokens
    hits = "no input yet"
    if computed:
        hits = f"{100 * status.cached_tokens / computed:.0f} % of the input"
    earned = "the ledger has not said yet"
    if status.earned is not None:
        earned = f"{show_credits(status.earned)} credits"
        earned += f", {show_credits(status.earned_unmatured or 0)} of them not mature"
    left_days = (status.certificate_expires_ms - now_ms) / 86_400_000
    up_s = (now_ms - status.started_ms) // 1000
    return [
        ("state", state or "working"),
        (
            "jobs",
            f"{status.jobs_running} running, {status.jobs_waiting} waiting"
            f" ({status.slots} slots), {status.jobs_done} done",
        ),
        ("speed", f"{status.tokens_per_second:.1f} tokens/s, {status.batch_fill:.2f} a step"),
        ("tokens", f"{status.prefill_tokens} read, {status.output_tokens} written"),
        ("cache", hits),
        ("earned", earned),
        ("unpaid", f"{status.claims_waiting} receipts wait for the ledger"),
        *(row for model in status.models for row in _model_rows(model)),
        (
            "runtime",
            f"{'ready' if status.runtime_ready else 'not loaded'}, restarted "
            f"{status.runtime_restarts} times, "
            f"{'without network' if status.sandboxed else 'NOT kept from the network'}"
            f"{', reproducible' if status.reproducible else ''}",
        ),
        ("memory", _memory_line(status)),
        ("machine", status.hardware),
        *subcloud_rows(status),
        ("refused", _refused_line(status)),
        ("network", f"{status.gateways} gateways, bootstrap {status.bootstrap or 'unreachable'}"),
        *([("reach", status.reach)] if status.reach else []),
        ("peer", f"{status.peer_id} for {status.account_id}"),
        (
            "up",
            f"{up_s // 3600}:{up_s // 60 % 60:02}:{up_s % 60:02}, "
            f"certificate ends in {left_days:.1f} days",
        ),
    ]


def _model_rows(model: ModelStatus) -> list[tuple[str, str]]:
    rows = [("model", _model_line(model))]
    if model.threads:
        parts = [f"{model.threads} threads", model.mode]
        if model.gpu_layers:
            parts.append(f"{model.gpu_layers} layers on GPUs")
        costs = ", ".join(f"{us / 1000:.3g} for {n}" for n, us in model.step_costs_us.items())
        if costs:
            parts.append(f"a step takes (ms, by jobs) {costs}")
        rows.append(("", ", ".join(parts)))
    rows += [("", note) for note in model.notes]
    return rows


def _model_line(model: ModelStatus) -> str:
    line = f"{model.name}, {model.state}"
    if model.reason:
        line += f" ({model.reason})"
    if not model.verified:
        line += ", not verified"
    if model.loaded:
        line += (
            f", {model.jobs} jobs on {model.slots} slots, {model.tokens_per_second:.1f} tokens/s"
        )
    return line


def _memory_line(status: NodeStatus) -> str:
    used = sum(model.memory_bytes for model in status.models) / 1e9
    if status.memory_bytes_max is None:
        return f"{used:.2f} GB for models"
    return f"{used:.2f} of {status.memory_bytes_max / 1e9:.2f} GB for models"


def _refused_line(status: NodeStatus) -> str:
    if not status.refused:
        return "nothing"
    recent = f"{status.refused} offers, {status.refused_recently} in the last five minutes"
    return f"{recent}, the last: {status.last_refusal}"
