"""Owns the forms of answers of the subclouds' directory, and how its ledger's errors are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import trio

from bootstrap.limits import (
    POLICIES_BURST_PER_SUBCLOUD,
    POLICIES_PER_SECOND_PER_SUBCLOUD,
    REVOCATION_LISTS_BURST_PER_SUBCLOUD,
    REVOCATION_LISTS_PER_SECOND_PER_SUBCLOUD,
    SUBCLOUD_WRITES_BURST_PER_PEER,
    SUBCLOUD_WRITES_PER_SECOND_PER_PEER,
)
from ledger.errors import LedgerError
from p2p.call_service import PeerBuckets
from p2p.calls import Caller, CallHandler
from p2p.codec import Message, decode_any_message, encode_message, encode_messages
from p2p.errors import RefusedError
from p2p.limits import MESSAGES_PER_FRAME_MAX, SUBCLOUD_REPLY_BYTES_MAX
from p2p.subclouds.identity import SubcloudId
from p2p.types import PeerId


def told(handlers: Mapping[str, CallHandler]) -> dict[str, CallHandler]:
    """Tell what the ledger refuses as a RefusedError with the ledger's code."""

    def tell(handler: CallHandler) -> CallHandler:
        async def answer(caller: Caller, body: bytes) -> bytes:
            try:
                return await handler(caller, body)
            except LedgerError as error:
                raise RefusedError(error.code, str(error), error.retry_after_s) from error

        return answer

    return {method: tell(handler) for method, handler in handlers.items()}


def as_many_as_fit(items: Iterable[Message]) -> bytes:
    """Encode messages until the answer is full; nothing if there are none."""
    size = 0
    taken: list[Message] = []
    for item in items:
        size += len(encode_message(item))
        if taken and (size > SUBCLOUD_REPLY_BYTES_MAX or len(taken) >= MESSAGES_PER_FRAME_MAX):
            break
        taken.append(item)
    return encode_messages(taken) if taken else b""


def stored(encoded: Iterable[bytes]) -> Iterable[Message]:
    """Decode what the database gave."""
    return (decode_any_message(item) for item in encoded)


class WriteLimits:
    """How often one peer may change the directory, and one subcloud be changed."""

    def __init__(self) -> None:
        """Begin with full buckets."""
        self._peers = PeerBuckets(
            SUBCLOUD_WRITES_PER_SECOND_PER_PEER, SUBCLOUD_WRITES_BURST_PER_PEER
        )
        self._policies = PeerBuckets(POLICIES_PER_SECOND_PER_SUBCLOUD, POLICIES_BURST_PER_SUBCLOUD)
        self._lists = PeerBuckets(
            REVOCATION_LISTS_PER_SECOND_PER_SUBCLOUD, REVOCATION_LISTS_BURST_PER_SUBCLOUD
        )

    def take(self, peer_id: PeerId, kind: str = "") -> None:
        """Count a peer's change. Raises: RefusedError `subcloud_rate`.

        `kind`: what has a share of its own, so that it keeps nothing else out.
        """
        name = PeerId(f"{kind} {peer_id}")
        _take(self._peers, name, "this peer changes subclouds too often")

    def take_policy(self, identity: SubcloudId) -> None:
        """Count a policy of a subcloud. Raises: RefusedError `subcloud_rate`."""
        _take(self._policies, PeerId(identity), "this subcloud's policy is changed too often")

    def take_list(self, identity: SubcloudId) -> None:
        """Count a revocation list of a subcloud. Raises: RefusedError `subcloud_rate`."""
        _take(self._lists, PeerId(identity), "this subcloud's lists are changed too often")


def _take(buckets: PeerBuckets, name: PeerId, text: str) -> None:
    now_s = trio.current_time()
    bucket = buckets.of(name, now_s)
    if not bucket.take(now_s):
        raise RefusedError("subcloud_rate", text, bucket.wait_s())
