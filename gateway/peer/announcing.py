"""Owns what the gateway tells nodes that can only dial: its signed statement, and whether it makes
one.

Theory of operation. A gateway that can be dialled tells its bootstrap and the topic of gateways
where (see `p2p.reaching.gateway_statements`), again at a slow heartbeat and whenever it has a new
link to a bootstrap. Whether it can be dialled it asks the bootstrap (`reach.check`), unless its
operator has said so. A gateway that cannot says nothing: hidden nodes are then reached through the
relay."""

from __future__ import annotations

import logging

import trio

from gateway.limits import REACH_CHECK_INTERVAL_S
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.codec import encode_message
from p2p.errors import P2PError
from p2p.limits import (
    ADDRESSES_MAX,
    GATEWAY_STATEMENT_INTERVAL_S,
    GATEWAY_STATEMENT_LIFETIME_S,
)
from p2p.network import Network
from p2p.reaching.gateway_statements import GATEWAYS_ANNOUNCE, GATEWAYS_TOPIC, GatewayStatement
from p2p.reaching.reach_client import ask_reach, dialable
from p2p.signing import KeyPair, Signed
from p2p.software import SOFTWARE
from p2p.types import PeerId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)


class Announcer:
    """Says where this gateway can be dialled, for as long as it can be."""

    def __init__(
        self,
        network: Network,
        uplink: Uplink,
        key_pair: KeyPair,
        chain: Chain,
        *,
        reachable: str,
        clock_ms: Clock,
    ) -> None:
        """`reachable`: `auto` asks the bootstrap, `yes` believes the addresses, `no` is silent."""
        self._network = network
        self._uplink = uplink
        self._key_pair = key_pair
        self.chain = chain
        """Our certificate; set anew when it was renewed."""
        self._reachable = reachable
        self._clock_ms = clock_ms
        self._sequence = 0
        self._asked: PeerId | None = None
        self._asked_at_s = 0.0
        self._said: bool | None = None
        self.addresses: tuple[str, ...] = ()
        """Where nodes are told to dial; empty while that is nowhere."""

    def statement(self) -> Signed:
        """Sign what is true at this moment."""
        now_ms = self._clock_ms()
        # Time-based and monotone: a restarted gateway goes on above its old sequence numbers.
        self._sequence = max(self._sequence + 1, now_ms)
        document = GatewayStatement(
            peer_id=self._key_pair.peer_id,
            sequence=self._sequence,
            issued_ms=now_ms,
            expires_ms=now_ms + int(GATEWAY_STATEMENT_LIFETIME_S * 1000),
            chain=self.chain,
            addresses=self.addresses,
            software=SOFTWARE,
        )
        return self._key_pair.sign(self._network.network_id, document)

    async def run(self) -> None:
        """Make statements until cancelled."""
        if self._reachable == "no":
            return
        while True:
            await self._uplink.wait_up()
            try:
                await self._look()
                if self.addresses:
                    await self._tell()
            except P2PError as error:
                log.info("nodes that can only dial were not told of this gateway: %s", error)
            with trio.move_on_after(GATEWAY_STATEMENT_INTERVAL_S):
                await self._uplink.wait_changed()

    async def _look(self) -> None:
        """Find out where we can be dialled. Raises: P2PError if the bootstrap cannot say."""
        listening = self._network.addresses()[:ADDRESSES_MAX]
        if self._reachable == "yes":
            self.addresses = listening
            return
        now_s = trio.current_time()
        asked = self._asked is not None and self._asked == self._uplink.bootstrap
        if asked and now_s - self._asked_at_s < REACH_CHECK_INTERVAL_S:
            return
        answer = await ask_reach(self._uplink.call, listening)
        self._asked, self._asked_at_s = self._uplink.bootstrap, now_s
        self.addresses = dialable(answer.address, listening) if answer.address else ()
        if self._said is not bool(self.addresses):
            self._said = bool(self.addresses)
            if self.addresses:
                log.info("nodes can dial this gateway at %s", answer.address)
            else:
                log.info("nodes cannot dial this gateway: %s", answer.reason)

    async def _tell(self) -> None:
        data = encode_message(self.statement())
        await self._uplink.call(GATEWAYS_ANNOUNCE, data)
        await self._network.publish(GATEWAYS_TOPIC, data)
