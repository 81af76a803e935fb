"""Refunds are taken back exactly, from nobody more than it got; disputes happen once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.disputes import Charge, PaidPart, corrected_work, correction_entries, taken_parts
from ledger.errors import (
    ChargeUnknownError,
    DisputeEndedError,
    DisputeExistsError,
    DisputeLateError,
    LimitError,
)
from ledger.limits import DISPUTES_OPEN_PER_ACCOUNT_MAX
from ledger.operations import PlaceHold
from ledger.rcp import PaidWork, work_by_account
from p2p.limits import AMOUNT_MICROCREDITS_MAX
from p2p.types import AccountId
from tests.fakes.dispute_world import WINDOW_MS, decision, dispute
from tests.fakes.ledger_world import MemoryLedger, Tenant, World

parts = st.lists(
    st.tuples(
        st.sampled_from(["earnings:a", "earnings:b", "fees:a", "treasury"]),
        st.integers(1, AMOUNT_MICROCREDITS_MAX),
    ),
    min_size=1,
    max_size=11,
)


def charge_of(paid: list[tuple[str, int]]) -> Charge:
    found = tuple(
        PaidPart(account, amount, "node" if account.startswith("earnings:") else "")
        for account, amount in paid
    )
    return Charge(bytes(16), 1, "payer/dev", "key", "model", 0, found)


@given(paid=parts, share=st.fractions(0, 1))
def test_a_refund_is_divided_exactly_and_fairly(paid: list[tuple[str, int]], share: object) -> None:
    charge = charge_of(paid)
    refund = int(share * charge.charged)  # type: ignore[operator]
    taken = taken_parts(charge, refund)
    assert sum(taken) == refund
    for part, back in zip(charge.paid, taken, strict=True):
        assert 0 <= back <= part.amount
        assert abs(back * charge.charged - part.amount * refund) < charge.charged
    entries = correction_entries(charge, refund, "namespace:payer/dev")
    assert sum(entry.amount for entry in entries) == 0
    work = corrected_work(charge, refund, 5)
    earned = [e.amount for e in entries if e.account.startswith("earnings:")]
    assert [entry.earned for entry in work] == earned
    assert all(entry.legs == 0 for entry in work)


@given(paid=parts)
def test_a_whole_refund_takes_all_and_none_takes_nothing(paid: list[tuple[str, int]]) -> None:
    charge = charge_of(paid)
    assert taken_parts(charge, charge.charged) == tuple(amount for _, amount in paid)
    assert not any(taken_parts(charge, 0))
    assert correction_entries(charge, 0, "x") == ()


def test_work_that_was_taken_back_does_not_count() -> None:
    payer, worker = AccountId("payer"), AccountId("worker")

    def work(*earned: int) -> dict[AccountId, int]:
        return work_by_account([PaidWork(payer, "n", worker, one) for one in earned], 10**9)

    assert work(100, -40) == {worker: 60}
    assert work(100, -140) == {}
    lost = work_by_account(
        [PaidWork(payer, "n", worker, -50), PaidWork(payer, "m", worker, 70)], 10**9
    )
    assert lost == {worker: 70}, "it is counted by payer and node"


class Court(MemoryLedger):
    """The rules on a book in which every capture can be found."""

    def __init__(self) -> None:
        super().__init__(World())
        self.tenant: Tenant = self.world.tenant()
        self.do(*self.world.setup(self.tenant, 1_000_000))

    def charge(self) -> PlaceHold:
        hold = self.world.hold(self.tenant, 1_000)
        self.do(hold, self.world.capture(hold, [self.world.leg(hold, output_tokens=100)]))
        (transfer,) = self.book.new_transfers[-1:]
        paid = tuple(
            PaidPart(e.account, e.amount, "node" if e.account.startswith("earnings:") else "")
            for e in transfer.entries
            if e.account.startswith(("earnings:", "fees:", "treasury"))
        )
        hold_id = hold.document.hold_id
        self.book.disputes.charges[hold_id] = Charge(
            hold_id, 1, self.tenant.path, self.tenant.api_key.key_id, "m", self.world.now_ms, paid
        )
        return hold


def test_a_decision_is_final_and_a_charge_is_disputed_once() -> None:
    court = Court()
    hold, tenant, world = court.charge(), court.tenant, court.world
    available = court.balances()[f"namespace:{tenant.path}"]
    court.do(dispute(world, tenant, hold))
    with pytest.raises(DisputeExistsError):
        court.do(dispute(world, tenant, hold, reason="another one"))
    result = court.do(decision(world, hold, 500))
    assert (result.amount, result.exists) == (500, False)
    assert court.do(decision(world, hold, 500)).exists
    for refund in (0, 499, 501):
        with pytest.raises(DisputeEndedError):
            court.do(decision(world, hold, refund))
    balances = court.balances()
    assert balances[f"namespace:{tenant.path}"] == available + 500
    assert set(balances) == {f"namespace:{tenant.path}", "mint"}, "all was taken back"
    assert court.book.usage[tenant.api_key.key_id].spent == 0


def test_too_late_too_many_and_unknown() -> None:
    court = Court()
    hold, tenant, world = court.charge(), court.tenant, court.world
    with pytest.raises(ChargeUnknownError):
        court.do(dispute(world, tenant, bytes(16)))
    world.now_ms += WINDOW_MS + 1
    with pytest.raises(DisputeLateError, match="could be disputed until 2027-01-18"):
        court.do(dispute(world, tenant, hold))
    fresh = [court.charge() for _ in range(DISPUTES_OPEN_PER_ACCOUNT_MAX + 1)]
    for one in fresh[:-1]:
        court.do(dispute(world, tenant, one))
    with pytest.raises(LimitError):
        court.do(dispute(world, tenant, fresh[-1]))
