"""Owns the serving of calls to inbound streams: who is calling, and how the link ends."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping

import trio

from p2p.calls import Caller, CallHandler, serve_calls
from p2p.errors import P2PError
from p2p.limits import (
    CALLS_BURST_PER_PEER,
    CALLS_PER_SECOND_PER_PEER,
    REPLAY_WINDOW_ENTRIES_MAX,
)
from p2p.link import Link
from p2p.membership import Membership
from p2p.network import Network, Stream, remote_address_of
from p2p.token_bucket import TokenBucket
from p2p.types import PeerId

log = logging.getLogger(__name__)


def handle_calls(
    network: Network,
    protocol: str,
    membership: Membership,
    handlers: Mapping[str, CallHandler],
    *,
    newcomers: bool = False,
    rate_per_s: float = CALLS_PER_SECOND_PER_PEER,
    burst: float = CALLS_BURST_PER_PEER,
) -> None:
    """Serve these calls on a protocol, to members or (`newcomers`) to everybody of the network."""

    buckets = PeerBuckets(rate_per_s, burst)

    async def serve(stream: Stream) -> None:
        peer_id = stream.remote
        certificate = membership.certificate_of(peer_id)
        caller = Caller(peer_id, certificate, remote_address_of(stream))
        bucket = buckets.of(peer_id, trio.current_time())
        try:
            await serve_calls(Link(stream), caller, handlers, bucket=bucket)
        except P2PError as error:
            log.info("calls of %s ended: %s", peer_id, error)

    network.handle(protocol, serve, newcomers=newcomers)


class PeerBuckets:
    """One token bucket for each peer, whatever number of streams and connections it opens."""

    def __init__(
        self, rate_per_s: float, burst: float, peers_max: int = REPLAY_WINDOW_ENTRIES_MAX
    ) -> None:
        """Keep at most `peers_max` buckets; who has not come for the longest starts full again."""
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._peers_max = peers_max
        self._buckets: OrderedDict[PeerId, TokenBucket] = OrderedDict()

    def of(self, peer_id: PeerId, now_s: float) -> TokenBucket:
        """Give a peer's bucket."""
        bucket = self._buckets.get(peer_id)
        if bucket is None:
            bucket = self._buckets[peer_id] = TokenBucket(self._rate_per_s, self._burst, now_s)
            if len(self._buckets) > self._peers_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(peer_id)
        return bucket
