"""Owns the settlement journal: what was delivered and is not settled yet, so that a restart can
settle it.

Theory of operation. One file, appended to: `O <capture>` when a capture is (or would now be)
owed, `D <hold ID>` when its hold was settled; the newest line of a hold counts. Lines are written
without fsync: they survive the end of the process, and a machine that loses power only loses the
pay of jobs whose holds then expire. A torn last line is ignored. The file is rewritten with what
is still open at the start and when it has grown."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gateway.limits import JOURNAL_BYTES_MAX
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError
from p2p.files import write_atomically
from p2p.ledger_messages import CaptureRequest
from p2p.signing import Signed

log = logging.getLogger(__name__)
_FILE_MODE = 0o600


class SettlementJournal:
    """Keeps the captures that are owed, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left open. Raises: OSError."""
        self._path = path
        self._open: dict[bytes, Signed] = {}
        self._size_bytes = 0
        self._load()
        self._descriptor = -1
        self._rewrite()

    def owed(self) -> dict[bytes, Signed]:
        """The captures that are not settled yet, by hold ID."""
        return dict(self._open)

    def owe(self, hold_id: bytes, capture: Signed) -> None:
        """Note a capture; it replaces an earlier one of the same hold."""
        self._open[hold_id] = capture
        self._append(b"O " + encode_message(capture).hex().encode() + b"\n")

    def settled(self, hold_id: bytes) -> None:
        """The hold has ended in the ledger."""
        if self._open.pop(hold_id, None) is not None:
            self._append(b"D " + hold_id.hex().encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, line: bytes) -> None:
        try:
            os.write(self._descriptor, line)
        except OSError as error:  # a full disk: settlement goes on from memory
            log.error("the settlement journal cannot be written: %s", error)
            return
        self._size_bytes += len(line)
        if self._size_bytes > JOURNAL_BYTES_MAX:
            self._rewrite()

    def _rewrite(self) -> None:
        lines = [b"O " + encode_message(c).hex().encode() + b"\n" for c in self._open.values()]
        data = b"".join(lines)
        write_atomically(self._path, data, _FILE_MODE)
        self.close()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size_bytes = len(data)

    def _load(self) -> None:
        if not self._path.exists():
            return
        for line in self._path.read_bytes().split(b"\n"):
            if not line:
                continue
            try:
                self._replay(line)
            except (P2PError, ValueError):
                log.warning("a line of %s cannot be read and is left out", self._path)

    def _replay(self, line: bytes) -> None:
        mark, _, text = line.partition(b" ")
        data = bytes.fromhex(text.decode("ascii"))
        if mark == b"D":
            self._open.pop(data, None)
        elif mark == b"O":
            signed = decode_message(data, Signed)
            self._open[decode_message(signed.body, CaptureRequest).hold_id] = signed
