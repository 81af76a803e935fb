"""Owns how much of gossip about subclouds one peer looks at: bounded, whoever sends how much.

Theory of operation. Anybody can gossip, under any number of names, and to judge a policy takes a
millisecond. So what was refused is not judged again, each author has a share, all of them together
have a bound, and the log says of refusals what it must. What is left out is no loss: the bootstrap
is asked every few seconds.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict

from p2p.call_service import PeerBuckets
from p2p.errors import MalformedError, UntrustedError
from p2p.limits import (
    SUBCLOUD_GOSSIP_BURST,
    SUBCLOUD_GOSSIP_BURST_PER_AUTHOR,
    SUBCLOUD_GOSSIP_PER_SECOND,
    SUBCLOUD_GOSSIP_PER_SECOND_PER_AUTHOR,
    SUBCLOUD_GOSSIP_REFUSED_MAX,
)
from p2p.rare_log import RareLog
from p2p.token_bucket import TokenBucket
from p2p.types import PeerId


class GossipIntake:
    """Decides which messages are looked at."""

    def __init__(self, log: logging.Logger, now_s: float) -> None:
        """Begin with full shares. `log`: where refusals are told."""
        self._authors = PeerBuckets(
            SUBCLOUD_GOSSIP_PER_SECOND_PER_AUTHOR, SUBCLOUD_GOSSIP_BURST_PER_AUTHOR
        )
        self._all = TokenBucket(SUBCLOUD_GOSSIP_PER_SECOND, SUBCLOUD_GOSSIP_BURST, now_s)
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._log = RareLog(log)

    def admits(self, data: bytes, author: PeerId, now_s: float) -> bool:
        """Whether a message is looked at; it counts then."""
        if self._refused and hashlib.sha256(data).digest() in self._refused:
            return False
        return self._authors.of(author, now_s).take(now_s) and self._all.take(now_s)

    def refuse(self, data: bytes, author: PeerId, error: Exception, now_s: float) -> None:
        """A message was refused: if nobody should believe it, it is not looked at again."""
        if isinstance(error, UntrustedError | MalformedError):
            self._refused[hashlib.sha256(data).digest()] = None
            if len(self._refused) > SUBCLOUD_GOSSIP_REFUSED_MAX:
                self._refused.popitem(last=False)
        text = "gossip about subclouds from %s refused: %s"
        self._log.write(logging.INFO, now_s, text, author, error)

    def forget(self) -> None:
        """Something is known now that was not: what was refused may be good."""
        self._refused.clear()
