"""The steward and the delegate's desk, over the gateway's real endpoints and a real policy book."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import P2PError
from p2p.signing import KeyPair
from p2p.subclouds.invites import InvitedMembership, make_subcloud_invite
from p2p.subclouds.memberships import (
    MembershipCertificate,
    RevocationList,
    is_revoked,
    open_membership_certificate,
)
from p2p.subclouds.requests import JoinDenial
from p2p.types import PeerId, Role
from resultity.errors import GatewayCallError, SettingsError
from resultity.subclouds import client as client_module
from resultity.subclouds.client import SubcloudClient
from resultity.subclouds.delegate_desk import DelegateDesk, Limits
from resultity.subclouds.delegate_files import RevocationMemory
from resultity.subclouds.steward import Steward, StewardRules
from resultity.subclouds.stewarding import StewardMemory
from tests.fakes import trust
from tests.fakes.clocks import FakeClock
from tests.fakes.subcloud_board import (
    DELEGATE,
    OWNER,
    URL,
    Board,
    a_policy,
    a_record,
    a_request,
    serve,
)

NODE, OTHER = trust.NODE.peer_id, trust.OTHER_NODE.peer_id
TEAM = a_policy().identity
DAY_S = 86_400


class World:
    """A board, a client, a desk and a steward on one clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **policy: Any) -> None:
        self.clock = FakeClock()
        self.folder = folder
        self.board = Board(self.clock, a_policy(**policy))
        serve(self.board, monkeypatch)
        self.client = SubcloudClient(URL, trust.NETWORK, self.clock)
        self.memory = RevocationMemory(folder / "lists")

    def desk(self, key: KeyPair = DELEGATE, memory: RevocationMemory | None = None) -> DelegateDesk:
        known = self.client.get("team")
        return DelegateDesk(self.client, key, known, memory or self.memory, self.clock)

    def steward(self, key: KeyPair = DELEGATE, **rules: Any) -> Steward:
        kept = StewardMemory(self.folder / "steward.json")
        return Steward(
            self.client, key, "team", StewardRules(**rules), self.memory, kept, self.clock
        )

    @property
    def revocations(self) -> RevocationList:
        found = self.board.book.revocations(TEAM)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


# --- the desk -------------------------------------------------------------------------------------
def test_admitting_a_node_that_asked(world: World) -> None:
    world.board.requests[NODE] = a_request(trust.NODE, TEAM, note="mine")
    desk = world.desk()
    (asked,) = desk.requests()
    assert (asked.request.peer_id, asked.request.note) == (NODE, "mine")
    desk.certify(NODE, Limits(7 * DAY_S, (bytes(32),), 3))
    signed = world.board.certificates[NODE]
    found = open_membership_certificate(signed, desk.known.policy, NODE, world.clock() + 1)
    assert (found.models, found.slots_max) == ((bytes(32),), 3)
    assert found.expires_ms == world.clock() + 7 * DAY_S * 1000
    assert not desk.requests()


def test_requests_that_prove_nothing_are_left_out(world: World) -> None:
    world.board.requests[OTHER] = replace(a_request(trust.NODE, TEAM), signature=bytes(64))
    world.board.requests[NODE] = a_request(trust.NODE, a_policy("other").identity)
    assert not world.desk().requests()


def test_a_denial_reaches_the_node(world: World) -> None:
    world.board.requests[NODE] = a_request(trust.NODE, TEAM)
    world.desk().deny(NODE, 60, "no GPU")
    (denial,) = world.board.answers[NODE]
    assert isinstance(denial, JoinDenial)
    assert (denial.reason, denial.until_ms) == ("no GPU", world.clock() + 60_000)


def test_banning_revoking_and_back(world: World) -> None:
    desk = world.desk()
    certificate = desk.certify(NODE)
    assert desk.ban([NODE]).number == 1
    assert is_revoked(certificate, world.revocations)
    with pytest.raises(SettingsError, match="banned"):
        desk.certify(NODE)
    desk.revoke(certificates=[certificate.certificate_id], tokens=[bytes(16)], invites=[b"i" * 16])
    desk.unban([NODE])
    found = world.revocations
    assert (found.number, found.banned_peers, found.revoked_tokens) == (3, (), (bytes(16),))
    assert found.revoked_invites == (b"i" * 16,)
    assert is_revoked(certificate, found)  # the single certificate is still taken back
    assert not is_revoked(desk.certify(NODE), found)


def test_two_delegates_lose_nothing(world: World, tmp_path: Path) -> None:
    first, second = world.desk(), world.desk(memory=RevocationMemory(tmp_path / "second"))
    first.ban([NODE])
    second.ban([OTHER])
    assert set(world.revocations.banned_peers) == {NODE, OTHER}


def test_an_older_list_from_a_gateway_brings_nobody_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = world.desk()
    desk.ban([NODE])
    behind = Board(world.clock, a_policy())  # a bootstrap that was restored from a backup
    serve(behind, monkeypatch)
    world.steward().round()
    found = behind.book.revocations(TEAM)
    assert found is not None
    assert (found.number, found.banned_peers) == (2, (NODE,))


def test_bans_outlast_the_delegate_who_signed_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.desk().ban([NODE])
    other = trust.key_pair(62)
    known = world.board.book.get(TEAM)
    assert known is not None
    new = a_policy(
        version=2, predecessor_digest=known.digest, delegate_keys=(other.public_key.hex(),)
    )
    world.client.publish(a_record(new))
    assert world.board.book.signed_revocations(TEAM) is None
    world.steward(other).round()
    assert world.revocations.banned_peers == (NODE,)
    with pytest.raises(SettingsError, match="does not name"):
        world.steward(DELEGATE).round()


def test_a_full_list_says_so(world: World) -> None:
    desk = world.desk()
    desk.revoke(tokens=[number.to_bytes(16, "big") for number in range(1000)])
    with pytest.raises(SettingsError, match="room for 1000 tokens"):
        desk.revoke(tokens=[b"x" * 16])


def test_a_gateway_that_is_asked_too_often_is_given_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    tired = iter([True, True, False])
    ask = client_module.get_json

    def get_json(url: str) -> Any:
        if next(tired, False):
            raise GatewayCallError("too many", status=429)
        return ask(url)

    monkeypatch.setattr(client_module, "get_json", get_json)
    patient = SubcloudClient(URL, trust.NETWORK, world.clock, pauses.append)
    assert patient.get("team").identity == TEAM
    assert len(pauses) == 2
    tired = iter([True] * 100)
    with pytest.raises(GatewayCallError):
        patient.get("team")
    assert len(pauses) < 20


def test_a_history_that_fits_no_answer_comes_in_parts(world: World) -> None:
    for version in range(2, 6):
        known = world.client.get("team")
        world.client.publish(a_record(a_policy(version=version, predecessor_digest=known.digest)))
    assert [known.policy.version for known in world.client.history("team")] == [5, 4, 3, 2, 1]


def test_a_stranger_is_refused(world: World) -> None:
    with pytest.raises(GatewayCallError):
        world.desk(trust.STRANGER).ban([NODE])
    with pytest.raises(GatewayCallError, match="owner and its delegates"):
        world.client.requests(TEAM, trust.STRANGER)
    assert not world.client.requests(TEAM, OWNER.signing)


# --- the steward ----------------------------------------------------------------------------------
def test_the_list_is_published_and_kept_young(world: World) -> None:
    steward = world.steward()
    assert steward.round().list_number == 1
    world.clock.advance(1199)  # a third of the hour that the policy allows
    assert steward.round().list_number == 1
    world.clock.advance(1)
    assert steward.round().list_number == 2
    assert world.revocations.issued_ms == world.clock()
    assert world.steward().round().list_number == 2  # a new run goes on


def test_it_approves_only_where_it_was_told_to(world: World) -> None:
    world.board.requests[NODE] = a_request(trust.NODE, TEAM)
    world.board.would[NODE] = {"known": True, "qualifies": True, "failed": []}
    assert world.steward().round().waiting == 1
    assert not world.board.certificates
    done = world.steward(auto_approve=True).round()
    assert (done.approved, done.waiting) == ([NODE], 0)
    assert NODE in world.board.certificates


@pytest.mark.parametrize(
    "would",
    [
        {},
        {"known": False, "qualifies": True},
        {"known": True, "qualifies": False, "failed": [{"criterion": "region"}]},
    ],
)
def test_it_approves_nobody_who_does_not_qualify(world: World, would: dict[str, Any]) -> None:
    world.board.requests[NODE] = a_request(trust.NODE, TEAM)
    if would:
        world.board.would[NODE] = would
    assert world.steward(auto_approve=True).round().waiting == 1
    assert not world.board.certificates


def test_it_keeps_bans_cooldown_and_the_number_of_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch, members_max=1, cooldown_s=3600)
    board, steward = world.board, world.steward(auto_approve=True)
    for node in (trust.NODE, trust.OTHER_NODE):
        board.requests[node.peer_id] = a_request(node, TEAM)
        board.would[node.peer_id] = {"qualifies": True}
    board.join(NODE, "left")
    done = steward.round()
    assert (done.approved, done.waiting) == ([OTHER], 1)  # NODE left a moment ago
    board.join(OTHER)
    world.clock.advance(3600)
    done = steward.round()
    assert (done.approved, done.waiting, done.joined) == ([], 1, [OTHER])  # no room
    board.join(OTHER, "left")
    world.desk().ban([NODE])
    done = steward.round()
    assert (done.approved, done.left) == ([], [OTHER])


def test_it_renews_while_the_member_qualifies(world: World) -> None:
    world.desk().certify(NODE, Limits(3 * DAY_S, (bytes(32),), 2))
    world.board.join(NODE)
    world.board.would[NODE] = {"qualifies": True}
    steward = world.steward(certificate_lifetime_s=3 * DAY_S)
    assert not steward.round().renewed
    world.clock.advance(2 * DAY_S)
    assert steward.round().renewed == [NODE]
    assert not world.steward(certificate_lifetime_s=3 * DAY_S).round().renewed  # once is enough
    second = world.board.certificates[NODE]
    found = open_membership_certificate(second, a_policy(), NODE, world.clock() + 1)
    assert (found.models, found.slots_max) == ((bytes(32),), 2)
    assert found.expires_ms == world.clock() + 3 * DAY_S * 1000


def test_a_membership_by_invite_becomes_a_delegates(world: World) -> None:
    invite = make_subcloud_invite(
        DELEGATE,
        a_policy(),
        uses=1,
        lifetime_s=60,
        membership_s=DAY_S,
        now_ms=world.clock(),
        slots_max=2,
    )
    chain = (trust.certificate(trust.BOOTSTRAP.peer_id, Role.BOOTSTRAP),)
    use = InvitedMembership(invite.use(NODE, world.clock()), 1, world.clock(), chain)
    world.board.certificates[NODE] = trust.BOOTSTRAP.sign(trust.NETWORK, use)
    world.board.join(NODE)
    world.board.would[NODE] = {"qualifies": True}
    world.clock.advance(DAY_S - 3600)
    assert world.steward().round().renewed == [NODE]
    signed = world.board.certificates[NODE]
    assert signed.signer == DELEGATE.public_key
    found = open_membership_certificate(signed, a_policy(), NODE, world.clock() + 1)
    assert (found.slots_max, found.invite_id) == (2, b"")


@pytest.mark.parametrize(
    ("failed", "renewed"), [("region", []), ("uptime", [NODE]), ("models", [])]
)
def test_who_does_not_qualify_runs_out(world: World, failed: str, renewed: list[PeerId]) -> None:
    world.desk().certify(NODE, Limits(DAY_S))
    world.board.join(NODE)
    world.board.would[NODE] = {"qualifies": False, "failed": [{"criterion": failed}]}
    world.clock.advance(DAY_S - 3600)
    assert world.steward(certificate_lifetime_s=DAY_S).round().renewed == renewed


@pytest.mark.parametrize("reason", ["revoked", "banned", "left", "not seen", "no renewal"])
def test_who_is_out_is_not_renewed(world: World, reason: str) -> None:
    desk = world.desk()
    certificate = desk.certify(NODE, Limits(DAY_S))
    world.board.join(NODE)
    world.board.would[NODE] = {"qualifies": True}
    world.clock.advance(DAY_S - 3600)
    rules: dict[str, Any] = {"certificate_lifetime_s": DAY_S}
    if reason == "revoked":
        desk.revoke(certificates=[certificate.certificate_id])
    elif reason == "banned":
        desk.ban([NODE])
    elif reason == "left":
        world.board.join(NODE, "left")
    elif reason == "not seen":
        world.board.would.clear()
    else:
        rules["renew"] = False
    assert not world.steward(**rules).round().renewed


def test_many_renewals_take_several_rounds(world: World) -> None:
    world.board.requests.clear()
    for number in range(100, 125):
        peer_id = trust.key_pair(number).peer_id
        world.desk().certify(peer_id, Limits(DAY_S))
        world.board.join(peer_id)
        world.board.would[peer_id] = {"qualifies": True}
    world.clock.advance(DAY_S - 3600)
    steward = world.steward(certificate_lifetime_s=DAY_S)
    assert [len(steward.round().renewed) for _ in range(3)] == [20, 5, 0]


def test_a_round_that_fails_is_done_again(world: World) -> None:
    steward = world.steward()
    world.board.unreachable = True
    with pytest.raises(GatewayCallError):
        steward.round()
    world.board.unreachable = False
    assert steward.round().list_number == 1


def test_an_open_subcloud_needs_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch, join="open", callers={"anyone": True})
    steward = world.steward()
    assert not steward.round().joined
    world.board.join(NODE)
    done = steward.round()
    assert (done.list_number, done.joined) == (0, [NODE])
    with pytest.raises(SettingsError, match="open"):
        world.desk().certify(NODE)
    assert world.board.book.revocations(TEAM) is None


def test_memory_survives_and_damage_is_told(world: World) -> None:
    world.board.join(NODE)
    assert not world.steward().round().joined  # before it ran for the first time
    world.board.join(OTHER)
    assert world.steward().round().joined == [OTHER]
    assert not world.steward().round().joined
    (world.folder / "steward.json").write_text("[1]")
    with pytest.raises(Exception, match="damaged"):
        world.steward()


def test_documents_are_what_they_say(world: World) -> None:
    certificate = world.desk().certify(NODE)
    assert isinstance(certificate, MembershipCertificate)
    for signed in world.client.certificates(TEAM, DELEGATE):
        open_membership_certificate(signed, a_policy(), NODE, world.clock() + 1)
        with pytest.raises(P2PError):
            open_membership_certificate(signed, a_policy("other"), NODE, world.clock() + 1)
