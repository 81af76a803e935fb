"""The rules of claims: what is kept, what is paid at a hold's end, what stands in the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.claims import ClaimState
from ledger.errors import (
    ChargeError,
    ConflictError,
    HoldClaimedError,
    HoldEndedError,
    HoldExpiredError,
    HoldForeignError,
    HoldUnknownError,
    LimitError,
    ReceiptError,
)
from ledger.operations import Leg, PlaceHold
from ledger.records import HoldState, TransferKind
from p2p.claim_messages import Claim
from p2p.codec import decode_message
from p2p.ledger_messages import CaptureLeg
from p2p.limits import LEGS_PER_CAPTURE_MAX
from p2p.prices import charge
from tests.fakes.claim_world import claim, claim_of, leased_claim, settle, settle_part
from tests.fakes.lease_world import capture_leased, expire, give_back, lease, part, part_leg
from tests.fakes.ledger_world import (
    NODE_ACCOUNTS,
    NODES,
    OTHER_GATEWAY,
    TERMS,
    MemoryLedger,
    Tenant,
    World,
)


class Scene:
    """A tenant with credit, a hold of 1,000, and a ledger in memory."""

    def __init__(self, credit: int = 100_000, maximum: int = 1_000) -> None:
        self.world = World()
        self.tenant: Tenant = self.world.tenant()
        self.ledger = MemoryLedger(self.world)
        self.ledger.do(*self.world.setup(self.tenant, credit, nodes=8))
        self.hold: PlaceHold = self.world.hold(self.tenant, maximum)
        self.ledger.do(self.hold)

    def over(self) -> None:
        """The hold's time is over."""
        self.world.now_ms = self.hold.document.expires_ms

    def earned(self, node: int) -> int:
        return self.ledger.balances().get(f"earnings:{NODE_ACCOUNTS[node]}", 0)

    def state(self, attempt: int) -> ClaimState:
        hold_id = self.hold.document.hold_id
        return self.ledger.book.claims[hold_id][hold_id, attempt].state


def test_a_claim_is_paid_at_the_holds_end() -> None:
    scene = Scene()
    world, ledger = scene.world, scene.ledger
    kept = ledger.do(claim(world, scene.hold, input_tokens=10, output_tokens=20))
    assert (kept.amount, kept.exists) == (120, False)
    assert ledger.do(claim(world, scene.hold, input_tokens=10, output_tokens=20)).exists
    with pytest.raises(HoldExpiredError):
        ledger.do(settle(world, scene.hold))
    scene.over()
    with pytest.raises(HoldClaimedError):
        ledger.do(world.expire(scene.hold))
    paid = ledger.do(settle(world, scene.hold))
    assert (paid.amount, paid.available) == (120, 100_000 - 120)
    assert scene.earned(0) == 120 - 6 - 6
    assert scene.state(0) is ClaimState.PAID
    transfer = ledger.book.new_transfers[-1]
    assert transfer.kind is TransferKind.CLAIM
    assert ledger.book.ends[scene.hold.document.hold_id].state is HoldState.CLAIMED
    assert ledger.do(settle(world, scene.hold)).exists
    assert ledger.do(world.expire(scene.hold)).exists
    (counts,) = ledger.book.consumed.values()
    assert (counts.requests, counts.failed, counts.captured, counts.charged) == (1, 1, 1, 120)
    with pytest.raises(HoldEndedError):
        ledger.do(claim(world, scene.hold, attempt=1, output_tokens=1))
    with pytest.raises(HoldEndedError):
        ledger.do(world.capture(scene.hold, [world.leg(scene.hold, output_tokens=1)]))


def test_an_answer_without_output_tokens_is_claimed_for_its_input() -> None:
    """Embeddings: the input is owed once the answer is complete, and not before."""
    scene = Scene()
    world, ledger = scene.world, scene.ledger
    for changes in (
        {"delivery": {"final": False}},
        {"receipt": {"final": False}},
        {"receipt": {"finish_reason": "failed"}},
    ):
        with pytest.raises(ReceiptError, match="without output"):
            ledger.do(claim(world, scene.hold, input_tokens=10, **changes))
    kept = ledger.do(claim(world, scene.hold, input_tokens=10))
    assert kept.amount == 20
    scene.over()
    assert ledger.do(settle(world, scene.hold)).amount == 20
    assert scene.earned(0) == 18


def test_a_capture_comes_before_the_claims() -> None:
    scene = Scene()
    world, ledger = scene.world, scene.ledger
    ledger.do(claim(world, scene.hold, input_tokens=10, output_tokens=20))
    ledger.do(world.capture(scene.hold, [world.leg(scene.hold, output_tokens=5)]))
    assert scene.earned(0) == 25 - 1 - 1
    scene.over()
    assert ledger.do(settle(world, scene.hold)).exists
    assert scene.state(0) is ClaimState.OPEN  # the sweep judges it


def test_what_is_claimed_is_not_released() -> None:
    scene = Scene()
    ledger, world = scene.ledger, scene.world
    ledger.do(claim(world, scene.hold, output_tokens=1))
    with pytest.raises(HoldClaimedError):
        ledger.do(world.release(scene.hold))
    assert scene.hold.document.hold_id not in ledger.book.ends


def test_attempts_that_contradict_each_other_are_dropped() -> None:
    scene = Scene()
    ledger, world, hold = scene.ledger, scene.world, scene.hold
    ledger.do(
        # Out of order, as nodes come.
        claim(world, hold, node=NODES[2], attempt=2, output_tokens=30),
        claim(world, hold, node=NODES[1], attempt=1, input_tokens=10, output_tokens=5),
        claim(world, hold, node=NODES[0], attempt=0, input_tokens=10, output_tokens=20),
        claim(
            world,
            hold,
            node=NODES[3],
            attempt=3,
            output_tokens=5,
            receipt={"request_hash": bytes(32)},
        ),
    )
    scene.over()
    assert ledger.do(settle(world, hold)).amount == 2 * 10 + 5 * 50
    # Input is counted twice: the later attempt is dropped, not the earlier one.
    states = [scene.state(attempt) for attempt in range(4)]
    assert states == [ClaimState.PAID, ClaimState.DROPPED, ClaimState.PAID, ClaimState.DROPPED]
    assert scene.earned(1) == scene.earned(3) == 0
    assert (scene.earned(0), scene.earned(2)) == (108, 136)


def test_claims_above_the_hold_are_dropped() -> None:
    scene = Scene(maximum=100)
    ledger, world, hold = scene.ledger, scene.world, scene.hold
    for attempt in range(3):
        ledger.do(claim(world, hold, node=NODES[attempt], attempt=attempt, output_tokens=9))
    scene.over()
    assert ledger.do(settle(world, hold)).amount == 90
    assert scene.state(2) is ClaimState.DROPPED


def test_only_what_could_be_paid_is_kept() -> None:
    scene = Scene(maximum=100)
    ledger, world, hold = scene.ledger, scene.world, scene.hold
    stranger = replace(hold, document=replace(hold.document, hold_id=world.new_id()))
    with pytest.raises(HoldUnknownError):
        ledger.do(claim(world, stranger, output_tokens=1))
    with pytest.raises(HoldForeignError):
        ledger.do(claim(world, hold, gateway=OTHER_GATEWAY, output_tokens=1))
    with pytest.raises(ChargeError):
        ledger.do(claim(world, hold, output_tokens=21))
    above = {"delivery": {"output_tokens": 3}}
    with pytest.raises(ReceiptError):
        ledger.do(claim(world, hold, output_tokens=2, **above))
    with pytest.raises(ReceiptError):
        ledger.do(claim(world, hold, output_tokens=0))
    other_node = world.leg(hold, node=NODES[1], output_tokens=1)
    leg = replace(other_node[0], node_id=NODES[0].peer_id), other_node[1]
    with pytest.raises(ReceiptError):
        ledger.do(claim_of(world, leg))
    ledger.do(claim(world, hold, output_tokens=1))
    with pytest.raises(ConflictError):
        ledger.do(claim(world, hold, output_tokens=2))
    with pytest.raises(ConflictError):
        ledger.do(claim(world, hold, node=NODES[1], output_tokens=1))
    for attempt in range(1, LEGS_PER_CAPTURE_MAX):
        ledger.do(claim(world, hold, attempt=attempt, output_tokens=1))
    with pytest.raises(LimitError):
        ledger.do(claim(world, hold, attempt=LEGS_PER_CAPTURE_MAX, output_tokens=1))


def test_a_claim_after_the_capture_is_kept_as_a_proof_until_the_time_is_over() -> None:
    scene = Scene()
    ledger, world, hold = scene.ledger, scene.world, scene.hold
    ledger.do(world.release(hold), claim(world, hold, output_tokens=1))
    assert scene.state(0) is ClaimState.OPEN
    scene.over()
    with pytest.raises(HoldExpiredError):
        ledger.do(claim(world, hold, attempt=1, output_tokens=1))


def test_claims_out_of_a_lease_are_paid_before_it_ends() -> None:
    scene = Scene()
    ledger, world, tenant = scene.ledger, scene.world, scene.tenant
    opened = lease(world, tenant, 500)
    ledger.do(opened)
    jobs = [part(world, opened, 200) for _ in range(3)]
    ledger.do(
        leased_claim(world, jobs[0], tenant, input_tokens=10, output_tokens=20),
        leased_claim(world, jobs[1], tenant, node=NODES[1], output_tokens=40),
    )
    with pytest.raises(HoldClaimedError):
        ledger.do(give_back(world, opened, final=True))
    with pytest.raises(HoldClaimedError):
        ledger.do(give_back(world, opened, 101))
    ledger.do(give_back(world, opened, 100))
    # The gateway comes back for one of them.
    legs = [part_leg(world, jobs[0], tenant, input_tokens=10, output_tokens=20)]
    ledger.do(capture_leased(world, jobs[0], legs))
    world.now_ms = opened.document.expires_ms
    with pytest.raises(HoldClaimedError):
        ledger.do(expire(world, opened))
    assert ledger.do(settle_part(world, opened, jobs[0])).exists
    assert ledger.do(settle_part(world, opened, jobs[1])).amount == 200
    assert ledger.do(settle_part(world, opened, jobs[1])).exists
    assert ledger.do(expire(world, opened)).amount == 500 - 100 - 120 - 200
    assert scene.earned(1) == 180
    assert ledger.book.namespaces[tenant.path].held == scene.hold.document.maximum


def test_a_lease_that_promised_too_much_pays_what_it_has() -> None:
    scene = Scene()
    ledger, world, tenant = scene.ledger, scene.world, scene.tenant
    opened = lease(world, tenant, 300)
    ledger.do(opened)
    jobs = [part(world, opened, 200) for _ in range(2)]
    for job in jobs:
        ledger.do(leased_claim(world, job, tenant, output_tokens=40))
    world.now_ms = opened.document.expires_ms
    assert ledger.do(settle_part(world, opened, jobs[0])).amount == 200
    assert ledger.do(settle_part(world, opened, jobs[1])).exists
    assert ledger.do(expire(world, opened)).amount == 100
    with pytest.raises(HoldEndedError):
        ledger.do(leased_claim(world, part(world, opened, 10), tenant, output_tokens=1))


def test_a_part_that_does_not_fit_its_lease_is_refused() -> None:
    scene = Scene()
    ledger, world, tenant = scene.ledger, scene.world, scene.tenant
    opened = lease(world, tenant, 300)
    ledger.do(opened)
    with pytest.raises(ReceiptError):
        ledger.do(leased_claim(world, part(world, opened, 301), tenant, output_tokens=1))
    late = part(world, opened, 10, expires_ms=opened.document.expires_ms + 1)
    with pytest.raises(ReceiptError):
        ledger.do(leased_claim(world, late, tenant, output_tokens=1))
    # A hold of its own is no lease, nor the other way round.
    with pytest.raises(HoldUnknownError):
        foreign = part(world, opened, 10, lease_id=scene.hold.document.hold_id)
        ledger.do(leased_claim(world, foreign, tenant, output_tokens=1))


attempts = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 60), st.booleans()),
    min_size=1,
    max_size=6,
)


@given(attempts, st.integers(0, 600))
def test_claims_are_paid_like_a_capture_of_what_fits(
    made: list[tuple[int, bool, int, bool]], maximum: int
) -> None:
    scene = Scene(maximum=maximum)
    ledger, world, hold = scene.ledger, scene.world, scene.hold
    kept = 0
    for attempt, (node, counts_input, output_tokens, other_request) in enumerate(made):
        changed = {"request_hash": bytes(32)} if other_request else {}
        try:
            ledger.do(
                claim(
                    world,
                    hold,
                    node=NODES[node],
                    attempt=attempt,
                    input_tokens=10 if counts_input else 0,
                    output_tokens=output_tokens,
                    receipt=changed,
                )
            )
            kept += 1
        except ChargeError:
            assert charge(TERMS, 10 if counts_input else 0, output_tokens) > maximum
    before = ledger.balances()
    scene.over()
    result = ledger.do(settle(world, hold))
    claims = ledger.book.claims.get(hold.document.hold_id, {}).values()
    paid = [one.leg for one in claims if one.state is ClaimState.PAID]
    assert len(claims) == kept
    if not paid:
        assert result.exists
        assert ledger.balances() == before
        return
    # Exactly what a capture with these legs would have paid.
    other = Scene(maximum=maximum)
    other.world.now_ms = scene.world.now_ms - 1
    documents = [decode_message(one.signed.body, Claim) for one in claims if one.leg in paid]
    legs = [
        (leg, CaptureLeg(d.receipt, d.delivery)) for leg, d in zip(paid, documents, strict=True)
    ]
    other.ledger.do(other.world.capture(other.hold, sorted(legs, key=lambda leg: attempt_of(leg))))
    assert other.ledger.balances() == ledger.balances()
    assert sum(1 for leg in paid if leg.delivery.input_tokens) <= 1


def attempt_of(leg: tuple[Leg, CaptureLeg]) -> int:
    return leg[0].receipt.attempt
