"""Invites to subclouds at two bootstraps on one database: however many race, no more get in."""

from __future__ import annotations

import trio

from p2p.calls import Caller
from p2p.certificates import Certificate
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError
from p2p.signing import KeyPair, Signed
from p2p.subclouds.invites import USE_INVITE, InviteSecret, make_subcloud_invite
from p2p.subclouds.memberships import open_membership_certificate
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.requests import sign_request
from p2p.types import Role
from tests.fakes.policy_owners import DELEGATE, PolicyOwner
from tests.fakes.subcloud_desk import HOUR_MS, SubcloudDesk, certificate_for, open_desk
from tests.fakes.trust import NETWORK, SOME_ACCOUNT, key_pair


async def use(desk: SubcloudDesk, invite: InviteSecret, node: KeyPair) -> Signed:
    now_ms = desk.clock()
    end_ms = now_ms + HOUR_MS
    certificate = Certificate(NETWORK, node.peer_id, Role.NODE, SOME_ACCOUNT, now_ms, end_ms)
    body = encode_message(invite.use(node.peer_id, now_ms))
    answer = await desk.handlers[USE_INVITE](Caller(node.peer_id, certificate), body)
    return decode_message(answer, Signed)


async def test_no_more_get_in_than_an_invite_says(url: str) -> None:
    owner = PolicyOwner(1)
    record = owner.record(join="private")
    policy = SubcloudPolicy.model_validate_json(record.policy.body)
    nodes = [key_pair(number) for number in range(100, 108)]
    taken: dict[KeyPair, Signed] = {}
    refused: list[str] = []
    async with open_desk(url) as desk, open_desk(url) as beside:
        await desk.found(owner)
        await desk.as_peer().publish(record)
        await beside.parts.load()
        now_ms = desk.clock()
        invite = make_subcloud_invite(
            DELEGATE, policy, uses=3, lifetime_s=3600, membership_s=3600, now_ms=now_ms
        )

        async def come(at: SubcloudDesk, node: KeyPair) -> None:
            try:
                taken[node] = await use(at, invite, node)
            except RefusedError as error:
                refused.append(error.code)

        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                nursery.start_soon(come, (desk, beside)[number % 2], node)
        assert (len(taken), refused) == (3, ["invite_used_up"] * 5)
        for node, signed in taken.items():
            found = open_membership_certificate(signed, policy, node.peer_id, now_ms + 1)
            assert found.invite_id == invite.invite_id
            assert await use(beside, invite, node) == signed  # asked again: nothing is used up
        asked = sign_request(DELEGATE, NETWORK, policy.identity, "certificates", now_ms)
        kept = await desk.as_peer().issued(asked)
        assert sorted(s.body for s in kept) == sorted(s.body for s in taken.values())

        # A delegate's own certificate replaces it, and using the invite again changes nothing.
        node = next(iter(taken))
        desk.clock.advance(60)
        renewed = certificate_for(node, policy.identity, desk.clock())
        await desk.as_peer().put_certificate(renewed)
        await use(desk, invite, node)
        assert await desk.as_peer(node, Role.NODE).certificates() == [renewed]
