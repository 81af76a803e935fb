"""Owns how a node's subclouds are told and shown: the operator's wishes, and what came of them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from node.observation.status import NodeStatus, read_status
from node.observation.subcloud_status import SubcloudStatus
from node.subclouds.kept import KeptState, MembershipFile
from node.subclouds.wishes import FOLDER, Wishes, changing_wishes, wishes_path
from p2p.subclouds.identity import SubcloudId, label_of

ANSWER_S_MAX = 10.0
"""A running node reads what it is told, and writes its status, once a second."""
_POLL_S = 0.1


def other_names(folder: Path, name: str) -> tuple[str, ...]:
    """The other names (label, ID) that a node knows a subcloud by. Raises: MalformedError."""
    kept = kept_state(folder)
    pairs = set(kept.labels.items())
    pairs |= {(label_of(identity), identity) for identity in kept.memberships}
    found = {alias for pair in pairs if name in pair for alias in pair}
    return tuple(sorted(found - {name}))


def kept_state(folder: Path) -> KeptState:
    """What a node keeps of its memberships. Raises: MalformedError."""
    return MembershipFile(folder / FOLDER).load()


def tell_node(folder: Path, change: object) -> int:
    """Change the wishes of a node by a function of them; gives when that was written (ns).

    Raises: MalformedError, OSError.
    """
    assert callable(change)
    path = wishes_path(folder)
    with changing_wishes(path) as box:
        wishes = change(box[0])
        assert isinstance(wishes, Wishes)
        box[0] = wishes
    return path.stat().st_mtime_ns if path.exists() else 0


def wait_for_answer(folder: Path, written_ns: int) -> NodeStatus | None:
    """The status of a running node once it has judged what was written; None if it does not say."""
    path, end_s = folder / "status.json", time.monotonic() + ANSWER_S_MAX
    while time.monotonic() < end_s:
        if path.exists():
            status = read_status(path)
            if status.wishes_ns >= written_ns:
                return status
        time.sleep(_POLL_S)
    return None


def subcloud_line(status: SubcloudStatus) -> str:
    """One subcloud of a node in a line."""
    line = f"{status.name}, {status.state}"
    if status.reason:
        line += f" ({status.reason})"
    if status.isolates:
        line += ", isolated for it"
    if status.version:
        line += f", {status.join}, policy {status.version}"
    if status.joined_ms:
        line += f", since {_moment(status.joined_ms)}"
    if status.certificate_until_ms:
        line += f", certificate until {_moment(status.certificate_until_ms)}"
    if status.is_member and status.others_judge:
        line += f"; gateways judge: {', '.join(status.others_judge)}"
    return line


def subcloud_rows(status: NodeStatus) -> list[tuple[str, str]]:
    """The rows of `node status` about subclouds."""
    rows = []
    for found in status.subclouds:
        rows.append(("subcloud", subcloud_line(found)))
        rows += [
            ("", f"{failed.criterion}: wanted {failed.wanted}, found {failed.found}")
            for failed in found.failed
        ]
    if status.isolated:
        rows.append(("pool", f"left the global pool for {label_of(SubcloudId(status.isolated))}"))
    return rows


def _moment(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
