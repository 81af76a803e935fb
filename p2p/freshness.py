"""Owns replay protection: what makes a signed document too old, too new, or seen before. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from p2p.errors import StaleError
from p2p.limits import CLOCK_SKEW_MS_MAX, REPLAY_WINDOW_ENTRIES_MAX


def check_times(issued_ms: int, expires_ms: int, now_ms: int) -> None:
    """Refuse a document from the future or past its end.

    Args: all in milliseconds since 1970 (UTC).
    Raises: StaleError.
    """
    if issued_ms > now_ms + CLOCK_SKEW_MS_MAX:
        raise StaleError("issued in the future: check the clocks")
    if expires_ms <= now_ms:
        raise StaleError("expired")
    if expires_ms <= issued_ms:
        raise StaleError("expires before it was issued")


class SequenceGuard:
    """Remembers the highest sequence number of each sender and lets only newer ones pass."""

    def __init__(self, senders_max: int = REPLAY_WINDOW_ENTRIES_MAX) -> None:
        """Keep at most `senders_max` senders (the longest silent one is forgotten first)."""
        self._senders_max = senders_max
        self._highest: OrderedDict[Hashable, int] = OrderedDict()

    def check(self, sender: Hashable, sequence: int) -> None:
        """Accept a newer sequence number and remember it.

        Raises: StaleError for one that is not higher than the last accepted.
        """
        if sequence <= self._highest.get(sender, -1):
            raise StaleError("an older or repeated sequence number")
        self._highest[sender] = sequence
        self._highest.move_to_end(sender)
        if len(self._highest) > self._senders_max:
            self._highest.popitem(last=False)


class NonceGuard:
    """Lets each nonce pass once within its document's lifetime (bounded memory, fails closed)."""

    def __init__(self, entries_max: int = REPLAY_WINDOW_ENTRIES_MAX) -> None:
        """Keep at most `entries_max` unexpired nonces; more than that are refused."""
        self._entries_max = entries_max
        self._expiry: OrderedDict[Hashable, int] = OrderedDict()

    def check(self, nonce: Hashable, expires_ms: int, now_ms: int) -> None:
        """Accept a nonce once.

        Raises: StaleError if it was seen before or if too many are remembered already.
        """
        while self._expiry and next(iter(self._expiry.values())) <= now_ms:
            self._expiry.popitem(last=False)
        if nonce in self._expiry:
            raise StaleError("a replay")
        if len(self._expiry) >= self._entries_max:
            raise StaleError("too many recent messages to tell a replay: try again later")
        self._expiry[nonce] = expires_ms
