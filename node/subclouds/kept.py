"""Owns the file of a node's memberships, and the log of what it joined and left.

Theory of operation. One JSON document, replaced as a whole before a change is in force: memberships
(with certificates), when each subcloud was left (its cooldown counts from there), which ID a label
led to. The log is one line for each step, in a file of its own; it loses its older half when it has
grown.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.subclouds.limits import FILE_BYTES_MAX, LOG_LINES_MAX, LOG_READ_BYTES_MAX
from node.subclouds.membership_changes import Change
from node.subclouds.membership_rules import Kept
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, P2PError
from p2p.files import write_atomically
from p2p.signing import Signed
from p2p.subclouds.identity import SubcloudId, parse_subcloud_id
from p2p.subclouds.memberships import Membership

log = logging.getLogger(__name__)
MEMBERSHIPS_FILE = "memberships.json"
LOG_FILE = "log.jsonl"
FORMAT = "resultity/node-memberships/1"
LEFT_MAX = 1000
LABELS_MAX = 1000
_MODE = 0o600


@dataclass(slots=True)
class KeptState:
    """What outlives a restart. `spoke`: a statement was made once, so others may remember it."""

    memberships: dict[SubcloudId, Kept] = field(default_factory=dict)
    left_ms: dict[SubcloudId, int] = field(default_factory=dict)
    labels: dict[str, SubcloudId] = field(default_factory=dict)
    spoke: bool = False


class MembershipFile:
    """Reads and writes what is kept."""

    def __init__(self, folder: Path) -> None:
        """Keep everything in this folder (made when it is needed)."""
        self.folder = folder
        self._written: bytes | None = None

    def load(self) -> KeptState:
        """Read it; empty if there is none. Raises: MalformedError, OSError."""
        path = self.folder / MEMBERSHIPS_FILE
        if not path.exists():
            return KeptState()
        if path.stat().st_size > FILE_BYTES_MAX:
            raise MalformedError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
        try:
            return _state(json.loads(path.read_bytes()))
        except (ValueError, TypeError, KeyError, AttributeError, P2PError) as error:
            raise MalformedError(
                f"{path} is damaged ({error!r}): without it the node does not know what it "
                "consented to; remove it to begin without memberships"
            ) from error

    def save(self, state: KeptState) -> None:
        """Write it, if it differs from what was written last. Raises: OSError."""
        data = json.dumps(_content(state), indent=1).encode()
        if data == self._written:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self.folder / MEMBERSHIPS_FILE, data, _MODE)
        self._written = data

    def note(self, changes: Iterable[Change], now_ms: int) -> None:
        """Add lines to the log; a log that cannot be written is said and not waited for."""
        lines = [
            json.dumps(
                {"at_ms": now_ms, "subcloud": c.identity, "what": c.what, "reason": c.reason}
            )
            for c in changes
        ]
        if not lines:
            return
        path = self.folder / LOG_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            old = read_log(self.folder)
            if len(old) >= LOG_LINES_MAX:
                kept = [json.dumps(line) for line in old[-LOG_LINES_MAX // 2 :]]
                write_atomically(path, "".join(f"{line}\n" for line in kept).encode(), _MODE)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
            path.chmod(_MODE)
        except OSError as error:
            log.warning("the log of memberships cannot be written: %s", error)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The newest lines of the log, oldest first; a torn line is left out. Raises: OSError."""
    path = folder / LOG_FILE
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_READ_BYTES_MAX))
        raw = file.read().splitlines()
    found = []
    for line in raw[-LOG_LINES_MAX * 2 :]:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"at_ms", "subcloud", "what"} <= entry.keys():
            found.append(entry)
    return found


def _content(state: KeptState) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "memberships": [
            {
                "subcloud": identity,
                "policy_digest": kept.membership.policy_digest.hex(),
                "joined_ms": kept.membership.joined_ms,
                "isolates": kept.membership.isolates,
                "certificate": _signed_text(kept.membership.certificate),
                "unmet_ms": kept.unmet_ms,
            }
            for identity, kept in sorted(state.memberships.items())
        ],
        "left_ms": _newest(state.left_ms),
        "labels": dict(list(state.labels.items())[-LABELS_MAX:]),
        "spoke": state.spoke,
    }


def _newest(left_ms: Mapping[SubcloudId, int]) -> dict[str, int]:
    newest = sorted(left_ms.items(), key=lambda item: item[1])[-LEFT_MAX:]
    return {str(identity): at_ms for identity, at_ms in newest}


def _state(content: dict[str, Any]) -> KeptState:
    if content["format"] != FORMAT:
        raise MalformedError("it was written by another version")
    memberships = {}
    for entry in content["memberships"]:
        identity = parse_subcloud_id(entry["subcloud"])
        membership = Membership(
            identity,
            bytes.fromhex(entry["policy_digest"]),
            int(entry["joined_ms"]),
            bool(entry["isolates"]),
            _signed_of(entry["certificate"]),
        )
        memberships[identity] = Kept(membership, int(entry["unmet_ms"]))
    left = {parse_subcloud_id(name): int(at_ms) for name, at_ms in content["left_ms"].items()}
    labels = {str(label): parse_subcloud_id(found) for label, found in content["labels"].items()}
    return KeptState(memberships, left, labels, bool(content["spoke"]))


def _signed_text(signed: Signed | None) -> str:
    return base64.b64encode(encode_message(signed)).decode() if signed is not None else ""


def _signed_of(text: str) -> Signed | None:
    return decode_message(base64.b64decode(text, validate=True), Signed) if text else None
