"""Who qualifies at a gateway: equal to a slow, obvious reference, whatever happens."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import STATEMENTS_PER_SESSION_BURST
from gateway.peer.routing import Wanted, choose
from gateway.peer.sessions import NodeSession
from gateway.subclouds.placing import Place
from gateway.subclouds.selection import candidates_of, with_fallback
from p2p.errors import StaleError, UntrustedError
from p2p.signing import Signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.index import GLOBAL_POOL
from p2p.subclouds.memberships import MembershipFrame
from p2p.types import PeerId
from tests.fakes.directory_world import LABELS, NODES, DirectoryWorld
from tests.fakes.subclouds import DIGESTS, a_model, identity_of

EXAMPLES = 2000 if os.environ.get("RESULTITY_SOAK") == "1" else 60


def check_all(world: DirectoryWorld) -> None:
    """The index, the routing and the fallback say what is so, for every subcloud and model."""
    directory, now_ms = world.directory, world.clock()
    for identity in (*map(identity_of, LABELS), GLOBAL_POOL):
        known = world.book.known.get(identity)
        for model in DIGESTS:
            right = world.may_serve(identity, model) if identity else world.in_pool(model)
            found = set(directory.qualified(identity, model))
            if known is None or known.policy.members_max > len(NODES):
                assert found == right
            else:
                assert found <= right
                assert len(found) <= known.policy.members_max
            wanted = Wanted(model, 8)
            choice = choose(
                wanted,
                candidates_of(world.registry, directory, identity, model),
                tried=(),
                now_s=0.0,
                now_ms=now_ms,
            )
            assert (choice.candidate is None) is (not found)
            assert choice.candidate is None or choice.candidate.peer_id in right
            if known is not None:
                place = Place("model", known, identity)
                after = with_fallback(
                    place, wanted, world.registry, directory, now_s=0.0, now_ms=now_ms
                )
                may = known.policy.fallback == "global" and not found
                assert after.fell_back is may


@given(st.integers(0, 2**32))
@settings(max_examples=EXAMPLES)
def test_who_qualifies_is_what_a_slow_reference_says(seed: int) -> None:
    world = DirectoryWorld(seed)
    world.populate()
    for _ in range(25):
        world.happen()
        check_all(world)


# --- one by one -----------------------------------------------------------------------------------
@pytest.fixture
def world() -> DirectoryWorld:
    made = DirectoryWorld()
    for pair in NODES:
        made.advertise(pair, models=(a_model(0),), banned=False)
    return made


PLAIN = {
    "join": "open",
    "isolate": False,
    "fallback": "none",
    "cooldown_s": 0,
    "members_max": 10_000,
    "regions": {},
    "models": {},
    "expires_ms": 2**50,
    "revocation_list_age_s_max": 60,
}
ALPHA = identity_of("alpha")


def qualified(world: DirectoryWorld, identity: SubcloudId = ALPHA) -> set[PeerId]:
    return set(world.directory.qualified(identity, DIGESTS[0]))


def joined(world: DirectoryWorld, number: int = 0, *, isolates: bool = False) -> PeerId:
    node = world.nodes[NODES[number].peer_id]
    world.join(node, ALPHA, isolates=isolates)
    world.say(node)
    return node.pair.peer_id


def test_a_new_policy_counts_after_its_grace_only_for_who_agrees(world: DirectoryWorld) -> None:
    world.publish("alpha", **PLAIN)
    peer_id = joined(world)
    assert qualified(world) == {peer_id}
    world.publish("alpha", **PLAIN, contact="someone else")
    assert qualified(world) == {peer_id}
    world.clock.now_ms += 60_000
    assert not qualified(world)
    world.join(world.nodes[peer_id], ALPHA)
    world.say(world.nodes[peer_id])
    assert qualified(world) == {peer_id}


def test_members_with_certificates_need_a_revocation_list_that_is_young(
    world: DirectoryWorld,
) -> None:
    world.publish("alpha", **PLAIN | {"join": "private"})
    peer_id, other = joined(world), joined(world, 1)
    assert not qualified(world)
    counted = world.directory.removed(ALPHA, DIGESTS[0])
    assert counted == {"membership": 2}
    world.put_list("alpha")
    assert qualified(world) == {peer_id, other}
    world.clock.now_ms += 60_000
    assert not qualified(world)
    world.put_list("alpha", other)
    assert qualified(world) == {peer_id}
    verdicts = world.directory.evaluations(ALPHA)[other].failed
    assert verdicts[0].found == "revoked"


def test_a_revoked_member_that_is_admitted_again_waits_for_the_cooldown(
    world: DirectoryWorld,
) -> None:
    rules = PLAIN | {"join": "private", "cooldown_s": 30, "revocation_list_age_s_max": 10_000}
    world.publish("alpha", **rules)
    world.put_list("alpha")
    peer_id = joined(world)
    world.put_list("alpha", peer_id)
    pardoned = replace(world.book.lists[ALPHA], number=9, banned_peers=())
    world.book.put_list(pardoned)
    assert not qualified(world)
    world.clock.now_ms += 30_000
    assert qualified(world) == {peer_id}


def test_isolation_outlasts_a_membership_that_does_not_count(world: DirectoryWorld) -> None:
    world.publish("alpha", **PLAIN | {"isolate": True})
    peer_id = joined(world, isolates=True)
    assert qualified(world) == {peer_id}
    assert peer_id not in qualified(world, GLOBAL_POOL)
    world.publish("alpha", **PLAIN | {"isolate": True}, contact="new")
    world.clock.now_ms += 61_000
    assert not qualified(world)
    assert peer_id not in qualified(world, GLOBAL_POOL)  # its consent holds
    world.clock.now_ms += 300_000
    assert peer_id in qualified(world, GLOBAL_POOL)  # until its statement ends


def test_consent_to_an_unknown_subcloud_isolates_and_to_a_banned_one_does_not(
    world: DirectoryWorld,
) -> None:
    peer_id = joined(world, isolates=True)
    assert peer_id not in qualified(world, GLOBAL_POOL)
    world.publish("alpha", **PLAIN | {"isolate": True})
    world.banned.add(ALPHA)
    world.configure()
    assert not qualified(world)
    assert peer_id in qualified(world, GLOBAL_POOL)


def test_those_who_joined_first_have_the_places(world: DirectoryWorld) -> None:
    world.publish("alpha", **PLAIN | {"members_max": 2})
    members = []
    for number in range(4):
        members.append(joined(world, number))
        world.clock.now_ms += 1000
    assert qualified(world) == set(members[:2])
    node = world.nodes[members[0]]
    del node.memberships[ALPHA]
    world.say(node)
    world.directory.tick()
    assert qualified(world) == set(members[1:3])


def test_who_says_that_it_joined_long_ago_is_known_better(world: DirectoryWorld) -> None:
    world.publish("alpha", **PLAIN | {"members_max": 1})
    liar = world.nodes[NODES[1].peer_id]
    world.say(liar)
    world.clock.now_ms += 1000
    first = joined(world)
    world.clock.now_ms += 1000
    world.join(liar, ALPHA)
    liar.memberships[ALPHA] = replace(liar.memberships[ALPHA], joined_ms=1)
    world.say(liar)
    world.directory.tick()
    assert qualified(world) == {first}
    world.directory.member_seen(ALPHA, liar.pair.peer_id, 1, 0)  # a bootstrap knows better
    world.directory.tick()
    assert qualified(world) == {liar.pair.peer_id}


def test_a_node_that_denies_is_believed_until_its_next_statement(world: DirectoryWorld) -> None:
    world.publish("alpha", **PLAIN)
    peer_id = joined(world)
    world.directory.denied(peer_id, ALPHA)
    assert not qualified(world)
    world.say(world.nodes[peer_id])
    assert qualified(world) == {peer_id}
    world.directory.denied(peer_id, GLOBAL_POOL)
    assert peer_id not in qualified(world, GLOBAL_POOL)
    world.clock.now_ms += 10_000
    world.directory.tick()
    assert peer_id in qualified(world, GLOBAL_POOL)


def test_a_statement_counts_only_from_the_node_that_it_is_about(world: DirectoryWorld) -> None:
    node = world.nodes[NODES[0].peer_id]
    old = world.say(node)
    world.say(node)
    with pytest.raises(StaleError):
        world.directory.take_statement(old)
    node.sequence += 1
    with pytest.raises(UntrustedError):
        world.directory.take_statement(world.say(node), NODES[1].peer_id)


def test_what_nodes_make_up_leaves_nothing_behind(world: DirectoryWorld) -> None:
    node = world.nodes[NODES[0].peer_id]
    for number in range(30):
        node.memberships.clear()
        world.join(node, identity_of(f"made-up-{number}"), isolates=True)
        world.say(node)
    node.memberships.clear()
    world.say(node)
    assert not world.directory._index._waiting
    assert not world.directory._members._by_subcloud
    assert not world.directory._members._left


async def test_a_node_that_states_without_end_is_heard_now_and_then() -> None:
    heard: list[Signed] = []
    link = cast(Any, SimpleNamespace(remote=NODES[0].peer_id))
    session = NodeSession(link, lambda report: None, lambda signed, sender: heard.append(signed))
    signed = Signed(b"", b"", b"")
    session.on_messages([MembershipFrame(signed)] * 1000)
    assert len(heard) == STATEMENTS_PER_SESSION_BURST


def test_a_cooldown_begins_when_the_leave_is_heard_not_when_it_is_dated(
    world: DirectoryWorld,
) -> None:
    world.publish("alpha", **PLAIN | {"cooldown_s": 600})
    peer_id = joined(world)
    node = world.nodes[peer_id]
    del node.memberships[ALPHA]
    world.say(node, dated_back_ms=3_000_000)
    joined(world)
    assert not qualified(world)
    world.clock.now_ms += 600_000
    world.say(node)
    assert qualified(world) == {peer_id}
