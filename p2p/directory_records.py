"""Owns which records the DHT takes: nodes' adverts and subclouds' policies, told by their keys."""

from __future__ import annotations

from p2p.adverts import check_record
from p2p.clock import Clock
from p2p.codec import decode_message
from p2p.network import RecordCheck
from p2p.signing import Signed
from p2p.subclouds.policy_gossip import check_policy_record
from p2p.types import NetworkId

_POLICY = b"subcloud/"


def directory_records(network: NetworkId, clock_ms: Clock) -> RecordCheck:
    """Make the check of a peer's DHT records."""

    def check(key: bytes, value: bytes) -> int:
        if key.startswith(_POLICY):
            return check_policy_record(network, key, value)
        return check_record(network, clock_ms(), key, decode_message(value, Signed))

    return check
