"""Invites for nodes: their strings, what they prove, and who may use what somebody else sent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.account_file import create_account
from p2p.admission import JoinRequest, join_request, verify_join_request
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.node_invites import (
    JoinInvite,
    NodeAdmission,
    NodeBinding,
    open_admission,
    parse_invite_for,
    parse_join_text,
)
from p2p.opening_messages import open_opening
from p2p.signing import KeyPair, Signed
from resultity.account_invites import make_invite
from resultity.errors import SettingsError
from resultity.node_invites import make_node_invite
from tests.fakes import trust
from tests.fakes.clocks import START_MS

ADDRESS = f"/ip4/192.0.2.1/tcp/4001/p2p/{trust.BOOTSTRAP.peer_id}"
INVITE = make_node_invite(trust.AUTHORITY, trust.NETWORK, (ADDRESS,), 3, 86_400, START_MS)
TEXT = INVITE.text()
ACCOUNT = create_account(trust.NETWORK, lambda: START_MS, bytes(16))[0]
OTHER = create_account(trust.NETWORK, lambda: START_MS, bytes(16))[0]


def request(node: KeyPair = trust.NODE, invite: JoinInvite | None = INVITE) -> Signed:
    return join_request(node, ACCOUNT, trust.NETWORK, "resultity/test", START_MS, invite)


def test_a_string_carries_the_network_and_where_to_join() -> None:
    assert len(TEXT) < 450
    found = parse_join_text(TEXT)
    assert found == replace(INVITE, keys=found.keys)
    assert (found.network, found.bootstraps, found.by_authority) == (
        trust.NETWORK,
        (ADDRESS,),
        True,
    )
    assert (found.document.uses, found.document.expires_ms) == (3, START_MS + 86_400_000)
    assert found.text() == TEXT
    broken = "\n".join(TEXT[at : at + 76] for at in range(0, len(TEXT), 76))  # by a mail program
    assert parse_join_text(f"  {broken}\n").text() == TEXT
    delegate = make_node_invite(trust.STRANGER, trust.NETWORK, (ADDRESS,), 1, 60, START_MS)
    assert not delegate.by_authority


@given(st.integers(3, len(TEXT) - 1), st.sampled_from("AZaz09-_%="))
def test_a_string_with_one_wrong_character_is_told(place: int, character: str) -> None:
    changed = TEXT[:place] + character + TEXT[place + 1 :]
    if changed == TEXT:
        return
    with pytest.raises(MalformedError, match="damaged"):
        parse_join_text(changed)


@given(st.integers(0, len(TEXT) - 1))
def test_a_string_that_was_cut_is_told(length: int) -> None:
    with pytest.raises(MalformedError):
        parse_join_text(TEXT[:length])


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for found in (text, f"rj_{text}"):
        with pytest.raises(P2PError):
            parse_join_text(found)


def test_strings_of_other_kinds_and_networks() -> None:
    account_text = make_invite(trust.AUTHORITY, trust.NETWORK, 1, 60, START_MS).text()
    with pytest.raises(MalformedError, match="opens accounts"):
        parse_join_text(account_text)
    assert parse_invite_for(account_text, trust.NETWORK).text() == account_text
    assert parse_invite_for(f" {TEXT}\n", trust.NETWORK).text() == TEXT
    with pytest.raises(UntrustedError, match="is for the network"):
        parse_invite_for(TEXT, trust.OTHER_NETWORK)
    # The invite inside is signed for one network: under another name it is worth nothing.
    with pytest.raises(UntrustedError):
        parse_join_text(replace(INVITE, network=trust.OTHER_NETWORK).text())
    with pytest.raises(MalformedError, match="damaged"):  # somebody else's secret
        parse_join_text(replace(INVITE, keys=trust.STRANGER).text())


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:4001",
        "/ip4/192.0.2.1/tcp/4001",
        f"/ip4/192.0.2.1/tcp/0/p2p/{trust.NODE.peer_id}",
        f"/ip4/192.0.2.1/tcp/70000/p2p/{trust.NODE.peer_id}",
        "/ip4/192.0.2.1/tcp/4001/p2p/nobody",
        f"/ip4/192.0.2.1\x1b[2J/tcp/4001/p2p/{trust.NODE.peer_id}",
    ],
)
def test_addresses_that_nobody_can_join_at(address: str) -> None:
    with pytest.raises(SettingsError, match="not a bootstrap's address"):
        make_node_invite(trust.AUTHORITY, trust.NETWORK, (address,), 1, 60, START_MS)


def test_a_request_without_an_invite_is_what_it_was() -> None:
    signed = request(invite=None)
    found = verify_join_request(signed, trust.NETWORK, trust.NODE.peer_id, START_MS)
    assert found.invitation is None
    assert decode_message(signed.body, JoinRequest).admission is None
    longer = encode_message(decode_message(request().body, JoinRequest))
    assert len(signed.body) < len(longer)


def test_a_request_with_an_invite_admits_the_node_and_opens_its_account() -> None:
    found = verify_join_request(request(), trust.NETWORK, trust.NODE.peer_id, START_MS)
    invitation = found.invitation
    assert invitation is not None
    assert (invitation.peer_id, invitation.account_id, invitation.account_key) == (
        trust.NODE.peer_id,
        ACCOUNT.account_id,
        ACCOUNT.signing.public_key,
    )
    assert (invitation.issuer, invitation.invite.uses) == (trust.AUTHORITY.public_key, 3)
    founding, _, opening = open_opening(found.opening, trust.NETWORK)
    assert founding == ACCOUNT.founding
    assert opening is not None
    assert opening.invite_id == invitation.invite_id


def test_nobody_else_uses_what_was_sent() -> None:
    """A bootstrap, or whoever else sees a request, has no use for the invite in it."""
    seen = decode_message(request().body, JoinRequest)
    with pytest.raises(UntrustedError):  # replayed as it is
        verify_join_request(request(), trust.NETWORK, trust.OTHER_NODE.peer_id, START_MS)
    own = decode_message(request(trust.OTHER_NODE, None).body, JoinRequest)
    stolen = trust.OTHER_NODE.sign(trust.NETWORK, replace(own, admission=seen.admission))
    with pytest.raises(UntrustedError, match="another node or account"):
        verify_join_request(stolen, trust.NETWORK, trust.OTHER_NODE.peer_id, START_MS)
    for_other = NodeBinding(OTHER.account_id, trust.NODE.peer_id, START_MS)
    binding = OTHER.signing.sign(trust.NETWORK, for_other)
    mixed = replace(decode_message(request().body, JoinRequest), admission=INVITE.admit(binding))
    with pytest.raises(UntrustedError, match="another node or account"):
        verify_join_request(
            trust.NODE.sign(trust.NETWORK, mixed), trust.NETWORK, trust.NODE.peer_id, START_MS
        )


def test_admissions_that_prove_nothing() -> None:
    seen = decode_message(request().body, JoinRequest)
    assert seen.admission is not None
    found = decode_message(seen.admission.body, NodeAdmission)
    with pytest.raises(UntrustedError, match="not signed by the invite's key"):
        open_admission(trust.STRANGER.sign(trust.NETWORK, found), trust.NETWORK)
    with pytest.raises(UntrustedError):
        open_admission(replace(seen.admission, signature=bytes(64)), trust.NETWORK)
    forged = replace(found, invite=replace(found.invite, signature=bytes(64)))
    with pytest.raises(UntrustedError):
        open_admission(INVITE.keys.sign(trust.NETWORK, forged), trust.NETWORK)
    accounts = make_invite(trust.AUTHORITY, trust.NETWORK, 1, 60, START_MS)
    other_kind = replace(found, invite=accounts.invite)
    with pytest.raises(MalformedError, match="admits no nodes"):
        open_admission(accounts.keys.sign(trust.NETWORK, other_kind), trust.NETWORK)
