"""Owns the tests of how a node gets its certificate, keeps it and renews it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from node.joining import NodeStanding
from p2p.account_file import AccountKeys
from p2p.admission import JOIN, JoinResult
from p2p.call_service import handle_calls
from p2p.calls import ADMISSION_PROTOCOL, Caller
from p2p.certificates import Chain
from p2p.codec import encode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import (
    PeerUnavailableError,
    RefusedError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.member_files import load_chain, store_chain
from p2p.membership import Membership
from p2p.memory_network import MemoryHub, MemoryNetwork
from p2p.network import Access, Network
from p2p.signing import KeyPair, Signed
from p2p.types import AccountId, NetworkId, Role
from p2p.uplink import Uplink
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.trust import (
    BOOTSTRAP,
    DAY_S,
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_AUTHORITY,
    OTHER_BOOTSTRAP,
    OTHER_NETWORK,
    account_keys,
    book_with,
    bootstrap_chain,
    certificate,
    configuration,
    gateway_chain,
    membership,
    node_chain,
)

ACCOUNT: AccountKeys = account_keys()
FIRST = configuration()


def chain_for(account_id: AccountId = ACCOUNT.account_id, **options: Any) -> Chain:
    leaf = certificate(NODE.peer_id, Role.NODE, BOOTSTRAP, account_id=account_id, **options)
    return (leaf, *bootstrap_chain(lifetime_s=100 * DAY_S))


class Node:
    """A node that has not joined yet."""

    def __init__(self, folder: Path, network: NetworkId = NETWORK) -> None:
        self.clock = FakeClock()
        self.book = ConfigurationBook(network)
        self.path = folder / "certificate.msgpack"
        self.membership: Membership = membership(
            NODE, Role.NODE, (), self.clock, book=self.book, network=network
        )
        self.account = ACCOUNT

    def standing(self) -> NodeStanding:
        return NodeStanding(
            self.membership,
            self.account,
            self.book,
            self.path,
            software="resultity/test",
            clock_ms=self.clock,
        )


class Admitting:
    """A bootstrap on the hub that answers JOIN with what it is told to."""

    def __init__(self, pair: KeyPair = BOOTSTRAP) -> None:
        self.pair = pair
        self.chain: Chain = chain_for()
        self.configuration: Signed = FIRST
        self.refusal: RefusedError | None = None
        self.asked: list[Caller] = []

    async def join(self, caller: Caller, body: bytes) -> bytes:
        self.asked.append(caller)
        if self.refusal is not None:
            raise self.refusal
        return encode_message(JoinResult(self.chain, self.configuration))

    @asynccontextmanager
    async def open(self, hub: MemoryHub, clock: FakeClock) -> AsyncIterator[MemoryNetwork]:
        standing = membership(
            self.pair,
            Role.BOOTSTRAP,
            bootstrap_chain(self.pair, lifetime_s=100 * DAY_S),
            clock,
            book=book_with(),
        )
        async with hub.open(
            self.pair, NETWORK, gate=standing, record_check=lambda key, value: 0
        ) as network:
            handle_calls(network, ADMISSION_PROTOCOL, standing, {JOIN: self.join}, newcomers=True)
            yield network


@asynccontextmanager
async def meeting(
    node: Node, *bootstraps: Admitting
) -> AsyncIterator[tuple[MemoryNetwork, tuple[str, ...]]]:
    """Put a node and some bootstraps on one hub."""
    hub = MemoryHub(seed=1)
    async with trio.open_nursery() as nursery:
        addresses: list[str] = []
        for bootstrap in bootstraps:
            ready = trio.Event()

            async def serve(peer: Admitting = bootstrap, ready: trio.Event = ready) -> None:
                async with peer.open(hub, node.clock) as network:
                    addresses.extend(network.addresses())
                    ready.set()
                    await trio.sleep_forever()

            nursery.start_soon(serve)
            await ready.wait()
        async with hub.open(
            NODE, NETWORK, gate=node.membership, record_check=lambda key, value: 0
        ) as network:
            with trio.fail_after(60):
                yield network, tuple(addresses)
        nursery.cancel_scope.cancel()


async def test_a_newcomer_joins_and_comes_back_as_a_member(
    autojump_clock: trio.abc.Clock, tmp_path: Path
) -> None:
    node, bootstrap = Node(tmp_path), Admitting()
    standing = node.standing()
    assert not standing.certified
    async with meeting(node, bootstrap) as (network, addresses):
        await standing.join(network, addresses)
        assert standing.certified
        assert node.membership.chain == load_chain(node.path) == bootstrap.chain
        assert node.book.signed == FIRST
        assert [caller.certificate for caller in bootstrap.asked] == [None]
        assert network.peers() == ()
        await network.connect(addresses[0])
        assert network.access_of(BOOTSTRAP.peer_id) is Access.MEMBER


LIES: dict[str, dict[str, Any]] = {
    "another account": {"chain": chain_for(AccountId("acct-" + "b" * 40))},
    "another node": {"chain": node_chain(GATEWAY)},
    "another role": {"chain": gateway_chain(NODE)},
    "expired": {"chain": chain_for(issued_ms=START_MS - 10 * int(DAY_S * 1000))},
    "not by a bootstrap": {"chain": (certificate(NODE.peer_id, Role.NODE, GATEWAY),)},
    "another authority": {
        "chain": (
            certificate(NODE.peer_id, Role.NODE, BOOTSTRAP, account_id=ACCOUNT.account_id),
            certificate(BOOTSTRAP.peer_id, Role.BOOTSTRAP, OTHER_AUTHORITY),
        )
    },
    "its own configuration": {"configuration": configuration(authority=BOOTSTRAP)},
    "refusal": {"refusal": RefusedError("banned", "you are banned")},
}


@pytest.mark.parametrize("name", LIES)
async def test_a_bootstrap_that_is_no_help_is_left_for_another(
    autojump_clock: trio.abc.Clock, tmp_path: Path, name: str
) -> None:
    node, liar, honest = Node(tmp_path), Admitting(), Admitting(OTHER_BOOTSTRAP)
    for field, value in LIES[name].items():
        setattr(liar, field, value)
    standing = node.standing()
    async with meeting(node, liar, honest) as (network, addresses):
        await standing.join(network, addresses)
    assert len(liar.asked) == len(honest.asked) == 1
    assert standing.certified
    assert node.book.signed == FIRST
    assert load_chain(node.path) == honest.chain


async def test_an_older_configuration_is_not_taken_from_a_bootstrap(
    autojump_clock: trio.abc.Clock, tmp_path: Path
) -> None:
    node, late, current = Node(tmp_path), Admitting(), Admitting(OTHER_BOOTSTRAP)
    second = configuration(2, FIRST)
    node.book.offer(second)
    current.configuration = second
    async with meeting(node, late, current) as (network, addresses):
        await node.standing().join(network, addresses)
    assert node.book.signed == second


async def test_another_network_is_said_plainly(
    autojump_clock: trio.abc.Clock, tmp_path: Path
) -> None:
    """Not wrapped in a group: the operator reads it."""
    node = Node(tmp_path, OTHER_NETWORK)
    async with meeting(node, Admitting()) as (network, addresses):
        with pytest.raises(WrongNetworkError, match=NETWORK):
            await node.standing().join(network, addresses)


async def test_it_keeps_trying(autojump_clock: trio.abc.Clock, tmp_path: Path) -> None:
    node, bootstrap = Node(tmp_path), Admitting()
    bootstrap.refusal = RefusedError("no_configuration", "not yet")
    standing = node.standing()
    async with meeting(node, bootstrap) as (network, addresses):
        with trio.move_on_after(20):
            await standing.join(network, addresses)
        assert not standing.certified
        assert len(bootstrap.asked) > 3
        bootstrap.refusal = None
        await standing.join(network, addresses)
    assert standing.certified


# --- the certificate that is kept ---------------------------------------------------------------
def test_a_kept_certificate_is_used_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    store_chain(node.path, chain_for())
    standing = node.standing()
    assert standing.certified
    assert node.membership.chain == chain_for()
    assert standing.renew_in_s() == pytest.approx(DAY_S * 2 / 3)


@pytest.mark.parametrize(
    "chain",
    [
        chain_for(AccountId("acct-" + "b" * 40)),
        chain_for(issued_ms=START_MS - 2 * int(DAY_S * 1000)),
        node_chain(GATEWAY),
        gateway_chain(NODE),
    ],
)
def test_a_certificate_that_is_no_good_is_not_used(
    tmp_path: Path, chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path)
    store_chain(node.path, chain)
    assert not node.standing().certified
    assert node.membership.chain == ()
    assert "not usable" in caplog.text


def test_a_damaged_file_is_not_fatal(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.path.write_bytes(b"damaged")
    assert not node.standing().certified


def test_overdue_means_asking_at_the_start(tmp_path: Path) -> None:
    node = Node(tmp_path)
    store_chain(node.path, chain_for(lifetime_s=DAY_S))
    node.clock.advance(DAY_S * 2 / 3 + 61)
    assert not node.standing().certified


def test_the_bootstraps_own_end_counts(tmp_path: Path) -> None:
    node = Node(tmp_path)
    leaf = chain_for(lifetime_s=30 * DAY_S)[0]
    store_chain(node.path, (leaf, *bootstrap_chain(lifetime_s=3 * DAY_S)))
    assert node.standing().renew_in_s() == pytest.approx(2 * DAY_S)


LIFE_S = 3600.0


class Renewing:
    """An uplink that answers JOIN."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.away = False
        self.lifetime_s = LIFE_S
        self.times: list[float] = []

    async def call(self, method: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        assert method == JOIN
        self.times.append(trio.current_time())
        if self.away:
            raise PeerUnavailableError("no bootstrap")
        chain = chain_for(issued_ms=self.clock.now_ms, lifetime_s=self.lifetime_s)
        return encode_message(JoinResult(chain, FIRST))


async def test_it_is_renewed_before_it_ends(
    autojump_clock: trio.abc.Clock, tmp_path: Path, nursery: Any
) -> None:
    node = Node(tmp_path)
    store_chain(node.path, chain_for(lifetime_s=LIFE_S))
    standing, uplink = node.standing(), Renewing(node.clock)

    async def tick() -> None:
        while True:
            await trio.sleep(1)
            node.clock.advance(1)

    nursery.start_soon(tick)
    nursery.start_soon(standing.keep, cast(Uplink, uplink), cast(Network, None), ())
    started = trio.current_time()
    await trio.sleep(LIFE_S * 0.6)
    assert uplink.times == []
    await trio.sleep(LIFE_S * 0.2)
    assert len(uplink.times) == 1
    assert LIFE_S * 0.6 < uplink.times[0] - started < LIFE_S * 0.75
    uplink.away = True
    await trio.sleep(LIFE_S * 0.8)
    assert len(uplink.times) > 3
    uplink.away = False
    await trio.sleep(10)
    assert standing.renew_in_s() > LIFE_S * 0.6
    assert load_chain(node.path) == node.membership.chain


async def test_with_a_certificate_that_has_ended_it_joins_again(
    autojump_clock: trio.abc.Clock, tmp_path: Path
) -> None:
    """The computer slept for longer than the certificate held: no hello is answered with it."""
    node, bootstrap = Node(tmp_path), Admitting()
    store_chain(node.path, chain_for(lifetime_s=LIFE_S))
    standing = node.standing()
    node.clock.advance(LIFE_S + 60)
    bootstrap.chain = chain_for(issued_ms=node.clock.now_ms, lifetime_s=LIFE_S)
    async with meeting(node, bootstrap) as (network, addresses), trio.open_nursery() as nursery:
        with pytest.raises(UntrustedError):
            await network.connect(addresses[0])
        uplink = Uplink(network, addresses)  # which goes on dialling meanwhile
        nursery.start_soon(uplink.run)
        nursery.start_soon(standing.keep, uplink, network, addresses)
        await trio.sleep(30)
        assert node.membership.chain == load_chain(node.path) == bootstrap.chain
        nursery.cancel_scope.cancel()


async def test_when_its_bootstrap_is_banned_it_joins_at_another(
    autojump_clock: trio.abc.Clock, tmp_path: Path
) -> None:
    """With a certificate by a banned bootstrap it is refused everywhere."""
    node, other = Node(tmp_path), Admitting(OTHER_BOOTSTRAP)
    node.book.offer(FIRST)
    store_chain(node.path, chain_for())
    standing = node.standing()
    other.configuration = configuration(2, FIRST, banned_peers=(BOOTSTRAP.peer_id,))
    leaf = certificate(NODE.peer_id, Role.NODE, OTHER_BOOTSTRAP, account_id=ACCOUNT.account_id)
    other.chain = (leaf, *bootstrap_chain(OTHER_BOOTSTRAP, lifetime_s=100 * DAY_S))
    async with meeting(node, other) as (network, addresses), trio.open_nursery() as nursery:
        uplink = Uplink(network, addresses)
        nursery.start_soon(uplink.run)
        nursery.start_soon(standing.keep, uplink, network, addresses)
        await trio.sleep(2)
        assert node.membership.chain == chain_for()
        node.book.offer(other.configuration)
        assert standing.renew_in_s() < 0
        await trio.sleep(50)
        assert node.membership.chain == load_chain(node.path) == other.chain
        nursery.cancel_scope.cancel()
    store_chain(node.path, chain_for())
    node.membership.chain = ()
    assert not node.standing().certified  # and at a start it is not used either


async def test_with_patience_a_refusal_ends_it_and_so_does_silence(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    node, bootstrap = Node(tmp_path), Admitting()
    bootstrap.refusal = RefusedError("invite_refused", "invite 00 is used up")
    async with meeting(node, bootstrap) as (network, addresses):
        with pytest.raises(RefusedError, match="used up"):
            await node.standing().join(network, addresses, patience_s=30)
        assert len(bootstrap.asked) == 1
        bootstrap.refusal = RefusedError("opening_limit", "later", retry_after_s=600)
        with pytest.raises(RefusedError, match="later"):
            await node.standing().join(network, addresses, patience_s=30)
        bootstrap.refusal = RefusedError("ledger_busy", "busy", retry_after_s=1)
        with pytest.raises(PeerUnavailableError, match=r"within 30 s: bootstrap .*: busy$"):
            await node.standing().join(network, addresses, patience_s=30)
        bootstrap.refusal = None
        await node.standing().join(network, addresses, patience_s=30)
        assert node.membership.chain == bootstrap.chain
