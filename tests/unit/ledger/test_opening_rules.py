"""Referrals make a forest; invites open as many accounts as they say, until they end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import AccountUnknownError, ConflictError, NotAuthorizedError, RequestError
from ledger.opening_errors import InviteError, ReferralError
from ledger.operations import OpeningRule
from p2p.types import AccountId
from tests.fakes.ledger_world import AUTHORITY, MINT, MemoryLedger, World, key_pair
from tests.fakes.opening_world import (
    DAY_MS,
    INVITED_ONLY,
    invite,
    invited,
    referred,
    uninvited,
)


class Bench:
    def __init__(self, count: int = 5) -> None:
        self.world = World()
        self.ledger = MemoryLedger(self.world)
        self.tenants = [self.world.tenant(number) for number in range(count)]
        for tenant in self.tenants:
            self.ledger.do(tenant.founding)

    def refer(self, who: int, by: int, **options: object) -> bool:
        operation = referred(self.world, self.tenants[who], self.tenants[by], **options)
        return self.ledger.do(operation).exists


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- referrals ----------------------------------------------------------------------------------
def test_an_account_is_referred_once(bench: Bench) -> None:
    assert bench.refer(1, 0) is False
    assert bench.refer(1, 0) is True
    with pytest.raises(ConflictError, match="once"):
        bench.refer(1, 2)
    (entry,) = bench.ledger.book.new_referrals
    assert (entry.account_id, entry.referrer) == tuple(
        bench.tenants[number].account_id for number in (1, 0)
    )
    record = bench.ledger.book.new_records[-1]
    assert (record.purpose, record.operation) == ("referral", 2)


def test_nobody_refers_itself_or_in_a_circle(bench: Bench) -> None:
    with pytest.raises(ReferralError, match="itself"):
        bench.refer(0, 0)
    bench.refer(1, 0)
    with pytest.raises(ReferralError, match="loop"):
        bench.refer(0, 1)
    bench.refer(2, 1)
    bench.refer(3, 2)
    with pytest.raises(ReferralError, match="loop"):
        bench.refer(0, 3)
    bench.refer(0, 4)


def test_a_referral_is_signed_by_the_referred_account(bench: Bench) -> None:
    for signer in (bench.tenants[0].keys, MINT):
        with pytest.raises(NotAuthorizedError):
            bench.refer(1, 0, signer=signer)
    unknown = AccountId("acct-" + "f" * 40)
    with pytest.raises(AccountUnknownError):
        bench.ledger.do(referred(bench.world, bench.tenants[0], unknown))
    with pytest.raises(AccountUnknownError):
        bench.ledger.do(referred(bench.world, bench.world.tenant(99), bench.tenants[0]))


def test_only_soon_after_the_opening(bench: Bench) -> None:
    bench.world.now_ms += 30 * DAY_MS
    bench.refer(1, 0)
    bench.world.now_ms += 1
    with pytest.raises(ReferralError, match="30 days"):
        bench.refer(2, 0)
    assert bench.refer(1, 0) is True  # what was taken before stays answered


def test_the_walk_is_bounded() -> None:
    bench = Bench(8)
    for number in range(1, 6):
        bench.refer(number, number - 1, chain_max=5)
    with pytest.raises(ReferralError, match="more than 5"):
        bench.refer(6, 5, chain_max=5)
    bench.refer(7, 4, chain_max=5)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40))
def test_referrals_are_always_a_forest(pairs: list[tuple[int, int]]) -> None:
    bench = Bench(7)
    for who, by in pairs:
        try:
            bench.refer(who, by)
        except RequestError:
            continue
    referrals = bench.ledger.book.referrals
    for start in referrals:
        seen, at = {start}, start
        while at in referrals:
            at = referrals[at]
            assert at not in seen
            seen.add(at)
    assert len(bench.ledger.book.new_referrals) == len(referrals)


# --- invites ------------------------------------------------------------------------------------
@pytest.fixture
def closed() -> Bench:
    bench = Bench(0)
    bench.tenants = [bench.world.tenant(number) for number in range(5)]
    return bench


def test_an_invite_opens_as_many_accounts_as_it_says(closed: Bench) -> None:
    found = invite(2)
    with pytest.raises(InviteError, match="by invite only"):
        closed.ledger.do(uninvited(closed.tenants[0]))
    for tenant in closed.tenants[:2]:
        closed.ledger.do(invited(tenant, found))
    with pytest.raises(InviteError, match="has opened 2 of 2 accounts"):
        closed.ledger.do(invited(closed.tenants[2], found))
    # Repetitions use nothing up, and an open account needs no invite.
    assert closed.ledger.do(invited(closed.tenants[0], found)).exists
    assert closed.ledger.do(uninvited(closed.tenants[0])).exists
    closed.ledger.do(invited(closed.tenants[2], invite(1, secret=501)))
    assert len(closed.ledger.book.new_invite_uses) == 3
    record = closed.ledger.book.new_records[0]
    assert (record.purpose, record.operation) == ("invited-founding", 1)
    closed.ledger.do(closed.world.opening(closed.tenants[0]))


def test_invites_end_are_revoked_and_have_an_issuer(closed: Bench) -> None:
    tenant, found = closed.tenants[0], invite()
    revoked = replace(
        INVITED_ONLY, revoked=frozenset([invited(tenant, found).invitation.invite_id])
    )
    with pytest.raises(InviteError, match="revoked"):
        closed.ledger.do(invited(tenant, found, revoked))
    by_delegate = invite(issuer=key_pair(77))
    with pytest.raises(InviteError, match="not signed by the authority"):
        closed.ledger.do(invited(tenant, by_delegate))
    delegates = OpeningRule(True, frozenset([AUTHORITY.public_key, key_pair(77).public_key]))
    closed.ledger.do(invited(tenant, by_delegate, delegates))
    closed.world.now_ms = found_end = 1_800_000_000_000 + 7 * DAY_MS
    with pytest.raises(InviteError, match="ended at"):
        closed.ledger.do(invited(closed.tenants[1], found))
    closed.world.now_ms = found_end - 1
    closed.ledger.do(invited(closed.tenants[1], found))


def test_an_open_network_takes_invites_too(closed: Bench) -> None:
    rule = OpeningRule(False, frozenset([AUTHORITY.public_key]))
    closed.ledger.do(uninvited(closed.tenants[0], rule), invited(closed.tenants[1], invite(), rule))
    assert len(closed.ledger.book.new_invite_uses) == 1
