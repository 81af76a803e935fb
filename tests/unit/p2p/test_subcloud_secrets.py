"""Invites, tokens and requests of subclouds: what they prove, and everything that is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.account_proof import ProvenAccount
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, P2PError, StaleError, UntrustedError, WrongNetworkError
from p2p.freshness import NonceGuard
from p2p.signing import KeyPair, Signed
from p2p.subclouds.identity import subcloud_id
from p2p.subclouds.invites import (
    InvitedMembership,
    InviteSecret,
    check_invite_use,
    make_subcloud_invite,
    open_invite_use,
    open_invited_membership,
    parse_subcloud_invite,
)
from p2p.subclouds.memberships import (
    MembershipCertificate,
    RevocationList,
    is_revoked,
    open_membership_certificate,
)
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import AccountProof, KnownPolicy, PolicyRecord
from p2p.subclouds.requests import (
    JoinDenial,
    SubcloudRequest,
    check_request,
    open_denial,
    sign_request,
)
from p2p.subclouds.tokens import (
    CallerToken,
    issue_token,
    open_token,
    parse_token,
    token_allows,
    token_is_revoked,
    token_text,
)
from p2p.types import NetworkId, PeerId, Role
from tests.fakes import trust
from tests.fakes.clocks import START_MS

DELEGATE, OTHER_DELEGATE = trust.key_pair(61), trust.key_pair(62)
DAY_MS = 86_400_000
NODE, OTHER_NODE = trust.NODE.peer_id, trust.OTHER_NODE.peer_id
BOOTSTRAP_CHAIN = (trust.certificate(trust.BOOTSTRAP.peer_id, Role.BOOTSTRAP),)


def a_policy(label: str = "team", **fields: Any) -> SubcloudPolicy:
    content: dict[str, Any] = {
        "network_id": trust.NETWORK,
        "subcloud_id": subcloud_id(trust.NETWORK, trust.SOME_ACCOUNT, label),
        "version": 1,
        "issued_ms": START_MS,
        "expires_ms": START_MS + 90 * DAY_MS,
        "owner": trust.SOME_ACCOUNT,
        "join": "private",
        "callers": {"tokens": True},
        "delegate_keys": (DELEGATE.public_key.hex(),),
    }
    return SubcloudPolicy.model_validate(content | fields)


POLICY, OTHER = a_policy(), a_policy("other")


def an_invite(policy: SubcloudPolicy = POLICY, uses: int = 2, **fields: Any) -> InviteSecret:
    times: dict[str, Any] = {"lifetime_s": 86_400, "membership_s": 3600, "now_ms": START_MS}
    return make_subcloud_invite(DELEGATE, policy, uses=uses, **times | fields)


INVITE = an_invite()
TEXT = INVITE.text()


def a_membership(
    use: Signed | None = None,
    number: int = 1,
    *,
    bootstrap: KeyPair = trust.BOOTSTRAP,
    issued_ms: int = START_MS,
    chain: tuple[Signed, ...] = BOOTSTRAP_CHAIN,
    network: NetworkId = trust.NETWORK,
) -> Signed:
    use = use or INVITE.use(NODE, START_MS)
    return bootstrap.sign(network, InvitedMembership(use, number, issued_ms, chain))


# --- strings ------------------------------------------------------------------------------------
def test_an_invites_string_comes_back_whole() -> None:
    assert len(TEXT) < 520
    found = parse_subcloud_invite(TEXT, trust.NETWORK)
    assert (found.network, found.invite) == (trust.NETWORK, INVITE.invite)
    assert found.document.subcloud_id == POLICY.subcloud_id
    broken = "\n ".join(TEXT[at : at + 60] for at in range(0, len(TEXT), 60))
    assert parse_subcloud_invite(broken).text() == TEXT
    with pytest.raises(WrongNetworkError):
        parse_subcloud_invite(TEXT, trust.OTHER_NETWORK)
    many = an_invite(models=tuple(bytes([n]) * 32 for n in range(32)), slots_max=4).text()
    assert len(parse_subcloud_invite(many).document.models) == 32


TOKEN = CallerToken(bytes(16), POLICY.identity, START_MS, START_MS + DAY_MS, 10)
TOKEN_TEXT = token_text(issue_token(DELEGATE, POLICY, TOKEN))


@given(st.sampled_from([TEXT, TOKEN_TEXT]), st.data())
def test_one_wrong_character_is_told(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(3, len(text) - 1))
    character = data.draw(st.sampled_from("AZaz09-_%=").filter(lambda c: c != text[place]))
    damaged = text[:place] + character + text[place + 1 :]
    parse = parse_subcloud_invite if text == TEXT else parse_token
    with pytest.raises(MalformedError):
        parse(damaged)
    with pytest.raises(MalformedError):
        parse(text[:place])


@given(st.text(max_size=60))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (parse_subcloud_invite, parse_token):
        with pytest.raises(P2PError):
            parse(text)
        with pytest.raises(P2PError):
            parse(("rs_" if parse is parse_subcloud_invite else "rt_") + text)


# --- invites --------------------------------------------------------------------------------------
def test_a_use_that_a_bootstrap_counted_is_a_certificate() -> None:
    signed = a_membership()
    found = open_membership_certificate(signed, POLICY, NODE, START_MS + 1000)
    assert (found.peer_id, found.subcloud_id) == (NODE, POLICY.subcloud_id)
    assert found.expires_ms == START_MS + 3_600_000
    assert found.invite_id == INVITE.invite_id
    with pytest.raises(StaleError):
        open_membership_certificate(signed, POLICY, NODE, START_MS + 3_600_000)
    with pytest.raises(UntrustedError, match="another subcloud or node"):
        open_membership_certificate(signed, POLICY, OTHER_NODE, START_MS + 1000)


def test_a_membership_outlives_the_bootstraps_certificate() -> None:
    long = an_invite(membership_s=30 * 86_400)
    signed = a_membership(long.use(NODE, START_MS))
    later_ms = START_MS + 20 * DAY_MS  # the bootstrap's certificate holds for a day
    assert open_membership_certificate(signed, POLICY, NODE, later_ms).peer_id == NODE


FORGED_USE = replace(INVITE, keys=trust.STRANGER).use(NODE, START_MS)
STRANGERS = replace(
    INVITE, invite=trust.STRANGER.sign(trust.NETWORK, INVITE.document)
)  # an invite that no delegate signed
GATEWAY_CHAIN = (trust.certificate(trust.GATEWAY.peer_id, Role.GATEWAY),)


@pytest.mark.parametrize(
    ("signed", "why"),
    [
        (a_membership(FORGED_USE), "not signed by the invite's key"),
        (a_membership(STRANGERS.use(NODE, START_MS)), "not signed by a delegate"),
        (a_membership(an_invite(OTHER).use(NODE, START_MS)), "another subcloud"),
        (a_membership(number=3), "more often"),
        (a_membership(issued_ms=START_MS + DAY_MS), "expired|outside of its time"),
        (a_membership(issued_ms=START_MS - 1), "future|outside of its time"),
        (a_membership(bootstrap=trust.GATEWAY, chain=GATEWAY_CHAIN), "by a bootstrap"),
        (a_membership(bootstrap=trust.STRANGER), "another peer"),
        (a_membership(network=trust.OTHER_NETWORK), "does not verify"),
        (INVITE.use(NODE, START_MS), "not signed by a delegate"),
        (INVITE.invite, "does not verify"),  # a delegate's signature, but of something else
    ],
)
def test_what_is_no_membership_by_invite(signed: Signed, why: str) -> None:
    with pytest.raises(P2PError, match=why):
        open_membership_certificate(signed, POLICY, NODE, START_MS + 1000)


@given(st.integers(0, 10_000), st.integers(0, 7), st.sampled_from(["body", "signature", "signer"]))
def test_no_changed_bit_passes(place: int, bit: int, field: str) -> None:
    signed = a_membership()
    raw = bytearray(getattr(signed, field))
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(P2PError):
        open_invited_membership(replace(signed, **{field: bytes(raw)}), POLICY)


def test_what_a_bootstrap_checks_of_a_use() -> None:
    use = open_invite_use(INVITE.use(NODE, START_MS), trust.NETWORK)
    check_invite_use(use, POLICY, START_MS + 1000)
    for policy, now_ms in (
        (OTHER, START_MS + 1000),
        (a_policy(delegate_keys=(OTHER_DELEGATE.public_key.hex(),)), START_MS + 1000),
        (POLICY, START_MS + 121_000),  # an old use, sent again
        (POLICY, START_MS + DAY_MS),
        (POLICY, START_MS - 100_000),
    ):
        with pytest.raises(UntrustedError):
            check_invite_use(use, policy, now_ms)
    with pytest.raises(UntrustedError):
        open_invite_use(FORGED_USE, trust.NETWORK)


def test_only_a_delegate_makes_invites_and_within_bounds() -> None:
    times: dict[str, Any] = {"lifetime_s": 60, "membership_s": 3600, "now_ms": START_MS}
    with pytest.raises(UntrustedError):
        make_subcloud_invite(trust.STRANGER, POLICY, uses=1, **times)
    with pytest.raises(MalformedError):
        make_subcloud_invite(DELEGATE, POLICY, uses=0, **times)
    with pytest.raises(MalformedError):
        make_subcloud_invite(DELEGATE, POLICY, uses=1, **times | {"membership_s": 10})


def test_what_a_revocation_list_takes_back() -> None:
    by_invite = open_membership_certificate(a_membership(), POLICY, NODE, START_MS + 1)
    by_delegate = MembershipCertificate(
        bytes(16), POLICY.identity, NODE, START_MS, START_MS + DAY_MS
    )
    empty = RevocationList(POLICY.identity, 1, START_MS)
    banned = replace(empty, banned_peers=(NODE,))
    invite = replace(empty, revoked_invites=(INVITE.invite_id,))
    one = replace(empty, revoked_certificates=(by_invite.certificate_id,))
    other = replace(empty, banned_peers=(OTHER_NODE,), revoked_invites=(bytes(16),))
    verdicts = [
        (is_revoked(by_invite, revocations), is_revoked(by_delegate, revocations))
        for revocations in (empty, banned, invite, one, other)
    ]
    wanted = [(False, False), (True, True), (True, False), (True, False), (False, False)]
    assert verdicts == wanted
    assert encode_message(empty) == encode_message(empty)
    assert decode_message(encode_message(invite), RevocationList) == invite


# --- tokens ---------------------------------------------------------------------------------------
def test_a_token_lets_in_until_it_ends() -> None:
    token = open_token(parse_token(TOKEN_TEXT), POLICY, START_MS + 1)
    assert token == TOKEN
    with pytest.raises(StaleError):
        open_token(parse_token(TOKEN_TEXT), POLICY, START_MS + DAY_MS)
    with pytest.raises(StaleError):
        open_token(parse_token(TOKEN_TEXT), POLICY, START_MS - 100_000)


@pytest.mark.parametrize(
    ("policy", "signed"),
    [
        (OTHER, DELEGATE.sign(trust.NETWORK, TOKEN)),
        (POLICY, trust.STRANGER.sign(trust.NETWORK, TOKEN)),
        (POLICY, DELEGATE.sign(trust.OTHER_NETWORK, TOKEN)),
        (a_policy(callers={"anyone": True}), DELEGATE.sign(trust.NETWORK, TOKEN)),
        (POLICY, DELEGATE.sign(trust.NETWORK, replace(TOKEN, namespace="dev"))),
        (POLICY, DELEGATE.sign(trust.NETWORK, replace(TOKEN, expires_ms=START_MS + 2**40))),
        (POLICY, DELEGATE.sign(trust.NETWORK, JoinDenial(POLICY.identity, NODE, 0, 1))),
        (a_policy(delegate_keys=(OTHER_DELEGATE.public_key.hex(),)), parse_token(TOKEN_TEXT)),
    ],
)
def test_tokens_that_are_refused(policy: SubcloudPolicy, signed: Signed) -> None:
    with pytest.raises(P2PError):
        open_token(signed, policy, START_MS + 1)


@given(st.integers(0, 10_000), st.integers(0, 7), st.sampled_from(["body", "signature", "signer"]))
def test_no_changed_bit_of_a_token_passes(place: int, bit: int, field: str) -> None:
    signed = parse_token(TOKEN_TEXT)
    raw = bytearray(getattr(signed, field))
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(P2PError):
        open_token(replace(signed, **{field: bytes(raw)}), POLICY, START_MS + 1)


@given(
    st.integers(-DAY_MS, 2 * DAY_MS),
    st.integers(1, 400 * DAY_MS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_token_is_good_just_when_everything_is(
    age_ms: int, length_ms: int, ours: bool, wanted: bool, network: bool
) -> None:
    token = replace(TOKEN, expires_ms=START_MS + length_ms)
    key = DELEGATE if ours else OTHER_DELEGATE
    signed = key.sign(trust.NETWORK if network else trust.OTHER_NETWORK, token)
    policy = POLICY if wanted else a_policy(callers={"anyone": True})
    in_time = -60_000 <= age_ms < length_ms <= 366 * DAY_MS
    try:
        found = open_token(signed, policy, START_MS + age_ms) == token
    except P2PError:
        found = False
    assert found == (ours and wanted and network and in_time)


def test_a_token_can_be_bound_and_revoked() -> None:
    account = str(trust.SOME_ACCOUNT)
    bound = replace(TOKEN, account=account)
    narrow = replace(bound, namespace="dev")
    assert token_allows(TOKEN, "acct-x", "any")
    assert [token_allows(bound, a, "any") for a in (account, "acct-x")] == [True, False]
    assert [token_allows(narrow, account, n) for n in ("dev", "prod")] == [True, False]
    revocations = RevocationList(POLICY.identity, 1, START_MS, revoked_tokens=(TOKEN.token_id,))
    assert token_is_revoked(TOKEN, revocations)
    assert not token_is_revoked(replace(TOKEN, token_id=b"x" * 16), revocations)
    assert not token_is_revoked(TOKEN, None)
    with pytest.raises(UntrustedError):
        issue_token(trust.STRANGER, POLICY, TOKEN)


# --- denials --------------------------------------------------------------------------------------
def test_only_a_delegate_denies() -> None:
    denial = JoinDenial(POLICY.identity, PeerId(NODE), START_MS, START_MS + DAY_MS, "not enough")
    assert open_denial(DELEGATE.sign(trust.NETWORK, denial), POLICY) == denial
    for policy, key in ((OTHER, DELEGATE), (POLICY, trust.STRANGER)):
        with pytest.raises(UntrustedError):
            open_denial(key.sign(trust.NETWORK, denial), policy)


# --- requests -------------------------------------------------------------------------------------
OWNER_KEY = trust.key_pair(63)
NOBODY = AccountProof(OWNER_KEY.sign(trust.NETWORK, TOKEN))
KNOWN = KnownPolicy(
    POLICY,
    "d" * 64,
    ProvenAccount(trust.SOME_ACCOUNT, frozenset([OWNER_KEY.public_key]), bytes(32), 0),
    PolicyRecord(NOBODY.founding, (), (NOBODY,)),
)


@pytest.mark.parametrize("key", [OWNER_KEY, DELEGATE])
def test_owner_and_delegates_ask_once(key: KeyPair) -> None:
    nonces = NonceGuard()
    signed = sign_request(key, trust.NETWORK, POLICY.identity, "view", START_MS)

    def check(what: str = "view", now_ms: int = START_MS + 1000) -> SubcloudRequest:
        return check_request(signed, KNOWN, trust.NETWORK, what, now_ms, nonces)

    with pytest.raises(UntrustedError):
        check("requests")
    with pytest.raises(StaleError):
        check(now_ms=START_MS + 60_000)
    assert check().subcloud_id == POLICY.identity
    with pytest.raises(StaleError, match="replay"):
        check()


@pytest.mark.parametrize(
    "signed",
    [
        sign_request(trust.STRANGER, trust.NETWORK, POLICY.identity, "view", START_MS),
        sign_request(DELEGATE, trust.OTHER_NETWORK, POLICY.identity, "view", START_MS),
        sign_request(DELEGATE, trust.NETWORK, OTHER.identity, "view", START_MS),
    ],
)
def test_requests_that_are_refused(signed: Signed) -> None:
    with pytest.raises(UntrustedError):
        check_request(signed, KNOWN, trust.NETWORK, "view", START_MS, NonceGuard())
