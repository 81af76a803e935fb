"""Owns what a bootstrap knows of the nodes: it hears adverts, and tells those who come late."""

from __future__ import annotations

import logging

import trio

from bootstrap.limits import ADVERTS_PRUNE_INTERVAL_S, ADVERTS_REPLY_BYTES_MAX
from p2p.adverts import AdvertBook, all_advert_topics, verify_advert
from p2p.calls import Caller, CallHandler
from p2p.clock import Clock
from p2p.codec import decode_message, encode_message, encode_messages
from p2p.errors import P2PError
from p2p.limits import MESSAGES_PER_FRAME_MAX
from p2p.network import Network
from p2p.signing import Signed
from p2p.types import AccountId, NetworkId, PeerId

log = logging.getLogger(__name__)
LIST = "adverts.list"


class AdvertDirectory:
    """The adverts that are alive, from gossip."""

    def __init__(self, network_id: NetworkId, *, clock_ms: Clock) -> None:
        """Start empty: adverts come within a heartbeat."""
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._book = AdvertBook()

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return {LIST: self.list}

    async def list(self, caller: Caller, body: bytes) -> bytes:
        """Give the live adverts as their nodes signed them (as many as fit a frame)."""
        size = 0
        signed: list[Signed] = []
        for known in self._book.live(self._clock_ms()):
            size += len(encode_message(known.signed))
            if size > ADVERTS_REPLY_BYTES_MAX or len(signed) >= MESSAGES_PER_FRAME_MAX:
                break
            signed.append(known.signed)
        return encode_messages(signed) if signed else b""

    def live_nodes(self) -> tuple[tuple[PeerId, AccountId], ...]:
        """The nodes that serve now, with the accounts that their certificates name."""
        return tuple(
            (known.advert.peer_id, known.certificate.account_id)
            for known in self._book.live(self._clock_ms())
            if known.advert.models and not known.advert.draining
        )

    async def run(self, network: Network) -> None:
        """Listen on all topic shards until cancelled."""
        async with trio.open_nursery() as nursery:
            for topic in all_advert_topics():
                nursery.start_soon(self._listen, network, topic)
            while True:
                await trio.sleep(ADVERTS_PRUNE_INTERVAL_S)
                self._book.prune(self._clock_ms())

    async def _listen(self, network: Network, topic: str) -> None:
        async for item in network.subscribe(topic):
            try:
                now_ms = self._clock_ms()
                signed = decode_message(item.data, Signed)
                self._book.add(verify_advert(signed, self._network_id, now_ms), now_ms)
            except P2PError as error:
                log.debug("advert by %s dropped: %s", item.author, error)
