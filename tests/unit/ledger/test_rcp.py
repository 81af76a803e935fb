"""Contribution points: what counts, how it is shared, and that nothing depends on order."""

from __future__ import annotations

from dataclasses import replace

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.rcp import (
    Days,
    PaidWork,
    SeenNode,
    next_epoch,
    parameters_of,
    scores_digest,
    scores_of,
    seen_nodes,
    uptime_by_account,
    verify_report,
    work_by_account,
)
from p2p.errors import P2PError, UntrustedError
from p2p.network_configuration import Rcp
from p2p.types import AccountId
from p2p.usage_messages import (
    NodeUptime,
    RcpEpoch,
    RcpParameters,
    RcpReport,
    RcpScore,
    UptimeRecord,
)
from tests.fakes import trust

PARAMETERS = RcpParameters(1_000, 7_000, 3_000, 0, 0, 500)
A, B, C = (AccountId(f"acct-{letter * 40}") for letter in "abc")


def score(account_id: AccountId, points: int, work: int = 0, minutes: int = 0) -> RcpScore:
    return RcpScore(account_id, points, work, minutes)


def test_points_are_shared_by_what_counts() -> None:
    work = [PaidWork(C, "n1", A, 300), PaidWork(C, "n2", B, 100)]
    seen = [SeenNode(1, "b", "n1", A, 100), SeenNode(1, "b", "n2", B, 300)]
    assert scores_of(PARAMETERS, work, seen) == (
        score(A, 525 + 75, 300, 100),
        score(B, 175 + 225, 100, 300),
    )


def test_a_payers_money_at_one_node_counts_up_to_the_cap() -> None:
    work = [PaidWork(C, "n1", A, 400), PaidWork(C, "n1", A, 400), PaidWork(B, "n1", A, 100)]
    assert work_by_account(work, 500) == {A: 600}
    # Two accounts of one node in one epoch share the pair's cap.
    assert work_by_account([PaidWork(C, "n1", A, 400), PaidWork(C, "n1", B, 400)], 500) == {
        A: 400,
        B: 100,
    }


def test_paying_oneself_does_not_count() -> None:
    assert work_by_account([PaidWork(A, "n1", A, 400)], 500) == {}


def test_uptime_is_the_median_over_bootstraps() -> None:
    def minutes(*found: int) -> dict[AccountId, int]:
        return uptime_by_account(
            [SeenNode(1, f"b{number}", "n1", A, m) for number, m in enumerate(found)]
        )

    assert minutes(7) == {A: 7}
    assert minutes(7, 1440) == {A: 1440}
    assert minutes(7, 9, 1440) == {A: 9}
    # One bootstrap counts once, whatever it says twice.
    assert uptime_by_account([SeenNode(1, "b", "n1", A, m) for m in (3, 9, 5)]) == {A: 9}
    days = [SeenNode(day, "b", "n1", A, 10) for day in range(3)]
    assert uptime_by_account(days) == {A: 30}


def test_without_contributions_there_are_no_points() -> None:
    assert scores_of(PARAMETERS, [], []) == ()
    only_uptime = scores_of(PARAMETERS, [], [SeenNode(1, "b", "n1", A, 1)])
    assert only_uptime == (score(A, 300, 0, 1),)


def test_epochs_follow_each_other() -> None:
    assert next_epoch(None, None, 1) is None
    assert next_epoch(None, 20, 7) == Days(20, 26)
    assert next_epoch(26, 20, 1) == Days(27, 27)


def test_rules_of_the_configuration() -> None:
    assert parameters_of(Rcp()) == RcpParameters(10**6, 7000, 3000, 0, 0, 10**9, 10**8)
    with pytest.raises(pydantic.ValidationError, match="more than all of them"):
        Rcp(work_basis_points=7001)


def test_a_record_cannot_claim_more_minutes_than_a_day_has() -> None:
    record = UptimeRecord(5, 0, (NodeUptime("n1", A, 9_999), NodeUptime("n2", B, 3)), 0)
    assert [seen.minutes for seen in seen_nodes("b", record)] == [1_440, 3]


# --- properties -------------------------------------------------------------------------------
accounts = st.sampled_from([A, B, C])
nodes = st.sampled_from(["n1", "n2", "n3"])
work_lists = st.lists(st.builds(PaidWork, accounts, nodes, accounts, st.integers(0, 2_000)))
seen_lists = st.lists(
    st.builds(
        SeenNode,
        st.integers(1, 3),
        st.sampled_from(["b1", "b2", "b3"]),
        nodes,
        accounts,
        st.integers(0, 1_440),
    )
)
shares = st.integers(0, 2_500)
parameters = st.builds(
    RcpParameters, st.integers(0, 10**6), shares, shares, shares, shares, st.integers(0, 3_000)
)


@given(parameters, work_lists, seen_lists, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    rules: RcpParameters,
    work: list[PaidWork],
    seen: list[SeenNode],
    shuffler: object,
) -> None:
    scores = scores_of(rules, work, seen)
    shuffler.shuffle(work)  # type: ignore[attr-defined]
    shuffler.shuffle(seen)  # type: ignore[attr-defined]
    again = scores_of(rules, work, seen)
    assert again == scores
    assert scores_digest(again) == scores_digest(scores)


@given(parameters, work_lists, seen_lists)
def test_never_more_points_than_the_shares_in_use(
    rules: RcpParameters, work: list[PaidWork], seen: list[SeenNode]
) -> None:
    scores = scores_of(rules, work, seen)
    used = rules.work_basis_points + rules.uptime_basis_points
    assert sum(found.points for found in scores) <= rules.points * used // 10_000
    assert all(found.points >= 0 for found in scores)
    assert len({found.account_id for found in scores}) == len(scores)
    assert list(scores) == sorted(scores, key=lambda found: -found.points)


@given(parameters, work_lists, seen_lists, accounts, st.integers(1, 5_000))
def test_more_work_never_costs_points(
    rules: RcpParameters,
    work: list[PaidWork],
    seen: list[SeenNode],
    account_id: AccountId,
    more: int,
) -> None:
    def points(found: list[PaidWork]) -> int:
        scores = scores_of(rules, found, seen)
        return next((s.points for s in scores if s.account_id == account_id), 0)

    # At a node of its own, so that nobody else shares the cap.
    own = PaidWork(AccountId("acct-" + "d" * 40), f"only {account_id}", account_id, 10)
    assert points([*work, own._replace(earned=10 + more)]) >= points([*work, own])


@given(parameters, work_lists, seen_lists)
def test_splitting_a_payment_changes_nothing(
    rules: RcpParameters, work: list[PaidWork], seen: list[SeenNode]
) -> None:
    halves = [part for paid in work for part in _halves(paid)]
    assert scores_of(rules, halves, seen) == scores_of(rules, work, seen)


def _halves(paid: PaidWork) -> tuple[PaidWork, PaidWork]:
    half = paid.earned // 2
    return paid._replace(earned=half), paid._replace(earned=paid.earned - half)


# --- frozen epochs ----------------------------------------------------------------------------
SCORES = (score(A, 700, 1), score(B, 300, 0, 1))


def report(scores: tuple[RcpScore, ...] = SCORES, first: int = 0, **changes: object) -> RcpReport:
    epoch = RcpEpoch(
        20_000, 1, 1, PARAMETERS, 2, scores_digest(SCORES), trust.START_MS, trust.bootstrap_chain()
    )
    epoch = replace(epoch, **changes)  # type: ignore[arg-type]
    return RcpReport(trust.BOOTSTRAP.sign(trust.NETWORK, epoch), first, scores)


def test_a_report_is_verified_offline() -> None:
    assert verify_report(report(), trust.NETWORK).accounts == 2
    verify_report(report(SCORES[1:], 1), trust.NETWORK)
    verify_report(report((), 7), trust.NETWORK)


@pytest.mark.parametrize(
    "bad",
    [
        report((SCORES[0], replace(SCORES[1], points=301))),
        report(SCORES[::-1]),
        report((*SCORES, score(C, 0))),
        report(SCORES, 1),
        report(chain=trust.gateway_chain(trust.BOOTSTRAP)),
        report(chain=trust.bootstrap_chain(trust.NODE)),
        report(issued_ms=trust.START_MS + 10**13),
        replace(report(), epoch=replace(report().epoch, signature=bytes(64))),
    ],
)
def test_reports_that_must_not_be_believed(bad: RcpReport) -> None:
    with pytest.raises(P2PError) as caught:
        verify_report(bad, trust.NETWORK)
    assert isinstance(caught.value, UntrustedError) or "certificate" in str(caught.value)
