"""Owns the settlement journal: what was delivered and is not settled yet, so that a restart can
settle it.

Theory of operation. One file, appended to: `H <hold ID>` before a hold is asked for, `O
<capture>` when a capture is (or would now be) owed, `D <hold ID>` when its hold was settled; the
newest line of a hold counts. A hold with nothing owed is released at the next start: without
that, a gateway that is killed would leave its consumers' credit locked until the holds expire.
Leases have the lines `L <lease ID><expiry>` and `R <lease ID>`; holds inside them have no H line,
because their lease goes back as a whole.
The lines of one turn of the event loop are written together, without fsync: they survive the end
of the process, and a machine that loses power only loses the pay of jobs whose holds then expire.
A torn last line is ignored. The file is rewritten with what is still open at the start and when
it has grown."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from gateway.limits import JOURNAL_BYTES_MAX
from p2p.codec import decode_any_message, decode_message, encode_message
from p2p.errors import MalformedError, P2PError
from p2p.files import write_atomically
from p2p.lease_messages import LeasedCapture, LeasedHold
from p2p.ledger_messages import CaptureRequest
from p2p.signing import Signed

log = logging.getLogger(__name__)
_FILE_MODE = 0o600
_LINES_WAITING_MAX = 256
_REWRITE_PAUSE_BYTES = 1 << 20
"""A file that could not be rewritten is tried again when it has grown by this."""
_ID_BYTES = 16


def hold_of(capture: Signed) -> tuple[bytes, bytes | None]:
    """Give the hold that a capture of either kind is about, and its lease if it has one.

    Raises: MalformedError.
    """
    document = decode_any_message(capture.body)
    if isinstance(document, CaptureRequest):
        return document.hold_id, None
    if not isinstance(document, LeasedCapture):
        raise MalformedError("not a capture")
    hold = decode_message(document.hold.body, LeasedHold)
    return hold.hold_id, hold.lease_id


class SettlementJournal:
    """Keeps the captures that are owed, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left open. Raises: OSError."""
        self._path = path
        self._open: dict[bytes, Signed | None] = {}
        self._leases: dict[bytes, int] = {}
        self._size_bytes = 0
        self._rewrite_at_bytes = JOURNAL_BYTES_MAX
        self._lines: list[bytes] = []
        self.on_line: Callable[[], None] = lambda: None
        """Called when a line waits for `flush`."""
        self._load()
        self._descriptor = -1
        self._rewrite()

    def owed(self) -> dict[bytes, Signed | None]:
        """The captures that are not settled yet, by hold ID; None: a hold to be released."""
        return dict(self._open)

    def leases(self) -> dict[bytes, int]:
        """The leases that have not gone back yet, with their ends (milliseconds since 1970)."""
        return dict(self._leases)

    def leased(self, lease_id: bytes, expires_ms: int) -> None:
        """Note a lease that is about to be asked for."""
        self._leases[lease_id] = expires_ms
        self._append(_lease_line(lease_id, expires_ms))

    def lease_ended(self, lease_id: bytes) -> None:
        """The lease has gone back, or never came to be."""
        if self._leases.pop(lease_id, None) is not None:
            self._append(b"R " + lease_id.hex().encode() + b"\n")

    def held(self, hold_id: bytes) -> None:
        """Note a hold that is about to be asked for; nothing is owed of it yet."""
        self._open[hold_id] = None
        self._append(_line(hold_id, None))

    def owe(self, hold_id: bytes, capture: Signed) -> None:
        """Note a capture; it replaces an earlier one of the same hold."""
        self._open[hold_id] = capture
        self._append(_line(hold_id, capture))

    def settled(self, hold_id: bytes) -> None:
        """The hold has ended in the ledger."""
        if hold_id in self._open:
            del self._open[hold_id]
            self._append(b"D " + hold_id.hex().encode() + b"\n")

    def flush(self) -> None:
        """Write the lines that have collected. A disk that is full is reported, not raised."""
        if not self._lines or self._descriptor < 0:
            return
        data = b"".join(self._lines)
        self._lines.clear()
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:  # settlement goes on from memory
            log.error("the settlement journal cannot be written: %s", error)
            return
        if written < len(data):  # a full disk: what is missing comes first once there is room
            log.error("the settlement journal is torn: %d bytes are missing", len(data) - written)
            # The torn line is repeated whole behind a line break, so that it spoils no other.
            kept = data.rfind(b"\n", 0, written) + 1
            self._lines.insert(0, b"\n" + data[kept:])
            self._size_bytes += written
            return
        self._size_bytes += len(data)
        if self._size_bytes <= self._rewrite_at_bytes:
            return
        try:
            self._rewrite()
        except OSError as error:  # the old file is still there and goes on growing
            log.error("the settlement journal cannot be rewritten: %s", error)
            if self._rewrite_at_bytes:
                self._rewrite_at_bytes = self._size_bytes + _REWRITE_PAUSE_BYTES

    def close(self) -> None:
        """Write what has collected and close the file."""
        self.flush()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        if len(self._lines) >= _LINES_WAITING_MAX:
            self.flush()
        else:
            self.on_line()

    def _rewrite(self) -> None:
        data = b"".join(_lease_line(*lease) for lease in self._leases.items())
        data += b"".join(_line(hold_id, capture) for hold_id, capture in self._open.items())
        write_atomically(self._path, data, _FILE_MODE)
        self._rewrite_at_bytes = 0  # if the new file cannot be opened, the next flush tries again
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._size_bytes = len(data)
        self._rewrite_at_bytes = max(JOURNAL_BYTES_MAX, 2 * len(data))

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
        if len(data) != _LENGTHS.get(mark, len(data)):
            raise ValueError("a torn line")
        if mark == b"D":
            self._open.pop(data, None)
        elif mark == b"H":
            self._open[data] = None
        elif mark == b"O":
            signed = decode_message(data, Signed)
            self._open[hold_of(signed)[0]] = signed
        elif mark == b"L":
            self._leases[data[:_ID_BYTES]] = int.from_bytes(data[_ID_BYTES:], "big")
        elif mark == b"R":
            self._leases.pop(data, None)


_LENGTHS = {b"D": _ID_BYTES, b"H": _ID_BYTES, b"R": _ID_BYTES, b"L": _ID_BYTES + 8}


def _lease_line(lease_id: bytes, expires_ms: int) -> bytes:
    return b"L " + (lease_id + expires_ms.to_bytes(8, "big")).hex().encode() + b"\n"


def _line(hold_id: bytes, capture: Signed | None) -> bytes:
    if capture is None:
        return b"H " + hold_id.hex().encode() + b"\n"
    return b"O " + encode_message(capture).hex().encode() + b"\n"
