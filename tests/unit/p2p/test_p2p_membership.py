"""Owns the tests of the hello: who gets in, who does not, and that both sides agree about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import trio

from p2p.errors import (
    P2PError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.membership import (
    Membership,
)
from p2p.network import Access
from p2p.types import Role
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.streams import MemoryStream, stream_pair
from tests.fakes.trust import (
    BOOTSTRAP,
    DAY_S,
    GATEWAY,
    NETWORK,
    NODE,
    OTHER_AUTHORITY,
    OTHER_BOOTSTRAP,
    OTHER_GATEWAY,
    OTHER_NETWORK,
    OTHER_NODE,
    book_with,
    bootstrap_chain,
    certificate,
    configuration,
    gateway_chain,
    membership,
    node_chain,
)


@dataclass
class Side:
    """One peer, and what became of its hello."""

    standing: Membership
    outcome: Access | P2PError | None = None
    streams: list[MemoryStream] = field(default_factory=list)

    async def greet(self, stream: MemoryStream, dialled: bool) -> None:
        self.streams.append(stream)
        try:
            self.outcome = await self.standing.greet(stream, dialled=dialled)
        except P2PError as error:
            self.outcome = error
            await (
                trio.lowlevel.checkpoint()
            )  # as the adapter: the verdict leaves before the stream does
            await stream.close()


async def meet(one: Membership, other: Membership) -> tuple[Any, Any]:
    """Let two peers greet each other; gives both outcomes."""
    sides = Side(one), Side(other)
    ends = stream_pair(one.key_pair.peer_id, other.key_pair.peer_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sides[0].greet, ends[0], True)
        nursery.start_soon(sides[1].greet, ends[1], False)
    return sides[0].outcome, sides[1].outcome


def bootstrap(clock: FakeClock, **options: Any) -> Membership:
    return membership(BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(), clock, **options)


def gateway(clock: FakeClock, **options: Any) -> Membership:
    return membership(GATEWAY, Role.GATEWAY, gateway_chain(), clock, **options)


def node(clock: FakeClock, **options: Any) -> Membership:
    return membership(NODE, Role.NODE, node_chain(), clock, **options)


def newcomer(clock: FakeClock) -> Membership:
    return membership(NODE, Role.NODE, (), clock)


# --- who gets in --------------------------------------------------------------------------------
async def test_members_know_each_other_afterwards() -> None:
    clock = FakeClock()
    one, other = gateway(clock), node(clock)
    assert await meet(one, other) == (Access.MEMBER, Access.MEMBER)
    found = one.certificate_of(NODE.peer_id)
    assert found is not None
    assert found.role is Role.NODE
    assert one.members(Role.NODE) == (NODE.peer_id,)
    assert one.members(Role.GATEWAY) == ()
    assert other.chain_of(GATEWAY.peer_id) == gateway_chain()
    one.forget(NODE.peer_id)
    assert one.certificate_of(NODE.peer_id) is None
    assert one.chain_of(NODE.peer_id) == ()
    one.forget(NODE.peer_id)


async def test_a_newcomer_may_come_to_a_bootstrap() -> None:
    clock = FakeClock()
    one, other = newcomer(clock), bootstrap(clock)
    assert await meet(one, other) == (Access.MEMBER, Access.NEWCOMER)
    assert other.certificate_of(NODE.peer_id) is None
    assert one.certificate_of(BOOTSTRAP.peer_id) is not None


async def test_a_certificate_that_ends_while_connected() -> None:
    clock = FakeClock()
    one = gateway(clock)
    await meet(one, node(clock))
    clock.advance(DAY_S - 1)
    assert one.certificate_of(NODE.peer_id) is not None
    clock.advance(1)
    assert one.certificate_of(NODE.peer_id) is None


# --- who does not -------------------------------------------------------------------------------
async def refused(one: Membership, other: Membership, kind: type[P2PError] = UntrustedError) -> str:
    """Check that neither side lets the other in, and that nothing is left of it."""
    outcomes = await meet(one, other)
    assert all(isinstance(outcome, UntrustedError) for outcome in outcomes), outcomes
    assert isinstance(outcomes[0], kind), outcomes
    for standing, remote in ((one, other), (other, one)):
        assert standing.certificate_of(remote.key_pair.peer_id) is None
        assert standing.chain_of(remote.key_pair.peer_id) == ()
        assert not any(standing.members(role) for role in Role)
    return str(outcomes[0])


async def test_another_network_is_told_so_on_both_sides() -> None:
    clock = FakeClock()
    chain = (
        certificate(OTHER_GATEWAY.peer_id, Role.GATEWAY, OTHER_AUTHORITY, network=OTHER_NETWORK),
    )
    foreign = membership(OTHER_GATEWAY, Role.GATEWAY, chain, clock, network=OTHER_NETWORK)
    text = await refused(foreign, node(clock), WrongNetworkError)
    assert NETWORK in text
    await refused(node(clock), foreign, WrongNetworkError)


async def test_certificates_that_are_not_good() -> None:
    clock = FakeClock(START_MS + 3600_000)
    long_ago = START_MS - 10 * int(DAY_S * 1000)
    by_others = (certificate(OTHER_GATEWAY.peer_id, Role.GATEWAY, OTHER_AUTHORITY),)
    for chain, kind in [
        (gateway_chain(OTHER_GATEWAY, issued_ms=long_ago), UntrustedError),
        (by_others, UntrustedError),
        (gateway_chain(GATEWAY), UntrustedError),
        ((*gateway_chain(OTHER_GATEWAY), *bootstrap_chain()), UntrustedError),
    ]:
        bad = membership(OTHER_GATEWAY, Role.GATEWAY, chain, clock)
        await refused(bad, bootstrap(clock), kind)
        await refused(gateway(clock), bad)


async def test_the_expired_peer_learns_why() -> None:
    clock = FakeClock(START_MS + int(DAY_S * 1000))
    fresh = membership(BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(issued_ms=clock.now_ms), clock)
    expired = membership(GATEWAY, Role.GATEWAY, gateway_chain(), clock)
    assert "expired" in await refused(expired, fresh)


async def test_a_role_that_the_certificate_does_not_give() -> None:
    clock = FakeClock()
    await refused(membership(GATEWAY, Role.BOOTSTRAP, gateway_chain(), clock), node(clock))


async def test_newcomers_get_nowhere_else() -> None:
    clock = FakeClock()
    await refused(newcomer(clock), gateway(clock))
    await refused(newcomer(clock), membership(OTHER_NODE, Role.NODE, node_chain(OTHER_NODE), clock))
    await refused(newcomer(clock), membership(OTHER_NODE, Role.NODE, (), clock))


async def test_banned_peers_newcomers_too() -> None:
    clock = FakeClock()
    banning = book_with(configuration(banned_peers=(NODE.peer_id,)))
    assert "banned" in await refused(node(clock), bootstrap(clock, book=banning))
    assert "banned" in await refused(newcomer(clock), bootstrap(clock, book=banning))
    await refused(gateway(clock, book=banning), node(clock))


async def test_nodes_that_a_banned_bootstrap_admitted() -> None:
    clock = FakeClock()
    banning = book_with(configuration(banned_peers=(BOOTSTRAP.peer_id,)))
    await refused(node(clock), gateway(clock, book=banning))
    by_another = membership(NODE, Role.NODE, node_chain(by=OTHER_BOOTSTRAP), clock)
    assert await meet(by_another, gateway(clock, book=banning)) == (Access.MEMBER, Access.MEMBER)


async def test_a_member_that_is_banned_while_connected() -> None:
    clock = FakeClock()
    first = configuration()
    book = book_with(first)
    one = gateway(clock, book=book)
    await meet(one, node(clock))
    book.offer(configuration(2, first, banned_peers=(NODE.peer_id,)))
    assert one.certificate_of(NODE.peer_id) is None


async def test_a_refusal_does_not_touch_a_connection_that_stands() -> None:
    """Both sides may have dialled at once; the second hello may fail for its own reasons."""
    clock = FakeClock()
    one, other = gateway(clock), node(clock)
    await meet(one, other)
    impostor = membership(NODE, Role.NODE, (), clock)
    outcome, _ = await meet(one, impostor)
    assert isinstance(outcome, UntrustedError)
    assert one.certificate_of(NODE.peer_id) is not None


async def test_two_bootstraps_and_their_versions() -> None:
    clock = FakeClock()
    one = bootstrap(clock, book=book_with())
    other = membership(
        OTHER_BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(OTHER_BOOTSTRAP), clock, book=book_with()
    )
    assert await meet(one, other) == (Access.MEMBER, Access.MEMBER)
