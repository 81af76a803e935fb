"""The referral part of contribution points; epochs of before it stay what they were."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from ledger.rcp import (
    PaidWork,
    ReferredFees,
    referrals_by_account,
    scores_digest,
    scores_of,
)
from p2p.codec import decode_message, encode_message
from p2p.types import AccountId
from p2p.usage_messages import RcpParameters, RcpScore

A, B, C, D = (AccountId(f"acct-{letter * 40}") for letter in "abcd")
PARAMETERS = RcpParameters(1_000, 5_000, 0, 0, 5_000, 500, 100)


def test_points_for_the_fees_that_referred_accounts_paid() -> None:
    paid = [ReferredFees(C, A, 60), ReferredFees(D, A, 900), ReferredFees(B, C, 40)]
    assert referrals_by_account(paid, 100) == {A: 160, C: 40}
    scores = scores_of(PARAMETERS, [PaidWork(D, "n1", B, 10)], [], paid)
    assert scores == (
        RcpScore(B, 500, 10, 0, 0),
        RcpScore(A, 400, 0, 0, 160),
        RcpScore(C, 100, 0, 0, 40),
    )
    assert referrals_by_account([ReferredFees(A, A, 60)], 100) == {}
    # One account counts once, however its fees are put together.
    parts = [ReferredFees(C, A, 60), ReferredFees(C, A, 60)]
    assert referrals_by_account(parts, 100) == {A: 100}


def test_epochs_of_before_stay_as_they_are() -> None:
    paid, work = [ReferredFees(C, A, 60)], [PaidWork(C, "n1", B, 10)]
    without = scores_of(PARAMETERS, work, [])
    no_cap = RcpParameters(1_000, 5_000, 0, 0, 5_000, 500)
    no_share = RcpParameters(1_000, 5_000, 0, 0, 0, 500, 100)
    for parameters in (no_cap, no_share):
        assert scores_of(parameters, work, [], paid) == without
    # Frozen scores and parameters had one field less: their bytes, and so the digest, are the same.
    before = encode_message(RcpScore(B, 500, 10, 0), left_out=1)
    assert decode_message(before, RcpScore) == without[0]
    assert scores_digest(without) == hashlib.sha256(before).digest()
    old = encode_message(no_cap, left_out=1)
    assert decode_message(old, RcpParameters) == no_cap
    assert scores_digest([RcpScore(B, 500, 10, 0, 1)]) != scores_digest(without)


accounts = st.sampled_from([A, B, C, D])
fees = st.lists(st.builds(ReferredFees, accounts, accounts, st.integers(0, 300)), max_size=12)


@given(fees, st.randoms())
def test_neither_order_nor_more_fees_take_points_away(paid: list[ReferredFees], random) -> None:
    scores = scores_of(PARAMETERS, [], [], paid)
    shuffled = list(paid)
    random.shuffle(shuffled)
    assert scores_of(PARAMETERS, [], [], shuffled) == scores
    assert sum(score.points for score in scores) <= 500
    before = {score.account_id: score.points for score in scores}
    more = scores_of(PARAMETERS, [], [], [*paid, ReferredFees(B, A, 50)])
    after = {score.account_id: score.points for score in more}
    assert after.get(A, 0) >= before.get(A, 0)
