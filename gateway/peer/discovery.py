"""Owns how the gateway hears of nodes: gossip, the bootstrap's list, and the DHT as a hint of
whom to dial."""

from __future__ import annotations

import logging

import trio

from gateway.limits import DISCOVERY_INTERVAL_S, PROVIDERS_DIALLED_MAX
from gateway.peer.registry import Registry
from p2p.adverts import advert_key, all_advert_topics, model_key
from p2p.calls import CallLink
from p2p.codec import decode_message, decode_messages
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError
from p2p.network import Network
from p2p.signing import Signed

log = logging.getLogger(__name__)
LIST_ADVERTS = "adverts.list"


async def fetch_adverts(link: CallLink, registry: Registry) -> None:
    """Ask a bootstrap for the adverts that are alive. Raises: P2PError."""
    answer = await link.call(LIST_ADVERTS, b"")
    if not answer:
        return
    for item in decode_messages(answer):
        if isinstance(item, Signed):
            registry.add_quietly(item)


async def follow_adverts(network: Network, registry: Registry) -> None:
    """Listen on all topic shards until cancelled."""
    async with trio.open_nursery() as nursery:
        for topic in all_advert_topics():
            nursery.start_soon(_follow_topic, network, topic, registry)


async def _follow_topic(network: Network, topic: str, registry: Registry) -> None:
    async for item in network.subscribe(topic):
        try:
            registry.add_quietly(decode_message(item.data, Signed))
        except P2PError as error:
            log.debug("not an advert, from %s: %s", item.author, error)


async def search_directory(
    network: Network, registry: Registry, configuration: ConfigurationBook
) -> None:
    """Ask the DHT for nodes of models that nobody reachable serves, until cancelled."""
    while True:
        await trio.sleep(DISCOVERY_INTERVAL_S)
        if not configuration.known:
            continue
        for model in configuration.current.all_models:
            digest = bytes.fromhex(model.digest)
            if registry.reachable(digest):
                continue
            try:
                await _search_model(network, registry, digest)
            except P2PError as error:
                log.debug("the directory does not answer: %s", error)


async def _search_model(network: Network, registry: Registry, digest: bytes) -> None:
    providers = await network.find_providers(model_key(digest))
    for provider in providers[:PROVIDERS_DIALLED_MAX]:
        record = await network.get_record(advert_key(provider.peer_id))
        if record is None:
            continue
        try:
            registry.add_quietly(decode_message(record, Signed))
        except P2PError as error:
            log.debug("a directory record of %s: %s", provider.peer_id, error)
