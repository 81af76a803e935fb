"""Owns what a bootstrap knows of gateways: who can be dialled, for nodes that can only dial."""

from __future__ import annotations

import logging

import trio

from bootstrap.limits import ADVERTS_PRUNE_INTERVAL_S, GATEWAYS_REPLY_BYTES_MAX
from p2p.calls import Caller, CallHandler
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message, encode_messages
from p2p.errors import P2PError, RefusedError, StaleError
from p2p.network import Network
from p2p.reaching.gateway_statements import (
    GATEWAYS_ANNOUNCE,
    GATEWAYS_LIST,
    GATEWAYS_TOPIC,
    GatewayBook,
    verify_gateway,
)
from p2p.signing import Signed
from p2p.types import NetworkId

log = logging.getLogger(__name__)


class GatewayDirectory:
    """The gateways' statements that are alive: by call from our own, by gossip from all."""

    def __init__(self, network_id: NetworkId, *, clock_ms: Clock) -> None:
        """Start empty: gateways speak when they connect."""
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._book = GatewayBook()

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return {GATEWAYS_LIST: self.list, GATEWAYS_ANNOUNCE: self.announce}

    async def list(self, caller: Caller, body: bytes) -> bytes:
        """Give the live statements as their gateways signed them (as many as fit a reply)."""
        size = 0
        signed: list[Signed] = []
        for known in self._book.reachable(self._clock_ms()):
            size += len(encode_message(known.signed))
            if size > GATEWAYS_REPLY_BYTES_MAX:
                break
            signed.append(known.signed)
        return encode_messages(signed) if signed else b""

    async def announce(self, caller: Caller, body: bytes) -> bytes:
        """Take a gateway's statement about itself. Raises: UntrustedError, MalformedError."""
        signed = decode_message(body, Signed)
        if signed.peer_id != caller.peer_id:
            raise RefusedError("not_allowed", "a gateway speaks for itself")
        try:
            self._add(signed)
        except StaleError as error:
            raise RefusedError("stale", str(error)) from error
        return b""

    def _add(self, signed: Signed) -> None:
        now_ms = self._clock_ms()
        self._book.add(verify_gateway(signed, self._network_id, now_ms), now_ms)

    async def run(self, network: Network) -> None:
        """Listen until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, network)
            while True:
                await trio.sleep(ADVERTS_PRUNE_INTERVAL_S)
                self._book.prune(self._clock_ms())

    async def _listen(self, network: Network) -> None:
        async for item in network.subscribe(GATEWAYS_TOPIC):
            try:
                self._add(decode_message(item.data, Signed))
            except P2PError as error:
                log.debug("statement of gateway %s dropped: %s", item.author, error)
