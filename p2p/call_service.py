"""Owns the serving of calls to inbound streams: who is calling, and how the link ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from p2p.calls import Caller, CallHandler, serve_calls
from p2p.errors import MalformedError, SessionLostError
from p2p.limits import CALLS_BURST_PER_PEER, CALLS_PER_SECOND_PER_PEER
from p2p.link import Link
from p2p.membership import Membership
from p2p.network import Network, Stream

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

    async def serve(stream: Stream) -> None:
        caller = Caller(stream.remote, membership.certificate_of(stream.remote))
        try:
            await serve_calls(Link(stream), caller, handlers, rate_per_s=rate_per_s, burst=burst)
        except (SessionLostError, MalformedError) as error:
            log.info("calls of %s ended: %s", stream.remote, error)

    network.handle(protocol, serve, newcomers=newcomers)
