"""The count of an invite's uses at a bootstrap: who may use it, how often, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bootstrap.subclouds.invite_service import InviteService
from p2p.calls import Caller
from p2p.certificates import Certificate
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError, UntrustedError
from p2p.signing import KeyPair, Signed
from p2p.subclouds.invites import InviteSecret, VerifiedUse, make_subcloud_invite
from p2p.subclouds.memberships import RevocationList, open_membership_certificate
from p2p.types import PeerId, Role
from tests.fakes import trust
from tests.fakes.clocks import FakeClock
from tests.fakes.subcloud_board import DELEGATE, Board, a_policy

TEAM = a_policy().identity
NODE, OTHER = trust.NODE, trust.OTHER_NODE


class Uses:
    """Counts in memory."""

    def __init__(self) -> None:
        self.kept: dict[bytes, dict[PeerId, bytes]] = {}

    async def use_invite(
        self, use: VerifiedUse, make: Callable[[int], bytes], now_ms: int
    ) -> bytes | None:
        taken = self.kept.setdefault(use.invite_id, {})
        if use.peer_id not in taken:
            if len(taken) >= use.invite.uses:
                return None
            taken[use.peer_id] = make(len(taken) + 1)
        return taken[use.peer_id]


class Desk:
    """An invite service with its policies."""

    def __init__(self, **policy: Any) -> None:
        self.clock = FakeClock()
        self.board = Board(self.clock, a_policy(**policy))
        chain = (trust.certificate(trust.BOOTSTRAP.peer_id, Role.BOOTSTRAP),)
        self.service = InviteService(
            Uses(), self.board.book, trust.BOOTSTRAP, chain, trust.NETWORK, self.clock
        )
        self.policy = a_policy(**policy)

    def invite(self, uses: int = 1) -> InviteSecret:
        return make_subcloud_invite(
            DELEGATE,
            self.policy,
            uses=uses,
            lifetime_s=3600,
            membership_s=3600,
            now_ms=self.clock(),
        )

    async def use(self, invite: InviteSecret, node: KeyPair, caller: KeyPair | None = None) -> Any:
        signed = invite.use(node.peer_id, self.clock())
        who = caller or node
        leaf = trust.certificate(who.peer_id, Role.NODE)
        certificate = decode_message(leaf.body, Certificate)
        answer = await self.service.use(Caller(who.peer_id, certificate), encode_message(signed))
        return decode_message(answer, Signed)

    def revoke(self, **fields: Any) -> None:
        revocations = RevocationList(TEAM, 1, self.clock(), **fields)
        self.board.book.offer_revocations(DELEGATE.sign(trust.NETWORK, revocations))


async def test_an_invite_is_good_for_so_many_nodes() -> None:
    desk = Desk()
    invite = desk.invite(uses=1)
    signed = await desk.use(invite, NODE)
    found = open_membership_certificate(signed, desk.policy, NODE.peer_id, desk.clock() + 1)
    assert found.invite_id == invite.invite_id
    desk.clock.advance(60)
    assert await desk.use(invite, NODE) == signed  # asked again: the same, and no second use
    with pytest.raises(RefusedError) as used_up:
        await desk.use(invite, OTHER)
    assert used_up.value.code == "invite_used_up"
    two = desk.invite(uses=2)
    for node in (NODE, OTHER):
        again = await desk.use(two, node)
        open_membership_certificate(again, desk.policy, node.peer_id, desk.clock() + 1)


async def refused(desk: Desk, invite: InviteSecret, caller: KeyPair | None = None) -> str:
    with pytest.raises(RefusedError) as error:
        await desk.use(invite, NODE, caller)
    return error.value.code


async def test_what_is_refused() -> None:
    desk = Desk()
    invite = desk.invite()
    assert await refused(desk, invite, OTHER) == "not_authorized"
    other = make_subcloud_invite(
        DELEGATE, a_policy("lab"), uses=1, lifetime_s=60, membership_s=300, now_ms=desk.clock()
    )
    assert await refused(desk, other) == "unknown_subcloud"
    foreign = a_policy(delegate_keys=(trust.STRANGER.public_key.hex(),))
    strangers = make_subcloud_invite(
        trust.STRANGER, foreign, uses=1, lifetime_s=60, membership_s=300, now_ms=desk.clock()
    )
    assert await refused(desk, strangers) == "invite_refused"
    desk.clock.advance(3600)
    assert await refused(desk, invite) == "invite_refused"
    with pytest.raises(UntrustedError):
        forged = InviteSecret(trust.NETWORK, trust.STRANGER, desk.invite().invite)
        await desk.use(forged, NODE)


async def test_what_a_delegate_took_back() -> None:
    desk = Desk()
    invite = desk.invite()
    desk.revoke(revoked_invites=(invite.invite_id,))
    assert await refused(desk, invite) == "invite_refused"
    desk = Desk()
    desk.revoke(banned_peers=(NODE.peer_id,))
    assert await refused(desk, desk.invite()) == "banned"


async def test_an_open_subcloud_takes_no_invites() -> None:
    desk = Desk(join="open", callers={"anyone": True})
    assert await refused(desk, desk.invite()) == "invite_refused"
