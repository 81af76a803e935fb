"""Owns a subscription's queue: bounded, and the oldest unread message goes first. No I/O."""

from __future__ import annotations

import trio

from p2p.limits import SUBSCRIPTION_QUEUE_MESSAGES_MAX
from p2p.network import GossipMessage


class Subscription:
    """Where a topic's messages are put, and the channel that its reader has."""

    def __init__(self, size_messages_max: int = SUBSCRIPTION_QUEUE_MESSAGES_MAX) -> None:
        self._send, self.channel = trio.open_memory_channel[GossipMessage](size_messages_max)
        self._dropping = self.channel.clone()
        self.dropped_count = 0

    def put(self, message: GossipMessage) -> None:
        """Add a message; if the reader lags, the oldest one is dropped."""
        while True:
            try:
                self._send.send_nowait(message)
                return
            except trio.BrokenResourceError:
                return
            except trio.WouldBlock:
                try:
                    self._dropping.receive_nowait()
                    self.dropped_count += 1
                except trio.WouldBlock:
                    return

    def close(self) -> None:
        """End the reader's channel after what is in it."""
        self._send.close()
        self._dropping.close()
