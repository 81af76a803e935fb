"""Owns the reachability check: a bootstrap dials a member back and says whether it answered.

Only the IP address that the member's own connection comes from is dialled, at ports that the member
names, and the peer there must prove to be the member: nobody can have this bootstrap dial a third
party. Dials are bounded in number, in time and in rate.
"""

from __future__ import annotations

import ipaddress
import logging

import trio

from bootstrap.limits import (
    REACH_BURST_PER_PEER,
    REACH_CHECKS_AT_ONCE,
    REACH_PER_SECOND_PER_PEER,
    REACH_PORTS_MAX,
)
from p2p.call_service import PeerBuckets
from p2p.calls import Caller, CallHandler
from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError, RateLimitedError, RefusedError
from p2p.limits import REACH_TIMEOUT_S
from p2p.network import Network
from p2p.reaching.relay_messages import REACH_CHECK, ReachAnswer, ReachQuestion

log = logging.getLogger(__name__)


class ReachService:
    """Answers `reach.check`."""

    def __init__(self, network: Network) -> None:
        """Dial back by `network`."""
        self._network = network
        self._buckets = PeerBuckets(REACH_PER_SECOND_PER_PEER, REACH_BURST_PER_PEER)
        self._under_way = 0

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return {REACH_CHECK: self.check}

    async def check(self, caller: Caller, body: bytes) -> bytes:
        """Dial the caller back. Raises: RateLimitedError, RefusedError, MalformedError."""
        question = decode_message(body, ReachQuestion)
        if not self._buckets.of(caller.peer_id, trio.current_time()).take(trio.current_time()):
            raise RateLimitedError("reachability is checked a few times a minute at most")
        if self._under_way >= REACH_CHECKS_AT_ONCE:
            raise RefusedError("busy", "too many reachability checks at once", 5)
        host = _host(caller.address)
        if not host:
            raise RefusedError("no_address", "your connection has no address of its own", 60)
        self._under_way += 1
        try:
            answer = await self._dial(caller, host, question.ports[:REACH_PORTS_MAX])
        finally:
            self._under_way -= 1
        return encode_message(answer)

    async def _dial(self, caller: Caller, host: str, ports: tuple[int, ...]) -> ReachAnswer:
        reason = "no answer"
        for port in ports:
            address = f"{host}/tcp/{port}/p2p/{caller.peer_id}"
            with trio.move_on_after(REACH_TIMEOUT_S) as scope:
                try:
                    await self._network.probe(address)
                    return ReachAnswer(address)
                except P2PError as error:
                    reason = str(error)
            if scope.cancelled_caught:
                reason = f"{host}/tcp/{port} did not answer in {REACH_TIMEOUT_S:g} s"
        log.debug("%s cannot be dialled: %s", caller.peer_id, reason)
        return ReachAnswer("", reason[:512])


def _host(address: str) -> str:
    """Give an IP address as the beginning of a multiaddress; empty if it is none."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    return f"/ip{ip.version}/{ip}"
