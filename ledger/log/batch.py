"""Owns what one step of the sequencer adds to the log. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ledger.log.tiles import Place


class Leaf(NamedTuple):
    """A leaf: where it comes from (`ledger.log.sources`), which opening of it, and its data."""

    source: bytes
    part: int
    commitment: bytes


@dataclass(frozen=True, slots=True)
class LogBatch:
    """New leaves from position `base_size` on, and what they change.

    `sources` are taken out of the outbox. `tiles` are whole. `statement` and `chain` (encoded) say
    why the log key `public_key`, which signed `note`, counts.
    """

    base_size: int
    sources: tuple[bytes, ...]
    leaves: tuple[Leaf, ...]
    tiles: tuple[tuple[Place, bytes], ...]
    note: bytes
    public_key: bytes
    statement: bytes
    chain: bytes

    @property
    def size(self) -> int:
        """The log's size after this batch."""
        return self.base_size + len(self.leaves)
