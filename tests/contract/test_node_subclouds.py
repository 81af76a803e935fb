"""A node's memberships over both networks: policies, statements, requests, revocations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from node.subclouds.settings import SubcloudSettings
from node.subclouds.wishes import Wish, Wishes, read_wishes, wishes_path
from p2p.job_messages import OfferFrame, RefuseFrame
from p2p.signing import open_signed
from p2p.subclouds.invites import make_subcloud_invite
from p2p.subclouds.memberships import MembershipFrame, MembershipStatement
from tests.fakes.job_desk import Desk
from tests.fakes.member_network import MemberNetwork, Opener, libp2p_opener, memory_opener
from tests.fakes.networks import eventually, process_free_of_networks
from tests.fakes.trust import GATEWAY, NETWORK, NODE

T = TypeVar("T")

OPENERS = {"memory": memory_opener, "libp2p": libp2p_opener}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at every few seconds is looked at all the time."""
    for name in (
        "p2p.subclouds.sync.SUBCLOUD_POLL_INTERVAL_S",
        "node.subclouds.service.SUBCLOUD_POLL_INTERVAL_S",
        "node.subclouds.service.WISHES_LOOK_INTERVAL_S",
        "node.subclouds.service.CERTIFICATE_POLL_S",
    ):
        monkeypatch.setattr(name, 0.1)


@pytest.fixture(params=sorted(OPENERS))
def opener(request: pytest.FixtureRequest) -> Iterator[Opener]:
    with process_free_of_networks():
        yield OPENERS[request.param]()


async def test_joins_by_pattern_follows_the_policy_and_leaves(
    opener: Opener, tmp_path: Path
) -> None:
    world = MemberNetwork(tmp_path)
    identity = world.owner.identity
    async with world.running(opener, SubcloudSettings(auto_join=("cloud-*",))):
        first = await world.publish()
        await eventually(lambda: world.last_heard() == (identity,))
        second = await world.publish(contact="second")
        assert first != second
        await eventually(
            lambda: any(
                membership.policy_digest.hex() == second
                for statement in world.heard
                for membership in statement.memberships
            )
        )
        # The bootstrap keeps the statement for who comes late.
        assert [signed.peer_id for signed in await world.directory.memberships(identity)] == [
            NODE.peer_id
        ]
        world.tell(lambda wishes: wishes.with_left(identity))
        await eventually(lambda: world.last_heard() == () and world.state() == "out")
        assert world.manager.kept.left_ms.keys() == {identity}


async def test_asks_a_semi_open_subcloud_and_is_revoked(opener: Opener, tmp_path: Path) -> None:
    world = MemberNetwork(tmp_path)
    identity = world.owner.identity
    async with world.running(opener, SubcloudSettings()):
        await world.publish(join="semi-open", isolate=True)
        await world.revoke()
        world.tell(lambda wishes: wishes.with_join("cloud-1", Wish(note="please")))
        world.tell(lambda wishes: wishes.with_isolate(identity))
        await eventually(lambda: world.state() == "asking")
        await eventually(partial(_asked, world))
        (request,) = await world.requests()
        assert (request.peer_id, request.note) == (NODE.peer_id, "please")
        world.service.troubles[identity] = "what its owner said when it denied an older request"
        await world.directory.put_certificate(world.owner.certify(NODE.peer_id, world.clock_ms()))
        await eventually(lambda: world.state() == "member")
        assert identity not in world.service.troubles
        assert world.manager.isolated == identity
        await eventually(lambda: world.last_heard() == (identity,))
        await world.revoke(banned=True)
        await eventually(lambda: world.state() == "out" and world.manager.isolated == "")
        await eventually(lambda: world.last_heard() == ())


async def _asked(world: MemberNetwork) -> bool:
    return len(await world.requests()) == 1


async def test_joins_a_private_subcloud_by_invite(opener: Opener, tmp_path: Path) -> None:
    world = MemberNetwork(tmp_path)
    identity = world.owner.identity
    async with world.running(opener, SubcloudSettings()):
        await world.publish(join="private")
        await world.revoke()
        secret = make_subcloud_invite(
            world.owner.delegate,
            world.owner.newest.policy,
            uses=1,
            lifetime_s=600,
            membership_s=600,
            now_ms=world.clock_ms(),
        )
        world.tell(lambda wishes: wishes.with_join(identity, Wish(secret.text())))
        await eventually(lambda: world.state() == "member")
        await eventually(lambda: world.last_heard() == (identity,))
        kept = world.manager.kept.memberships[identity]
        assert kept.membership.certificate is not None
        # It was used, and it is a secret: it is gone.
        path, used = wishes_path(tmp_path), Wishes(((identity, Wish()),))
        await eventually(lambda: bool(read_wishes(path) == used))


async def test_a_name_that_leads_nowhere_is_said_and_followed_later(tmp_path: Path) -> None:
    world = MemberNetwork(tmp_path)
    async with world.running(memory_opener(), SubcloudSettings(auto_join=("cloud-1",))):
        await eventually(lambda: "cloud-1" in world.service.troubles)
        await world.publish()
        await eventually(lambda: world.state() == "member")
        assert world.service.troubles == {}


async def test_sessions_hear_of_isolation_and_global_jobs_are_refused(
    opener: Opener, tmp_path: Path
) -> None:
    world = MemberNetwork(tmp_path)
    identity = world.owner.identity
    async with world.running(opener, SubcloudSettings()), world.session() as (link, came):

        def said(kind: type[T]) -> list[T]:
            return [item for item in came if isinstance(item, kind)]

        await eventually(lambda: bool(said(MembershipFrame)))  # it declares a country
        await world.publish(isolate=True)
        world.tell(lambda wishes: wishes.with_isolate(identity))
        await eventually(lambda: _isolating(said(MembershipFrame)[-1]) == [identity])
        offer = Desk().offer()  # of the global pool
        now_ms = world.clock_ms()
        offer = replace(offer, issued_ms=now_ms, deadline_ms=now_ms + 60_000)
        link.send(OfferFrame(1, GATEWAY.sign(NETWORK, offer)))
        await eventually(lambda: bool(said(RefuseFrame)))
        assert said(RefuseFrame)[0].code == "isolated"


def _isolating(frame: MembershipFrame) -> list[str]:
    statement = open_signed(frame.statement, MembershipStatement, NETWORK)
    return [found.subcloud_id for found in statement.memberships if found.isolates]
