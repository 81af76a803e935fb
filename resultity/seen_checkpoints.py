"""Owns the last checkpoint of a log that this computer saw, and comparing others with it.

Theory of operation. One checkpoint that was kept makes a log that changes its past visible. It is
kept in `checkpoints/<network>.checkpoint` of the data folder (base64 of an encoded Checkpoint).
Another one must have the same root if it has the same size, or come with the proof that the larger
tree starts with the smaller one. If it contradicts the kept one, both are written down together:
that is evidence for everybody.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ledger.log.errors import ProofError
from ledger.log.merkle import verify_consistency
from ledger.log.notes import TreeHead
from ledger.log.proofs import verify_checkpoint
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError
from p2p.files import write_atomically
from p2p.log_messages import Checkpoint
from p2p.mirror_messages import Growth
from p2p.types import NetworkId
from resultity.errors import ReceiptError

FILE_BYTES_MAX = 64 * 1024
AskGrowth = Callable[[int, int], Growth | None]
"""(old size, new size) -> the proof, or None if nobody can be asked."""


class SeenCheckpoint:
    """The file with the last checkpoint that was seen of one network's log."""

    def __init__(self, folder: Path, network: NetworkId) -> None:
        """Keep it in `folder`/checkpoints."""
        self._network = network
        self._path = folder / "checkpoints" / f"{network}.checkpoint"

    def load(self, log_keys: Collection[bytes]) -> tuple[TreeHead, Checkpoint] | None:
        """Give what was seen last; None if nothing was, or it does not count any more."""
        try:
            text = self._path.read_bytes()[:FILE_BYTES_MAX].strip()
            checkpoint = decode_message(base64.b64decode(text, validate=True), Checkpoint)
            return verify_checkpoint(checkpoint, self._network, log_keys).head, checkpoint
        except (OSError, binascii.Error, P2PError, ProofError):
            return None

    def remember(self, checkpoint: Checkpoint) -> None:
        """Keep this one from now on."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, base64.b64encode(encode_message(checkpoint)) + b"\n")

    def compare(
        self,
        checkpoint: Checkpoint,
        head: TreeHead,
        log_keys: Collection[bytes],
        growths: Sequence[Growth],
        ask: AskGrowth,
    ) -> int | None:
        """Compare a verified checkpoint with the one that was seen last, and keep the larger.

        Returns: the size of the one that it was compared with; None if there is none, or nobody
            gives the proof.
        Raises: ReceiptError if the two contradict each other.
        """
        seen = self.load(log_keys)
        if seen is None:
            self.remember(checkpoint)
            return None
        old, new = sorted((seen[0], head), key=lambda one: one.size)
        sizes = (old.size, new.size)
        growth = next((g for g in growths if (g.old_size, g.new_size) == sizes), None)
        if growth is None and old.size != new.size:
            growth = ask(*sizes)
            if growth is None:
                return None
        proof = growth.proof if growth is not None else ()
        try:
            verify_consistency(old.size, new.size, old.root, new.root, proof)
        except ProofError as error:
            raise ReceiptError(
                f"the log of {head.size} leaves contradicts the log of {seen[0].size} leaves that "
                f"this computer has seen: {error}; both are kept in {self._keep(checkpoint)}"
            ) from error
        if head.size > seen[0].size or len(checkpoint.note) > len(seen[1].note):
            self.remember(checkpoint)
        return seen[0].size

    def _keep(self, checkpoint: Checkpoint) -> Path:
        """Write the contradicting checkpoint beside the one that was seen."""
        path = self._path.with_suffix(".contradiction")
        first = self._path.read_bytes().strip()
        second = base64.b64encode(encode_message(checkpoint))
        write_atomically(path, first + b"\n" + second + b"\n")
        return path
