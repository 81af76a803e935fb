"""Owns the wire side of gossip: length-prefixed RPCs, what waits for a peer, signed messages."""

from __future__ import annotations

from collections import deque
from typing import Any

import nacl.exceptions
import nacl.signing
import trio
from libp2p.pubsub.pb import rpc_pb2

from p2p.errors import MalformedError
from p2p.libp2p_adapter.connections import Link
from p2p.libp2p_adapter.limits import (
    GOSSIP_QUEUE_BYTES_MAX,
    GOSSIP_QUEUE_RPCS_MAX,
    GOSSIP_WRITE_BYTES,
    RPC_BYTES_MAX,
)

SIGNING_PREFIX = b"libp2p-pubsub:"
_ED25519_ID_PREFIX = b"\x00\x24\x08\x01\x12\x20"


def prefixed_rpc(data: bytes) -> bytes:
    """Put a varint length in front."""
    length, prefix = len(data), bytearray()
    while length > 127:
        prefix.append(length & 127 | 128)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + data


class Outbound:
    """Our gossip stream to one peer, and what waits for it."""

    def __init__(self, link: Link, net_stream: Any) -> None:
        self.link = link
        self.net_stream = net_stream
        self.queue: deque[bytes] = deque()
        self.queue_bytes = 0
        self.ready = trio.Event()
        self.closed = False

    def put(self, data: bytes) -> bool:
        """Queue an RPC; False if there is no room."""
        if len(self.queue) >= GOSSIP_QUEUE_RPCS_MAX:
            return False
        if self.queue_bytes + len(data) > GOSSIP_QUEUE_BYTES_MAX:
            return False
        whole = prefixed_rpc(data)
        self.queue.append(whole)
        self.queue_bytes += len(whole)
        self.ready.set()
        return True

    def take(self) -> bytes:
        """Give what waits, up to one write."""
        parts: list[bytes] = []
        size = 0
        while self.queue and (not parts or size + len(self.queue[0]) <= GOSSIP_WRITE_BYTES):
            part = self.queue.popleft()
            size += len(part)
            parts.append(part)
        self.queue_bytes -= size
        if not self.queue:
            self.ready = trio.Event()
        return b"".join(parts)

    def close(self) -> None:
        """Let the sending task end."""
        self.closed = True
        self.ready.set()


def complete_size(buffer: bytearray) -> tuple[int, int] | None:
    """Give start and end of a complete RPC, or None. Raises: MalformedError if it is too large."""
    length = shift = 0
    for position, byte in enumerate(buffer[:4]):
        length |= (byte & 127) << shift
        if byte < 128:
            if length > RPC_BYTES_MAX:
                raise MalformedError("a gossip RPC is too large")
            end = position + 1 + length
            return (position + 1, end) if len(buffer) >= end else None
        shift += 7
    if len(buffer) >= 4:
        raise MalformedError("a gossip RPC is too large")
    return None


def is_signed(message: Any) -> bool:
    """Tell whether a message is signed by the Ed25519 key that its author's peer ID carries."""
    author = message.from_id
    if len(author) != len(_ED25519_ID_PREFIX) + 32 or not author.startswith(_ED25519_ID_PREFIX):
        return False
    body = rpc_pb2.Message(
        data=message.data, topicIDs=message.topicIDs, from_id=author, seqno=message.seqno
    )
    try:
        nacl.signing.VerifyKey(author[len(_ED25519_ID_PREFIX) :]).verify(
            SIGNING_PREFIX + body.SerializeToString(), message.signature
        )
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True
