"""Owns the tests of what a bootstrap tells: the configuration, and which nodes are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from bootstrap.advert_directory import LIST, AdvertDirectory
from bootstrap.configuration_service import ConfigurationService
from bootstrap.errors import BootstrapStartError
from bootstrap.limits import (
    ADVERTS_REPLY_BYTES_MAX,
    CONFIGURATION_GOSSIP_INTERVAL_S,
    CONFIGURATION_POLL_INTERVAL_S,
)
from p2p.adverts import Advert, advert_topic, all_advert_topics
from p2p.calls import Caller
from p2p.certificates import verify_chain
from p2p.codec import decode_message, decode_messages, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import CONFIGURATION_TOPIC, GET, OFFER, follow_configuration
from p2p.errors import ForkError, MalformedError, RefusedError, StaleError, UntrustedError
from p2p.limits import GOSSIP_MESSAGE_BYTES_MAX
from p2p.network import GossipMessage, Network
from p2p.signing import KeyPair, Signed
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.trust import (
    BOOTSTRAP,
    NETWORK,
    NODE,
    OTHER_NODE,
    STRANGER,
    configuration,
    key_pair,
    node_chain,
)

FIRST = configuration()
SECOND = configuration(2, FIRST)
NEWCOMER = Caller(STRANGER.peer_id, None)
MEMBER = Caller(NODE.peer_id, verify_chain(node_chain(), NETWORK, NODE.peer_id, START_MS))


class GossipNetwork:
    """The gossip of a network: what was published, and what subscribers are given."""

    def __init__(self) -> None:
        self.published: list[tuple[float, str, bytes]] = []
        self.topics: dict[str, trio.MemorySendChannel[GossipMessage]] = {}

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.published.append((trio.current_time(), topic, data))

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        assert topic not in self.topics
        self.topics[topic], receive = trio.open_memory_channel[GossipMessage](100)
        return receive

    async def tell(self, topic: str, data: bytes, author: KeyPair = NODE) -> None:
        await self.topics[topic].send(GossipMessage(author.peer_id, data))
        await trio.testing.wait_all_tasks_blocked()


# --- configuration ------------------------------------------------------------------------------
def write(path: Path, signed: Signed) -> None:
    path.write_bytes(encode_message(signed))


def serving(tmp_path: Path, signed: Signed = FIRST) -> tuple[ConfigurationService, Path]:
    path = tmp_path / "configuration.signed"
    write(path, signed)
    book = ConfigurationBook(NETWORK, tmp_path / "configuration.msgpack")
    return ConfigurationService(book, path), path


async def test_everybody_gets_the_configuration_as_signed(tmp_path: Path) -> None:
    service, _ = serving(tmp_path)
    for caller in (NEWCOMER, MEMBER):
        assert decode_message(await service.handlers()[GET](caller, b""), Signed) == FIRST


async def test_members_may_bring_a_newer_one(tmp_path: Path) -> None:
    service, _ = serving(tmp_path)
    offer = service.handlers()[OFFER]
    with pytest.raises(RefusedError):
        await offer(NEWCOMER, encode_message(SECOND))
    for body, kind in [
        (b"text", MalformedError),
        (encode_message(configuration(2, FIRST, authority=BOOTSTRAP)), UntrustedError),
        (encode_message(configuration(1, issued_ms=START_MS + 1)), ForkError),
    ]:
        with pytest.raises(kind):
            await offer(MEMBER, body)
    assert await offer(MEMBER, encode_message(SECOND)) == b""
    assert decode_message(await service.get(MEMBER, b""), Signed) == SECOND
    with pytest.raises(StaleError):
        await offer(MEMBER, encode_message(FIRST))


@pytest.mark.parametrize("content", [None, b"", b"text", "foreign"])
def test_it_does_not_start_without_a_configuration(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "configuration.signed"
    if content == "foreign":
        write(path, configuration(authority=BOOTSTRAP))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BootstrapStartError, match=r"configuration\.signed"):
        ConfigurationService(ConfigurationBook(NETWORK), path)


def test_an_old_file_does_not_undo_what_is_known(tmp_path: Path) -> None:
    serving(tmp_path, SECOND)
    service, _ = serving(tmp_path, FIRST)
    assert service._book.current.version == 2


async def test_the_operators_file_is_watched_and_gossiped(
    tmp_path: Path, autojump_clock: trio.abc.Clock, nursery: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service, path = serving(tmp_path)
    network = GossipNetwork()
    nursery.start_soon(service.run, cast(Network, network))
    await trio.sleep(5 * CONFIGURATION_POLL_INTERVAL_S)
    assert [topic for _, topic, _ in network.published] == [CONFIGURATION_TOPIC]
    path.write_bytes(b"half of a fi")
    await trio.sleep(5 * CONFIGURATION_POLL_INTERVAL_S)
    path.unlink()
    await trio.sleep(5 * CONFIGURATION_POLL_INTERVAL_S)
    assert caplog.text.count("is not taken") == 2
    write(path, SECOND)
    await trio.sleep(2 * CONFIGURATION_POLL_INTERVAL_S)
    assert decode_message(network.published[-1][2], Signed) == SECOND
    count = len(network.published)
    await trio.sleep(3.5 * CONFIGURATION_GOSSIP_INTERVAL_S)
    assert len(network.published) == count + 3


async def test_a_large_configuration_is_left_to_calls(
    tmp_path: Path, autojump_clock: trio.abc.Clock, nursery: Any
) -> None:
    large = configuration(banned_peers=tuple(f"{n:060d}" for n in range(500)))
    assert len(encode_message(large)) > GOSSIP_MESSAGE_BYTES_MAX
    service, _ = serving(tmp_path, large)
    network = GossipNetwork()
    nursery.start_soon(service.run, cast(Network, network))
    await trio.sleep(10)
    assert network.published == []


async def test_peers_take_newer_ones_from_gossip(nursery: Any) -> None:
    network, book = GossipNetwork(), ConfigurationBook(NETWORK)
    nursery.start_soon(follow_configuration, cast(Network, network), book)
    await trio.testing.wait_all_tasks_blocked()
    for data in (
        b"text",
        encode_message(configuration(authority=BOOTSTRAP)),
        encode_message(SECOND),
        encode_message(FIRST),
        b"",
    ):
        await network.tell(CONFIGURATION_TOPIC, data)
    assert book.signed == SECOND


# --- adverts ------------------------------------------------------------------------------------
def advert(pair: KeyPair, sequence: int = 1, lifetime_s: float = 45, software: str = "s") -> Signed:
    document = Advert(
        peer_id=pair.peer_id,
        sequence=sequence,
        issued_ms=START_MS,
        expires_ms=START_MS + int(lifetime_s * 1000),
        chain=node_chain(pair),
        addresses=("/ip4/127.0.0.1/tcp/1" + "0" * 900,) * 8,
        models=(),
        software=software,
    )
    return pair.sign(NETWORK, document)


async def listed(directory: AdvertDirectory) -> list[Any]:
    body = await directory.handlers()[LIST](MEMBER, b"")
    return decode_messages(body) if body else []


async def test_live_adverts_are_listed_as_signed(nursery: Any) -> None:
    network, clock = GossipNetwork(), FakeClock()
    directory = AdvertDirectory(NETWORK, clock_ms=clock)
    nursery.start_soon(directory.run, cast(Network, network))
    await trio.testing.wait_all_tasks_blocked()
    assert set(network.topics) == set(all_advert_topics())
    assert await listed(directory) == []
    newer, other = advert(NODE, 2), advert(OTHER_NODE, lifetime_s=10)
    for data in (
        encode_message(advert(NODE)),
        encode_message(newer),
        encode_message(advert(NODE)),
        b"text",
        encode_message(STRANGER.sign(NETWORK, decode_message(newer.body, Advert))),
    ):
        await network.tell(advert_topic(), data)
    await network.tell("adverts/0", encode_message(other))
    assert await listed(directory) == [newer, other]
    clock.advance(10)
    assert await listed(directory) == [newer]
    clock.advance(60)
    assert await listed(directory) == []


async def test_the_list_fits_a_frame(nursery: Any) -> None:
    network = GossipNetwork()
    directory = AdvertDirectory(NETWORK, clock_ms=FakeClock())
    nursery.start_soon(directory.run, cast(Network, network))
    await trio.testing.wait_all_tasks_blocked()
    for number in range(140):
        await network.tell(advert_topic(), encode_message(advert(key_pair(200 + number))))
    body = await directory.list(MEMBER, b"")
    assert len(body) <= ADVERTS_REPLY_BYTES_MAX + 16
    assert 50 < len(decode_messages(body)) < 140
