"""Owns how many membership statements one peer's gossip makes us verify.

A node gossips its own statement only: what another peer says under its name is dropped unread, so
that who wants to keep us busy needs an admitted node for each share.
"""

from __future__ import annotations

from p2p.call_service import PeerBuckets
from p2p.limits import STATEMENTS_BURST_PER_NODE, STATEMENTS_PER_SECOND_PER_NODE
from p2p.signing import Signed
from p2p.types import PeerId


class StatementIntake:
    """Decides which gossiped statements are looked at."""

    def __init__(self) -> None:
        """Begin with full shares."""
        self._authors = PeerBuckets(STATEMENTS_PER_SECOND_PER_NODE, STATEMENTS_BURST_PER_NODE)

    def admits(self, signed: Signed, author: PeerId, now_s: float) -> bool:
        """Whether a statement is looked at; it counts then."""
        if signed.peer_id != author:
            return False
        return self._authors.of(author, now_s).take(now_s)
