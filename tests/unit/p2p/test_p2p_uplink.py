"""Owns the tests of the uplink: it redials, and believes no bootstrap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
import trio.testing

from p2p.admission import NodeBinding
from p2p.calls import CALLS_PROTOCOL, Caller, CallHandler, CallLink, serve_calls
from p2p.codec import decode_message, encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.configuration_sync import GET, OFFER, fetch_configuration
from p2p.errors import (
    DeadlineError,
    P2PError,
    PeerUnavailableError,
    RefusedError,
    SessionLostError,
    WrongNetworkError,
)
from p2p.limits import (
    REDIAL_PAUSE_S_MAX,
    REDIAL_PAUSE_S_MIN,
    SESSION_SILENCE_S_MAX,
    UPLINK_WAIT_S,
)
from p2p.link import Link
from p2p.network import Network
from p2p.signing import KeyPair, Signed
from p2p.types import PeerId
from p2p.uplink import Uplink
from tests.fakes.streams import MemoryStream, stream_pair
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_BOOTSTRAP,
    SOME_ACCOUNT,
    book_with,
    configuration,
)

FIRST = configuration()
SECOND = configuration(2, FIRST)
FORK = configuration(2, FIRST, mint_keys=("a" * 64,))


class FakeBootstrap:
    """Serves its configuration over calls; `lies` is what it serves instead of what it has."""

    def __init__(self, pair: KeyPair = BOOTSTRAP, signed: Signed = FIRST) -> None:
        self.pair = pair
        self.book = book_with(signed)
        self.lies: Signed | None = None
        self.links: list[Link] = []
        self.dial_error: P2PError | None = None
        self.stream_error: P2PError | None = None
        self.deaf = False

    def handlers(self) -> dict[str, CallHandler]:
        async def get(caller: Caller, body: bytes) -> bytes:
            signed = self.lies or self.book.signed
            assert signed is not None
            return encode_message(signed)

        async def offer(caller: Caller, body: bytes) -> bytes:
            self.book.offer(decode_message(body, Signed))
            return b""

        async def hang(caller: Caller, body: bytes) -> bytes:
            await trio.sleep_forever()
            return b""

        return {GET: get, OFFER: offer, "hang": hang}


class FakeNetwork:
    """The dialling side of a network: what an uplink uses of it."""

    def __init__(self, *bootstraps: FakeBootstrap) -> None:
        self.bootstraps = {f"/{index}": peer for index, peer in enumerate(bootstraps)}
        self.dials: list[tuple[float, str]] = []
        self.disconnected: list[PeerId] = []
        self.streams: list[MemoryStream] = []
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            with trio.fail_after(3600):
                yield nursery
            nursery.cancel_scope.cancel()

    async def connect(self, address: str) -> PeerId:
        self.dials.append((trio.current_time(), address))
        await trio.lowlevel.checkpoint()
        bootstrap = self.bootstraps[address]
        if bootstrap.dial_error is not None:
            raise bootstrap.dial_error
        return bootstrap.pair.peer_id

    async def disconnect(self, peer_id: PeerId) -> None:
        self.disconnected.append(peer_id)
        await trio.lowlevel.checkpoint()

    async def open_stream(self, peer_id: PeerId, protocol: str) -> MemoryStream:
        assert protocol == CALLS_PROTOCOL
        assert self._nursery is not None
        bootstrap = next(b for b in self.bootstraps.values() if b.pair.peer_id == peer_id)
        if bootstrap.stream_error is not None:
            raise bootstrap.stream_error
        ours, theirs = stream_pair(NODE.peer_id, peer_id)
        self.streams.append(ours)
        if not bootstrap.deaf:
            bootstrap.links.append(Link(theirs))
            self._nursery.start_soon(self._serve, bootstrap)
        await trio.lowlevel.checkpoint()
        return ours

    async def _serve(self, bootstrap: FakeBootstrap) -> None:
        try:
            await serve_calls(bootstrap.links[-1], Caller(NODE.peer_id, None), bootstrap.handlers())
        except P2PError:
            pass


def uplink_of(network: FakeNetwork, **options: Any) -> Uplink:
    return Uplink(cast(Network, network), tuple(network.bootstraps), **options)


def following(network: FakeNetwork, book: ConfigurationBook) -> Uplink:
    return uplink_of(network, greeting=partial(fetch_configuration, book=book))


async def test_it_connects_greets_and_calls() -> None:
    network = FakeNetwork(FakeBootstrap())
    book = ConfigurationBook(NETWORK)
    uplink = following(network, book)
    assert uplink.bootstrap is None
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        assert await uplink.call(GET, b"") == encode_message(FIRST)
        assert uplink.bootstrap == BOOTSTRAP.peer_id
        assert book.current.version == 1
        await uplink.wait_up()


async def test_it_redials_with_pauses_that_grow(autojump_clock: trio.abc.Clock) -> None:
    bootstrap = FakeBootstrap()
    bootstrap.dial_error = PeerUnavailableError("nobody there")
    network = FakeNetwork(bootstrap)
    uplink = uplink_of(network)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        asked_at = trio.current_time()
        with pytest.raises(PeerUnavailableError, match="no bootstrap"):
            await uplink.call(GET, b"", timeout_s=20)
        assert trio.current_time() - asked_at == pytest.approx(UPLINK_WAIT_S)
        await trio.sleep(20)
        times = [at for at, _ in network.dials]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert pauses[0] == pytest.approx(REDIAL_PAUSE_S_MIN)
        assert pauses == sorted(pauses)
        assert pauses[-1] == pytest.approx(REDIAL_PAUSE_S_MAX)
        bootstrap.dial_error = None
        await trio.sleep(REDIAL_PAUSE_S_MAX)
        assert await uplink.call(GET, b"") == encode_message(FIRST)


@pytest.mark.parametrize("how", ["broken", "bye"])
async def test_it_comes_back_soon_after_a_loss(autojump_clock: trio.abc.Clock, how: str) -> None:
    bootstrap = FakeBootstrap()
    network = FakeNetwork(bootstrap)
    uplink = uplink_of(network)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()
        await trio.sleep(100)
        lost_at = trio.current_time()
        if how == "broken":
            network.streams[-1].break_now()
        else:
            bootstrap.links[-1].close("restart")
        await trio.testing.wait_all_tasks_blocked()
        assert uplink.bootstrap is None
        await uplink.wait_up()
        assert trio.current_time() - lost_at <= 1


async def test_a_call_right_after_a_loss_waits_for_the_next_link(
    autojump_clock: trio.abc.Clock,
) -> None:
    network = FakeNetwork(FakeBootstrap())
    uplink = uplink_of(network)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        for _ in range(20):
            await uplink.wait_up()
            network.streams[-1].break_now()
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                if uplink.bootstrap is None:
                    assert await uplink.call(GET, b"") == encode_message(FIRST)
                    break


async def test_a_call_under_way_ends_with_the_link(autojump_clock: trio.abc.Clock) -> None:
    network = FakeNetwork(FakeBootstrap())
    uplink = uplink_of(network)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()

        async def lose() -> None:
            await trio.sleep(1)
            network.streams[-1].break_now()

        nursery.start_soon(lose)
        with pytest.raises(SessionLostError):
            await uplink.call("hang", b"")
        with pytest.raises(DeadlineError):
            await uplink.call("hang", b"", timeout_s=2)


async def test_a_frozen_bootstrap_is_left_for_another(autojump_clock: trio.abc.Clock) -> None:
    frozen, good = FakeBootstrap(), FakeBootstrap(OTHER_BOOTSTRAP)
    network = FakeNetwork(frozen, good)
    uplink = uplink_of(network)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()
        assert uplink.bootstrap == BOOTSTRAP.peer_id
        frozen.deaf = True
        network.streams[-1].freeze()
        frozen_at = trio.current_time()
        await trio.sleep(SESSION_SILENCE_S_MAX + 3)
        await uplink.wait_up()
        assert uplink.bootstrap == OTHER_BOOTSTRAP.peer_id
        assert trio.current_time() - frozen_at < SESSION_SILENCE_S_MAX + 5
        assert BOOTSTRAP.peer_id in network.disconnected


# --- bootstraps that lie ------------------------------------------------------------------------
async def honest_one_is_taken(liar: FakeBootstrap, book: ConfigurationBook) -> FakeNetwork:
    """Check that the liar is dropped and an honest bootstrap used; nothing of the lie is kept."""
    before = book.signed
    network = FakeNetwork(liar, FakeBootstrap(OTHER_BOOTSTRAP, before or FIRST))
    uplink = following(network, book)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()
        assert uplink.bootstrap == OTHER_BOOTSTRAP.peer_id
        assert network.disconnected[0] == liar.pair.peer_id
        assert book.signed == (before or FIRST)
    return network


async def test_a_bootstrap_with_its_own_configuration(autojump_clock: trio.abc.Clock) -> None:
    liar = FakeBootstrap()
    liar.lies = configuration(authority=BOOTSTRAP, mint_keys=("b" * 64,))
    await honest_one_is_taken(liar, ConfigurationBook(NETWORK))
    liar.lies = configuration(7, SECOND, authority=BOOTSTRAP)
    await honest_one_is_taken(liar, book_with(SECOND))


async def test_a_bootstrap_that_keeps_to_an_old_one(autojump_clock: trio.abc.Clock) -> None:
    liar = FakeBootstrap()
    liar.lies = FIRST
    await honest_one_is_taken(liar, book_with(SECOND))


async def test_a_bootstrap_that_was_only_away(autojump_clock: trio.abc.Clock) -> None:
    late = FakeBootstrap(signed=FIRST)
    network = FakeNetwork(late)
    book = book_with(SECOND)
    uplink = following(network, book)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()
        assert late.book.signed == SECOND
        assert len(network.dials) == 1


async def test_a_fork_is_evidence(autojump_clock: trio.abc.Clock) -> None:
    liar = FakeBootstrap()
    liar.lies = FORK
    book = book_with(SECOND)
    await honest_one_is_taken(liar, book)
    assert book.evidence == [FORK]


async def test_answers_that_are_no_configuration(autojump_clock: trio.abc.Clock) -> None:
    liar = FakeBootstrap()
    liar.lies = NODE.sign(NETWORK, NodeBinding(SOME_ACCOUNT, NODE.peer_id, 1))
    await honest_one_is_taken(liar, ConfigurationBook(NETWORK))


async def test_a_bootstrap_that_goes_away_while_it_greets(autojump_clock: trio.abc.Clock) -> None:
    bootstrap = FakeBootstrap()
    network = FakeNetwork(bootstrap, FakeBootstrap(OTHER_BOOTSTRAP))

    async def greeting(link: CallLink) -> None:
        if link.link.remote == BOOTSTRAP.peer_id:
            bootstrap.links[-1].close("not now")
            await link.call("hang", b"", 300)

    uplink = uplink_of(network, greeting=greeting)
    async with network.serving() as nursery:
        started = trio.current_time()
        await nursery.start(uplink.run)
        await uplink.wait_up()
        assert uplink.bootstrap == OTHER_BOOTSTRAP.peer_id
        assert trio.current_time() - started < 5


async def test_a_connection_that_does_not_serve_calls_is_closed(
    autojump_clock: trio.abc.Clock,
) -> None:
    bootstrap = FakeBootstrap()
    bootstrap.stream_error = RefusedError("protocol_not_served", "members only")
    network = FakeNetwork(bootstrap)
    uplink = uplink_of(network)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        await trio.sleep(1)
        assert network.disconnected
        bootstrap.stream_error = None
        await uplink.wait_up()


# --- the operator's mistake ---------------------------------------------------------------------
async def test_another_network_ends_it_when_all_say_so(
    autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = FakeBootstrap(), FakeBootstrap(OTHER_BOOTSTRAP)
    one.dial_error = other.dial_error = WrongNetworkError("this is network x, you are of y")
    network = FakeNetwork(one, other)
    with trio.fail_after(60), pytest.raises(WrongNetworkError, match="network x"):
        await uplink_of(network).run()
    assert len(network.dials) == 2
    assert "network x" in caplog.text


async def test_another_network_is_a_passing_fault_once_it_was_up(
    autojump_clock: trio.abc.Clock,
) -> None:
    bootstrap = FakeBootstrap()
    network = FakeNetwork(bootstrap)
    uplink = uplink_of(network)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()
        bootstrap.dial_error = WrongNetworkError("somebody took the port")
        network.streams[-1].break_now()
        await trio.sleep(30)
        bootstrap.dial_error = None
        await uplink.wait_up()


async def test_one_reachable_bootstrap_is_enough(autojump_clock: trio.abc.Clock) -> None:
    wrong, away, good = FakeBootstrap(GATEWAY), FakeBootstrap(NODE), FakeBootstrap()
    wrong.dial_error = WrongNetworkError("another")
    away.dial_error = PeerUnavailableError("away")
    network = FakeNetwork(wrong, away, good)
    uplink = uplink_of(network)
    async with network.serving() as nursery:
        await nursery.start(uplink.run)
        await uplink.wait_up()
        assert uplink.bootstrap == BOOTSTRAP.peer_id
