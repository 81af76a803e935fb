"""Owns what is kept of policies and revocation lists that were refused: who signed what, and when.

A fork proves by itself that somebody signed two documents with one number: both are kept. Of older
versions and foreign signatures the refused document is kept, with the peer that handed it on. All
of it is bounded: forks and the rest apart, so that junk pushes no proof out.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, decode_message, encode_message, message
from p2p.errors import P2PError
from p2p.files import write_atomically
from p2p.limits import (
    NAME_CHARACTERS_MAX,
    POLICY_EVIDENCE_MAX,
    POLICY_EVIDENCE_PER_SUBCLOUD_MAX,
    POLICY_EVIDENCE_PUSHED_OUT_AFTER_MS,
    POLICY_EVIDENCE_REPLACED_AFTER_MS,
)
from p2p.signing import Signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.policy import HANDOVERS_MAX
from p2p.subclouds.records import AccountProof, PolicyRecord

log = logging.getLogger(__name__)
FORK = "fork"
REVOCATION_FORK = "revocation_fork"
OLDER = "older"
FOREIGN = "foreign"
FORKS = (FORK, REVOCATION_FORK)


@message(107)
@dataclass(frozen=True, slots=True)
class PolicyEvidence(Message):
    """A refused document. `kind`: `fork`, `revocation_fork`, `older`, `foreign`.

    `known`: what was in force then, signed. `source`: the peer it came from, where that is known.
    `handovers` and `accounts`: the rest of a refused `PolicyRecord`, so that anybody can check it.
    """

    TRIMMED: ClassVar[int] = 2
    kind: Annotated[str, Limit(16)]
    subcloud_id: Annotated[SubcloudId, Limit(NAME_CHARACTERS_MAX)]
    seen_ms: int
    offered: Signed
    known: Signed | None = None
    source: Annotated[str, Limit(NAME_CHARACTERS_MAX)] = ""
    handovers: Annotated[tuple[Signed, ...], Limit(HANDOVERS_MAX)] = ()
    accounts: Annotated[tuple[AccountProof, ...], Limit(HANDOVERS_MAX + 1)] = ()

    @property
    def record(self) -> PolicyRecord | None:
        """The refused policy's record; None for a revocation list."""
        if not self.accounts:
            return None
        return PolicyRecord(self.offered, self.handovers, self.accounts)

    @property
    def name(self) -> str:
        """Names this evidence: the same for the same offered document."""
        digest = hashlib.sha256(self.offered.signer + self.offered.body).hexdigest()
        return f"{self.kind}-{digest[:40]}"


class EvidenceShelf:
    """The evidence of one peer, in memory and (with a folder) on disk."""

    def __init__(self, folder: Path | None = None, entries_max: int = POLICY_EVIDENCE_MAX) -> None:
        """Start with what the folder holds; a damaged file is left out."""
        self._folder = folder
        self._entries_max = entries_max
        self._kept: dict[str, PolicyEvidence] = {}
        for path in sorted(folder.glob("*.msgpack")) if folder is not None else ():
            try:
                item = decode_message(path.read_bytes(), PolicyEvidence)
            except (P2PError, OSError) as error:
                log.warning("evidence %s cannot be read: %s", path, error)
                continue
            self._kept[item.name] = item

    def all(self) -> tuple[PolicyEvidence, ...]:
        """Everything that is kept, oldest first."""
        return tuple(sorted(self._kept.values(), key=lambda item: item.seen_ms))

    def keep(self, item: PolicyEvidence) -> bool:
        """Keep evidence; the oldest of its sort makes room, but not all the time.
        Returns: whether it is new and was kept."""
        if item.name in self._kept:
            return False
        same = [
            known
            for known in self._kept.values()
            if known.subcloud_id == item.subcloud_id and known.kind == item.kind
        ]
        proof = item.kind in FORKS
        alike = [known for known in self._kept.values() if (known.kind in FORKS) == proof]
        full, after_ms = same, POLICY_EVIDENCE_REPLACED_AFTER_MS
        if len(same) < POLICY_EVIDENCE_PER_SUBCLOUD_MAX:
            full, after_ms = alike, POLICY_EVIDENCE_PUSHED_OUT_AFTER_MS
        if full is same or len(alike) >= self._entries_max:
            newest_ms = max(known.seen_ms for known in full)
            if 0 <= item.seen_ms - newest_ms < after_ms:  # the clock may be set back
                return False
            self._drop(min(full, key=lambda known: known.seen_ms))
        self._kept[item.name] = item
        if self._folder is not None:
            path = self._folder / f"{item.name}.msgpack"
            write_atomically(path, encode_message(item), durable=proof)
        return True

    def _drop(self, item: PolicyEvidence) -> None:
        del self._kept[item.name]
        if self._folder is not None:
            (self._folder / f"{item.name}.msgpack").unlink(missing_ok=True)
