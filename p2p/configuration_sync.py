"""Owns how a peer keeps its network configuration current: from its bootstrap and from gossip.

A bootstrap that serves an older configuration is first handed the newer one (it may only have been
away); if it then still serves the old one, or serves one that the authority did not sign, it is
refused like any liar.
"""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError, RefusedError, StaleError
from p2p.limits import GOSSIP_MESSAGE_BYTES_MAX
from p2p.membership import Membership
from p2p.network import Access, Network
from p2p.signing import Signed

log = logging.getLogger(__name__)
CONFIGURATION_TOPIC = "configuration"
GET = "configuration.get"
OFFER = "configuration.offer"


class Asked(Protocol):
    """Whoever can be asked: a `CallLink` or an `Uplink`."""

    async def call(self, method: str, body: bytes) -> bytes:
        """Ask and wait for the answer."""
        ...


async def fetch_configuration(link: Asked, book: ConfigurationBook) -> None:
    """Get the configuration from a bootstrap and take it if it is good.

    Raises: UntrustedError (ForkError, StaleError), MalformedError: do not deal with this bootstrap.
    """
    signed = decode_message(await link.call(GET, b""), Signed)
    try:
        book.offer(signed)
    except StaleError:
        assert book.signed is not None
        await link.call(OFFER, encode_message(book.signed))
        book.offer(decode_message(await link.call(GET, b""), Signed))


async def follow_configuration(network: Network, book: ConfigurationBook) -> None:
    """Take newer configurations from gossip, for as long as the peer runs."""
    async for item in network.subscribe(CONFIGURATION_TOPIC):
        try:
            signed = decode_message(item.data, Signed)
        except P2PError as error:
            log.warning("configuration from %s refused: %s", item.author, error)
            continue
        if book.offer_quietly(signed, item.author):
            log.info("configuration %d is in force", book.current.version)


async def publish_configuration(network: Network, book: ConfigurationBook) -> None:
    """Gossip the configuration in force; one that is too large for gossip is left to `GET`."""
    if book.signed is None:
        raise RefusedError("no_configuration", "no network configuration yet")
    data = encode_message(book.signed)
    if len(data) <= GOSSIP_MESSAGE_BYTES_MAX:
        await network.publish(CONFIGURATION_TOPIC, data)


async def enforce_bans(network: Network, book: ConfigurationBook, membership: Membership) -> None:
    """Close the connections of members that a new configuration bans, while the peer runs."""
    changed = trio.Event()
    book.on_change(lambda _: changed.set())
    while True:
        await changed.wait()
        changed = trio.Event()
        for peer_id in network.peers():
            member = network.access_of(peer_id) is Access.MEMBER
            if member and membership.certificate_of(peer_id) is None:
                log.warning("%s is no longer a member: connection closed", peer_id)
                await network.disconnect(peer_id)
