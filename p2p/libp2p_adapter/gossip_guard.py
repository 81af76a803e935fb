"""Owns the bounds on what one peer can make us do by gossip. Pure: time is an argument.

Theory of operation. py-libp2p bounds the size of an RPC and nothing else: 14 MB of PRUNEs for
invented topics grow its back-off table by 700,000 entries (288 MB) that it never frees, and every
message is a task of its own. So each RPC passes here before anything of py-libp2p sees it:
entries beyond a count are cut off, topics that are not ours are removed, back-offs are clamped,
and two token buckets for each peer decide what is dropped unread. Every RPC over a limit is a
strike; a peer that has used up its strikes is disconnected. Honest peers stay an order of
magnitude below every bound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from p2p.libp2p_adapter.limits import (
    BACK_OFF_S_MAX,
    CONTROLS_BURST_PER_PEER,
    CONTROLS_PER_SECOND_PER_PEER,
    MESSAGE_ID_BYTES_MAX,
    MESSAGES_BURST_PER_PEER,
    MESSAGES_PER_SECOND_PER_PEER,
    RPC_CONTROLS_MAX,
    RPC_MESSAGE_IDS_MAX,
    RPC_MESSAGES_MAX,
    RPC_SUBSCRIPTIONS_MAX,
    SEEN_MESSAGES_MAX,
    SEEN_S,
    STRIKES_MAX,
    STRIKES_PER_SECOND,
)


class Bucket:
    """A token bucket."""

    __slots__ = ("_at_s", "_burst", "_per_second", "_tokens")

    def __init__(self, per_second: float, burst: float, now_s: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._at_s = now_s

    def take(self, count: int, now_s: float) -> bool:
        """Take tokens if there are enough; nothing otherwise."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_second)
        self._at_s = now_s
        if self._tokens < count:
            return False
        self._tokens -= count
        return True


@dataclass(slots=True)
class Verdict:
    """What is left of an RPC: messages to look at, and whether the peer has to go."""

    messages: list[Any]
    subscriptions: list[Any]
    has_control: bool
    strike: bool
    disconnect: bool


class PeerGuard:
    """The bounds of one peer."""

    def __init__(self, now_s: float) -> None:
        self._messages = Bucket(MESSAGES_PER_SECOND_PER_PEER, MESSAGES_BURST_PER_PEER, now_s)
        self._controls = Bucket(CONTROLS_PER_SECOND_PER_PEER, CONTROLS_BURST_PER_PEER, now_s)
        self._strikes = Bucket(STRIKES_PER_SECOND, STRIKES_MAX, now_s)

    def strike(self, now_s: float) -> bool:
        """Count an offence; True if it was one too many."""
        return not self._strikes.take(1, now_s)

    def judge(self, rpc: Any, our_topics: Container[str], now_s: float) -> Verdict:
        """Cut an RPC down to what is within bounds (its control part is changed in place)."""
        strike = False
        messages = list(rpc.publish[:RPC_MESSAGES_MAX])
        if len(rpc.publish) > RPC_MESSAGES_MAX:
            strike = True
        if messages and not self._messages.take(len(messages), now_s):
            messages = []
            strike = True
        subscriptions = list(rpc.subscriptions[:RPC_SUBSCRIPTIONS_MAX])
        if len(rpc.subscriptions) > RPC_SUBSCRIPTIONS_MAX:
            strike = True
        if subscriptions and not self._controls.take(len(subscriptions), now_s):
            subscriptions = []
            strike = True
        has_control = rpc.HasField("control")
        if has_control:
            entries, cut = _trim_control(rpc.control, our_topics)
            strike = strike or cut
            if not self._controls.take(entries, now_s):
                has_control = False
                strike = True
        return Verdict(messages, subscriptions, has_control, strike, strike and self.strike(now_s))


def _trim_control(control: Any, our_topics: Container[str]) -> tuple[int, bool]:
    """Cut a control message down; give what it costs in tokens, and whether it was over a bound."""
    cut = False
    count = 1
    for name in ("graft", "prune", "ihave", "iwant"):
        entries = getattr(control, name)
        size = len(entries)
        if size > RPC_CONTROLS_MAX:
            cut = True
            del entries[RPC_CONTROLS_MAX:]
        count += len(entries)
        if name != "iwant" and any(each.topicID not in our_topics for each in entries):
            kept = [each for each in entries if each.topicID in our_topics]
            copies = [type(each)() for each in kept]
            for copy, each in zip(copies, kept, strict=True):
                copy.CopyFrom(each)
            del entries[:]
            entries.extend(copies)
    for prune in control.prune:
        prune.backoff = min(prune.backoff, BACK_OFF_S_MAX)
        del prune.peers[:]
    for kind in (control.ihave, control.iwant):
        room = RPC_MESSAGE_IDS_MAX
        for entry in kind:
            ids = entry.messageIDs
            if len(ids) > room or any(len(one) > MESSAGE_ID_BYTES_MAX for one in ids):
                cut = True
                kept_ids = [one for one in ids[:room] if len(one) <= MESSAGE_ID_BYTES_MAX]
                del ids[:]
                ids.extend(kept_ids)
            room -= len(ids)
    for name in ("idontwant", "observe", "unobserve"):
        if hasattr(control, name) and len(getattr(control, name)):
            control.ClearField(name)
    return count, cut


class SeenMessages:
    """The IDs of messages seen lately: bounded by time and number, the oldest go first."""

    def __init__(self) -> None:
        self._expiry_by_id: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expiry_by_id)

    def add(self, message_id: bytes, now_s: float) -> bool:
        """Remember a message; False if it was known."""
        known = self._expiry_by_id
        if message_id in known:
            return False
        known[message_id] = now_s + SEEN_S
        while known:
            oldest = next(iter(known))
            if len(known) <= SEEN_MESSAGES_MAX and known[oldest] > now_s:
                break
            del known[oldest]
        return True

    def has(self, message_id: bytes) -> bool:
        """Tell whether a message is known (the interface that py-libp2p's router asks)."""
        return message_id in self._expiry_by_id
