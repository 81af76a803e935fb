"""Who wants into a subcloud, is let in, and is in: what bootstraps carry and keep of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from bootstrap.subclouds.invite_uses import LedgerInviteUses
from ledger.store.directory_members import note_memberships
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError, StaleError, UntrustedError
from p2p.subclouds.directory_messages import LEFT, SubcloudQuestion
from p2p.subclouds.invites import SubcloudInvite, VerifiedUse
from p2p.subclouds.requests import JoinDenial, sign_request
from p2p.types import Role
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.ledger_world import key_pair
from tests.fakes.policy_owners import DELEGATE, PolicyOwner, revocation_list
from tests.fakes.subcloud_desk import (
    HOUR_MS,
    SubcloudDesk,
    certificate_for,
    certificates_in,
    join_request,
    open_desk,
    refused,
    statement,
)
from tests.fakes.trust import NETWORK, NODE, OTHER_NODE


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """Where the kind of database makes no difference."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


# --- requests and certificates --------------------------------------------------------------------
async def test_a_request_is_answered_without_meeting(url: str) -> None:
    clock, owner = FakeClock(), PolicyOwner(1)
    team = owner.identity()
    async with open_desk(url, clock) as desk, open_desk(url, clock) as beside:
        await desk.found(owner)
        await desk.as_peer().publish(owner.record(join="semi-open"))
        await beside.parts.registry.catch_up()
        node = desk.as_peer(NODE, Role.NODE)
        await node.put_request(join_request(NODE, team, START_MS))
        with pytest.raises(RefusedError, match="for itself"):
            await desk.as_peer().put_request(join_request(OTHER_NODE, team, START_MS))
        await beside.as_peer(OTHER_NODE, Role.NODE).put_request(
            join_request(OTHER_NODE, team, START_MS)
        )

        async def requests(signer, **options):  # type: ignore[no-untyped-def]
            question = sign_request(signer, NETWORK, team, "requests", clock(), **options)
            return await desk.as_peer().requests(question)

        assert len(await requests(DELEGATE)) == 2
        assert len(await requests(owner.key)) == 2
        with pytest.raises(UntrustedError):
            await requests(NODE)
        question = sign_request(DELEGATE, NETWORK, team, "requests", clock())
        await desk.as_peer().requests(question)
        with pytest.raises(StaleError):  # whoever carries a question cannot ask it again
            await desk.as_peer().requests(question)
        with pytest.raises(UntrustedError):
            await desk.as_peer().put_certificate(certificate_for(NODE, team, START_MS, signer=NODE))
        await desk.as_peer().put_certificate(certificate_for(NODE, team, START_MS))
        assert len(await requests(DELEGATE)) == 1
        [granted] = certificates_in(await node.certificates())
        assert (granted.peer_id, granted.subcloud_id) == (NODE.peer_id, team)
        assert not await desk.as_peer(OTHER_NODE, Role.NODE).certificates()
        denial = JoinDenial(team, OTHER_NODE.peer_id, START_MS, START_MS + HOUR_MS, "no")
        await desk.as_peer().put_denial(DELEGATE.sign(NETWORK, denial))
        other = beside.as_peer(OTHER_NODE, Role.NODE)
        [answer] = await other.certificates("team")
        assert decode_message(answer.body, JoinDenial) == denial
        await refused("join_denied", other.put_request(join_request(OTHER_NODE, team, START_MS)))
        clock.advance(3601)
        await other.put_request(join_request(OTHER_NODE, team, clock()))
        assert not await other.certificates()  # both have ended
        assert len(await requests(DELEGATE)) == 1
        await other.put_request(join_request(OTHER_NODE, team, clock(), withdrawn=True))
        assert not await requests(DELEGATE)


async def test_who_may_ask_to_join(sqlite: str, monkeypatch) -> None:
    from bootstrap.subclouds import join_service

    monkeypatch.setattr(join_service, "JOIN_REQUESTS_PER_NODE_MAX", 1)
    owner = PolicyOwner(1)
    async with open_desk(sqlite) as desk:
        await desk.found(owner)
        for label, join in (("free", "open"), ("one", "semi-open"), ("two", "semi-open")):
            await desk.as_peer().publish(owner.record(label, join=join))
        await desk.as_peer().publish(owner.record("secret", join="private"))
        node = desk.as_peer(NODE, Role.NODE)

        def ask(label: str):  # type: ignore[no-untyped-def]
            return node.put_request(join_request(NODE, owner.identity(label), START_MS))

        await refused("join_open", ask("free"))
        await refused("invitation_needed", ask("secret"))
        await ask("one")
        await refused("too_many_requests", ask("two"))
        banned = revocation_list(owner.identity("one"), 1, NODE.peer_id)
        await desk.as_peer().put_revocations(banned)
        await refused("join_denied", ask("one"))
        # A member of a private subcloud may ask for more time.
        identity = owner.identity("secret")
        await desk.as_peer().put_certificate(certificate_for(NODE, identity, START_MS))
        monkeypatch.setattr(join_service, "JOIN_REQUESTS_PER_NODE_MAX", 2)
        await ask("secret")


# --- members --------------------------------------------------------------------------------------
async def test_joins_and_leaves_are_logged_once_and_a_cooldown_can_be_counted(url: str) -> None:
    clock, owner = FakeClock(), PolicyOwner(1)
    free, closed = owner.identity("free"), owner.identity("closed")
    async with open_desk(url, clock) as desk, open_desk(url, clock) as beside:
        await desk.found(owner)
        await desk.as_peer().publish(owner.record("free"))
        await desk.as_peer().publish(owner.record("closed", join="private"))
        await beside.parts.registry.catch_up()

        async def say(sequence: int, *memberships) -> None:  # type: ignore[no-untyped-def]
            signed = statement(NODE, sequence, clock(), *memberships)
            async with trio.open_nursery() as nursery:
                for each in (desk, beside):
                    await each.as_peer().tell(signed)
                    nursery.start_soon(_note, each)

        await say(1, (free, None), (closed, None))  # without a certificate it is none of closed
        members = await desk.as_peer().members("free")
        assert [(m.joined_ms, m.left_ms) for m in members] == [(START_MS, 0)]
        assert not await desk.as_peer().members("closed")
        clock.advance(10)
        await say(2, (closed, certificate_for(NODE, closed, clock())))
        [left] = await beside.as_peer().members("free")
        assert (left.joined_ms, left.left_ms) == (START_MS, START_MS + 10_000)
        with pytest.raises(StaleError):
            await desk.as_peer().tell(statement(NODE, 1, clock(), (free, None)))
        clock.advance(10)
        await say(3, (free, None))
        [back] = await desk.as_peer().members("free")
        assert (back.joined_ms, back.left_ms) == (START_MS + 20_000, START_MS + 10_000)
        question = sign_request(owner.key, NETWORK, free, "joins", clock())
        events = await desk.as_peer().joins(question)
        assert [event.what for event in events] == ["joined", LEFT, "joined"]
        live = await desk.as_peer().memberships("free")
        assert live == await beside.as_peer().memberships()
        assert not await desk.as_peer().memberships("closed")
        assert not await desk.as_peer().memberships(after=NODE.peer_id)


async def _note(desk: SubcloudDesk) -> None:
    members = desk.parts._members
    told, members._to_note = members._to_note, {}
    now_ms = desk.clock()
    await desk.ledger.change_beside(
        lambda c: note_memberships(
            c, [(peer_id, *said) for peer_id, said in told.items()], now_ms, members_max=10
        )
    )


async def test_the_uses_of_an_invite_are_counted_for_all_bootstraps_together(url: str) -> None:
    owner = PolicyOwner(1)
    team = owner.identity()
    invite = SubcloudInvite(team, bytes(32), 3, START_MS, START_MS + HOUR_MS, 3600)
    answers: list[bytes | None] = []
    async with open_desk(url) as one, open_desk(url) as two:

        async def use(desk: SubcloudDesk, number: int) -> None:
            verified = VerifiedUse(
                invite, bytes(16), bytes(32), key_pair(500 + number).peer_id, START_MS
            )
            answers.append(
                await LedgerInviteUses(desk.ledger).use_invite(
                    verified, lambda n: encode_message(SubcloudQuestion(str(n))), START_MS
                )
            )

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(use, (one, two)[number % 2], number)
        given = sorted(answer for answer in answers if answer is not None)
        assert given == [encode_message(SubcloudQuestion(str(n))) for n in (1, 2, 3)]
        before = len(answers)
        for number in range(5):  # who has one gets the same again, the others none
            await use(two, number)
        assert sorted(a for a in answers[before:] if a is not None) == given
