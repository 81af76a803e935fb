"""Invites as strings and in openings; which network an address is in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.account_file import create_account
from p2p.admission import join_request, verify_join_request
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.key_limits import is_network
from p2p.opening_messages import (
    InvitedFounding,
    InviteSecret,
    Referral,
    invite_id_of,
    is_public_prefix,
    network_prefix,
    open_opening,
    parse_invite,
)
from resultity.account_invites import make_invite
from tests.fakes import trust
from tests.fakes.clocks import START_MS

INVITE = make_invite(trust.AUTHORITY, trust.NETWORK, 3, 86_400, START_MS)
ACCOUNT = create_account(trust.NETWORK, lambda: START_MS, bytes(16))[0]
OTHER = create_account(trust.NETWORK, lambda: START_MS, bytes(16))[0]


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("127.0.0.1", "127.0.0.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("", ""),
        ("testclient", ""),
        ("1.2.3", ""),
    ],
)
def test_network_of_an_address(address: str, prefix: str) -> None:
    assert network_prefix(address) == prefix
    assert not prefix or is_network(prefix)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("8.8.8.0/24", True),
        ("2606:4700:1::/48", True),
        ("10.0.0.0/24", False),
        ("127.0.0.0/24", False),
        ("8.8.8.0/25", False),
        ("8.0.0.0/8", False),
        ("8.8.8.8", False),
        ("", False),
        ("x", False),
    ],
)
def test_public_prefixes(text: str, public: bool) -> None:
    assert is_public_prefix(text) is public


def test_an_invite_travels_as_a_string() -> None:
    text = INVITE.text()
    assert text.startswith("ri_")
    assert text.isascii()
    found = parse_invite(f" {text}\n", trust.NETWORK)
    assert found.invite == INVITE.invite
    assert found.keys.seed == INVITE.keys.seed
    with pytest.raises(UntrustedError):
        parse_invite(text, trust.OTHER_NETWORK)
    for damaged in ("", "ri_", text[:-5], text[3:], text + "AAAA", "ri_" + "A" * 2000, "ri_ü"):
        with pytest.raises(MalformedError):
            parse_invite(damaged, trust.NETWORK)
    with pytest.raises(P2PError):
        parse_invite(InviteSecret(trust.NODE, INVITE.invite).text(), trust.NETWORK)


@given(st.text(max_size=300))
def test_no_text_ends_in_anything_but_a_refusal(text: str) -> None:
    with pytest.raises(P2PError):
        parse_invite("ri_" + text, trust.NETWORK)


def test_an_opening_binds_the_invite_to_one_account() -> None:
    used = INVITE.use(trust.NETWORK, ACCOUNT.founding)
    founding, document, invitation = open_opening(used, trust.NETWORK)
    assert (founding, document.signing_key) == (ACCOUNT.founding, ACCOUNT.signing.public_key)
    assert invitation is not None
    assert invitation.invite_id == invite_id_of(INVITE.invite)
    assert (invitation.invite.uses, invitation.issuer) == (3, trust.AUTHORITY.public_key)
    assert open_opening(ACCOUNT.founding, trust.NETWORK)[2] is None
    # Whoever has seen it cannot use the invite for another account.
    stolen = InvitedFounding(OTHER.founding, INVITE.invite)
    with pytest.raises(UntrustedError):
        open_opening(trust.STRANGER.sign(trust.NETWORK, stolen), trust.NETWORK)
    body = INVITE.keys.sign(trust.NETWORK, stolen).body
    with pytest.raises(UntrustedError):
        open_opening(replace(used, body=body), trust.NETWORK)
    referral = trust.NODE.sign(trust.NETWORK, Referral(ACCOUNT.account_id, OTHER.account_id, 0))
    with pytest.raises(MalformedError):
        open_opening(referral, trust.NETWORK)


def test_a_node_joins_with_an_invite_of_its_own_account() -> None:
    def ask(invite: InviteSecret | None) -> object:
        return join_request(trust.NODE, ACCOUNT, trust.NETWORK, "s", START_MS, invite)

    peer = trust.NODE.peer_id
    applicant = verify_join_request(ask(INVITE), trust.NETWORK, peer, START_MS)
    assert applicant.opening == INVITE.use(trust.NETWORK, ACCOUNT.founding)
    applicant = verify_join_request(ask(None), trust.NETWORK, peer, START_MS)
    assert applicant.opening == applicant.founding == ACCOUNT.founding

    class ForOther(InviteSecret):
        def use(self, network: object, founding: object) -> object:
            return INVITE.use(trust.NETWORK, OTHER.founding)

    forged = ForOther(INVITE.keys, INVITE.invite)
    with pytest.raises(UntrustedError, match="another account"):
        verify_join_request(ask(forged), trust.NETWORK, peer, START_MS)
