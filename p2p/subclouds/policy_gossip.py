"""Owns how policies and revocation lists travel by gossip and on the DHT: their forms and keys.

A topic shard carries a `PolicyRecord`, a revocation list as it was signed, or, where those are too
large for gossip, `SubcloudNews` of them. On the DHT a record stands under the key of its subcloud.
"""

from __future__ import annotations

import json
import logging

from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.limits import GOSSIP_MESSAGE_BYTES_MAX
from p2p.network import Network
from p2p.signing import Signed
from p2p.subclouds.directory_messages import SubcloudNews
from p2p.subclouds.identity import SubcloudId, parse_subcloud_id
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.records import (
    KnownPolicy,
    PolicyRecord,
    policy_key,
    subcloud_topic,
    verify_record,
)
from p2p.types import NetworkId

log = logging.getLogger(__name__)
DHT_RECORD_BYTES_MAX = 16 * 1024
"""What both adapters of the network take."""
SEQUENCE_BITS = 16


def record_sequence(known: KnownPolicy) -> int:
    """Order the records of one subcloud: by handovers, then version, then proof (53 bits)."""
    length = min(known.owner.length, 2**SEQUENCE_BITS - 1)
    version = int(known.policy.version) * 2**SEQUENCE_BITS
    sequence: int = len(known.record.handovers) * 2**48 + version + length
    return sequence


def check_policy_record(network: NetworkId, key: bytes, value: bytes) -> int:
    """Validate a DHT record that claims to be a subcloud's policy; gives its sequence number.

    Raises: as `verify_record`; UntrustedError if it is stored under another subcloud's key.
    """
    known = verify_record(decode_message(value, PolicyRecord), network)
    if key != policy_key(known.identity):
        raise UntrustedError("a policy under another subcloud's key")
    return record_sequence(known)


async def gossip_policy(network: Network, known: KnownPolicy) -> None:
    """Tell all peers of a policy (news only, if it is too large). Raises: P2PError."""
    data = encode_message(known.record)
    if len(data) > GOSSIP_MESSAGE_BYTES_MAX:
        data = encode_message(SubcloudNews(known.identity, known.policy.version, 0))
    await network.publish(subcloud_topic(known.identity), data)


async def gossip_revocations(network: Network, signed: Signed) -> None:
    """Tell all peers of a revocation list (news only, if it is too large). Raises: P2PError."""
    listed = decode_message(signed.body, RevocationList)
    data = encode_message(signed)
    if len(data) > GOSSIP_MESSAGE_BYTES_MAX:
        data = encode_message(SubcloudNews(listed.subcloud_id, 0, listed.number))
    await network.publish(subcloud_topic(listed.subcloud_id), data)


async def put_policy(network: Network, known: KnownPolicy) -> bool:
    """Store a policy on the DHT. Returns: False if it is too large, or nobody took it."""
    value = encode_message(known.record)
    if len(value) > DHT_RECORD_BYTES_MAX:
        return False
    try:
        await network.put_record(policy_key(known.identity), value)
    except P2PError as error:
        log.info("policy of %s was not stored on the DHT: %s", known.identity, error)
        return False
    return True


async def look_up_policy(network: Network, identity: SubcloudId) -> PolicyRecord | None:
    """Look a policy up on the DHT; it verifies, and may be old."""
    value = await network.get_record(policy_key(identity))
    if value is None:
        return None
    try:
        return decode_message(value, PolicyRecord)
    except MalformedError:
        return None


def claimed_subcloud(record: PolicyRecord) -> SubcloudId:
    """Read which subcloud a record says that it is of, before anything is believed.

    Raises: MalformedError.
    """
    claimed = _claims(record).get("subcloud_id")
    if not isinstance(claimed, str):
        raise MalformedError("a policy that names no subcloud")
    return parse_subcloud_id(claimed)


def claimed_version(record: PolicyRecord) -> int:
    """Read which version a record says that it is, as `claimed_subcloud`."""
    claimed = _claims(record).get("version")
    if type(claimed) is not int:
        raise MalformedError("a policy that names no version")
    return claimed


def _claims(record: PolicyRecord) -> dict[str, object]:
    try:
        content = json.loads(record.policy.body)
    except (ValueError, RecursionError) as error:
        raise MalformedError("a policy that is not JSON") from error
    if not isinstance(content, dict):
        raise MalformedError("a policy that is no JSON object")
    return content
