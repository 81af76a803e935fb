"""Owns the file of what gateways owe this node: attempts that were delivered, and perhaps not paid.

Theory of operation. One file, appended to: `O <expiry> <claim>` for an attempt with a delivery
count (the newest line counts), `C <hold> <attempt>` when it was claimed, `D <hold> <attempt>` when
it is settled or past help. Lines are written together, a few times a second and without fsync: they
survive the end of the process. A line that cannot be read (the last one may be torn) is left out.
The file is rewritten with what is still open at the start and when it has grown.
"""

from __future__ import annotations

import base64
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from node.limits import OWED_ATTEMPTS_MAX, OWED_JOURNAL_BYTES_MAX
from p2p.claim_messages import Claim
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError
from p2p.files import write_atomically
from p2p.job_messages import DeliveryCount
from p2p.lease_messages import LeasedHold
from p2p.types import PeerId, peer_id_from_public_key

log = logging.getLogger(__name__)
_FILE_MODE = 0o600
Key = tuple[bytes, int]
"""A hold and an attempt."""


@dataclass(frozen=True, slots=True)
class Owed:
    """An attempt that a gateway owes pay for; `claim` is what would be claimed (not signed yet).

    `expires_ms`: when the hold, or the lease that it is a part of, ends.
    """

    claim: Claim
    count: DeliveryCount
    expires_ms: int
    claimed: bool = False

    @property
    def key(self) -> Key:
        """What it is kept under."""
        return self.claim.hold_id, self.count.attempt

    @property
    def gateway_id(self) -> PeerId:
        """Who owes it."""
        return peer_id_from_public_key(self.claim.delivery.signer)

    @property
    def lease_id(self) -> bytes:
        """The lease that it is paid from; empty if the hold is the job's own."""
        part = self.claim.leased_hold
        return decode_message(part.body, LeasedHold).lease_id if part is not None else b""


class OwedJournal:
    """Keeps what is owed, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left open. Raises: OSError."""
        self._path = path
        self._open: dict[Key, Owed] = {}
        self._lines: list[bytes] = []
        self._descriptor = -1
        self._size_bytes = self._size_bytes_max = 0
        self._load()
        self._rewrite()

    def owed(self) -> dict[Key, Owed]:
        """What is open, the oldest first."""
        return dict(self._open)

    def get(self, key: Key) -> Owed | None:
        """One of them."""
        return self._open.get(key)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def owe(self, owed: Owed) -> None:
        """Note an attempt, instead of what was noted of it before. The oldest makes room."""
        if owed.key not in self._open and len(self._open) >= OWED_ATTEMPTS_MAX:
            oldest = next(iter(self._open))
            log.warning("hold %s: forgotten, too many are not settled", oldest[0].hex())
            self.done(oldest)
        self._open[owed.key] = owed
        self._lines.append(_line(owed))

    def claimed(self, key: Key) -> None:
        """It was claimed; nothing of it changes any more."""
        self._open[key] = replace(self._open[key], claimed=True)
        self._lines.append(_mark(b"C", key))

    def done(self, key: Key) -> None:
        """It is settled, or past help."""
        if self._open.pop(key, None) is not None:
            self._lines.append(_mark(b"D", key))

    def flush(self) -> None:
        """Write the lines that have collected. A disk that is full is reported, not raised."""
        if not self._lines or self._descriptor < 0:
            return
        data = b"".join(self._lines)
        self._lines.clear()
        try:
            os.write(self._descriptor, data)
            self._size_bytes += len(data)
            if self._size_bytes > self._size_bytes_max:
                self._rewrite()
        except OSError as error:  # it goes on from memory
            log.error("the journal of what is owed cannot be written: %s", error)

    def close(self) -> None:
        """Write what has collected and close the file."""
        self.flush()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _rewrite(self) -> None:
        lines: list[bytes] = []
        for key, owed in self._open.items():
            lines.append(_line(owed))
            if owed.claimed:
                lines.append(_mark(b"C", key))
        data = b"".join(lines)
        write_atomically(self._path, data, _FILE_MODE)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size_bytes = len(data)
        self._size_bytes_max = max(OWED_JOURNAL_BYTES_MAX, 4 * len(data))

    def _load(self) -> None:
        if not self._path.exists():
            return
        for line in self._path.read_bytes().split(b"\n"):
            if not line:
                continue
            try:
                self._replay(line)
            except (P2PError, ValueError, KeyError):
                log.warning("a line of %s cannot be read and is left out", self._path)

    def _replay(self, line: bytes) -> None:
        mark, first, second = line.split(b" ")
        if mark == b"O":
            claim = decode_message(base64.b64decode(second, validate=True), Claim)
            count = decode_message(claim.delivery.body, DeliveryCount)
            owed = Owed(claim, count, int(first))
            self._open[owed.key] = owed
            return
        key = bytes.fromhex(first.decode("ascii")), int(second)
        if mark == b"C":
            self._open[key] = replace(self._open[key], claimed=True)
        elif mark == b"D":
            self._open.pop(key, None)


def _line(owed: Owed) -> bytes:
    claim = base64.b64encode(encode_message(owed.claim))
    return b"O %d %s\n" % (owed.expires_ms, claim)


def _mark(mark: bytes, key: Key) -> bytes:
    return b"%s %s %d\n" % (mark, key[0].hex().encode(), key[1])
