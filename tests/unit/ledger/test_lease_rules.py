"""The rules of leases, without a database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import (
    ChargeError,
    ConflictError,
    HoldEndedError,
    HoldExpiredError,
    HoldForeignError,
    HoldUnknownError,
    InsufficientFundsError,
    KeyCapError,
    KeyDayCapError,
    KeyExpiredError,
    KeyNotAllowedError,
    KeyProofError,
    KeyRevokedError,
    KeyUnknownError,
    LeaseExhaustedError,
    ReceiptError,
    RequestError,
    ValueRefusedError,
)
from ledger.key_limits import DAY_MS
from ledger.operations import Operation
from ledger.usage import Counts
from p2p.key_limits import KeyLimits
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.prices import FeeRule
from tests.fakes.lease_world import (
    capture_leased,
    charge_leased,
    expire,
    give_back,
    lease,
    part,
    part_leg,
)
from tests.fakes.ledger_world import (
    GATEWAY,
    GATEWAY_ACCOUNT,
    NODE_ACCOUNTS,
    NODES,
    OTHER_GATEWAY,
    START_MS,
    MemoryLedger,
    Tenant,
    World,
)


class Bench:
    """A tenant with 10,000 microcredits in a ledger in memory."""

    def __init__(self, **key: Any) -> None:
        self.world = World()
        self.tenant: Tenant = self.world.tenant()
        self.ledger = MemoryLedger(self.world)
        first, second, _, *rest = self.world.setup(self.tenant, 10_000)
        self.ledger.do(first, second, self.world.creation(self.tenant, **key), *rest)

    def do(self, *operations: Operation) -> Any:
        return self.ledger.do(*operations)

    def refuses(self, operation: Operation, kind: type[RequestError]) -> RequestError:
        before = self.ledger.balances()
        with pytest.raises(kind) as refused:
            self.do(operation)
        assert self.ledger.balances() == before
        return refused.value

    @property
    def money(self) -> tuple[int, int]:
        namespace = self.ledger.book.namespaces[self.tenant.path]
        return namespace.available, namespace.held

    @property
    def use(self) -> tuple[int, int, int]:
        usage = self.ledger.book.usage[self.tenant.api_key.key_id]
        return usage.spent, usage.held, usage.day_used


def test_a_lease_moves_its_amount_and_each_part_of_it_once() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    opened = lease(world, tenant, 4_000)
    assert bench.do(opened).available == 6_000
    assert (bench.money, bench.use) == ((6_000, 4_000), (0, 4_000, 4_000))
    assert bench.do(charge_leased(world, opened, tenant, 200)).amount == 1_000
    assert (bench.money, bench.use) == ((6_000, 3_000), (1_000, 3_000, 4_000))
    assert bench.do(give_back(world, opened, 500)).available == 6_500
    assert (bench.money, bench.use) == ((6_500, 2_500), (1_000, 2_500, 3_500))
    assert bench.do(give_back(world, opened, final=True)).amount == 2_500
    assert (bench.money, bench.use) == ((9_000, 0), (1_000, 0, 1_000))
    path = tenant.path
    assert bench.ledger.balances() == {
        "mint": -10_000,
        f"namespace:{path}": 9_000,
        f"earnings:{NODE_ACCOUNTS[0]}": 900,
        f"fees:{GATEWAY_ACCOUNT}": 50,
        "treasury": 50,
    }


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["charge", "charge", "return"]), st.integers(0, 900)),
        max_size=20,
    ),
    final=st.booleans(),
)
def test_captures_and_returns_never_exceed_the_lease(
    steps: list[tuple[str, int]], final: bool
) -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    opened = lease(world, tenant, 2_000)
    bench.do(opened)
    charged = returned = 0
    for what, number in steps:
        amount = 5 * (number // 5)
        left = 2_000 - charged - returned
        operation = (
            charge_leased(world, opened, tenant, amount // 5)
            if what == "charge"
            else give_back(world, opened, amount)
        )
        if amount > left:
            error = bench.refuses(operation, LeaseExhaustedError)
            assert isinstance(error, LeaseExhaustedError)
            assert (error.amount, error.left) == (amount, left)
            continue
        assert bench.do(operation).amount == amount
        charged += amount if what == "charge" else 0
        returned += amount if what == "return" else 0
        assert bench.money == (8_000 + returned, 2_000 - charged - returned)
        assert bench.use == (charged, 2_000 - charged - returned, 2_000 - returned)
    if final:
        end = give_back(world, opened, final=True)
    else:
        world.now_ms = opened.document.expires_ms
        end = expire(world, opened)
    assert bench.do(end).amount == 2_000 - charged - returned
    assert bench.money == (10_000 - charged, 0)
    assert bench.use == (charged, 0, charged)
    assert bench.do(end).exists


def test_a_gateway_that_promises_more_than_it_has_is_refused() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    opened = lease(world, tenant, 1_000)
    bench.do(opened)
    captures = [charge_leased(world, opened, tenant, 120) for _ in range(2)]
    bench.do(captures[0])
    error = bench.refuses(captures[1], LeaseExhaustedError)
    assert str(error) == "this lease has 400 microcredits left, 600 are too many"
    # What was given back is as good as never had.
    bench.do(give_back(world, opened, final=True))
    error = bench.refuses(charge_leased(world, opened, tenant, 1), LeaseExhaustedError)
    assert isinstance(error, LeaseExhaustedError)
    assert error.left == 0
    bench.refuses(charge_leased(world, opened, tenant, 0), LeaseExhaustedError)


def test_a_leased_hold_is_paid_once() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    opened, second = lease(world, tenant, 1_000), lease(world, tenant, 1_000)
    bench.do(opened, second)
    job = part(world, opened, 500)
    leg = part_leg(world, job, tenant, output_tokens=50)
    capture = capture_leased(world, job, [leg])
    first = bench.do(capture)
    assert first.transfer_id == job.hold_id
    world.now_ms += 1_000
    again = bench.do(capture_leased(world, job, [leg], outcome="failed"))
    assert again == replace(first, exists=True)
    more = part_leg(world, job, tenant, output_tokens=60)
    bench.refuses(capture_leased(world, job, [more]), ConflictError)
    elsewhere = replace(job, lease_id=second.document.lease_id)
    bench.refuses(capture_leased(world, elsewhere, [leg]), ConflictError)
    # Nor from a hold of its own, with the same receipt: before the leased capture, or after it.
    bench.refuses(world.hold(tenant, 500, hold_id=job.hold_id), ValueRefusedError)
    placed = world.hold(tenant, 500)
    bench.do(placed)
    double = part(world, opened, 400, hold_id=placed.document.hold_id)
    leg = part_leg(world, double, tenant, output_tokens=10)
    bench.refuses(capture_leased(world, double, [leg]), ConflictError)


def test_what_is_wrong_with_a_part() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    opened = lease(world, tenant, 1_000)
    bench.do(opened)
    document = opened.document

    def captured(leg: dict[str, object] | None = None, **changes: object) -> Operation:
        job = replace(part(world, opened, 500), **changes)
        return capture_leased(
            world, job, [part_leg(world, job, tenant, output_tokens=10, **(leg or {}))]
        )

    for changes in (
        {"maximum": 1_001},
        {"expires_ms": document.expires_ms + 1},
        {"issued_ms": document.issued_ms - CLOCK_SKEW_MS_MAX - 1},
        {"hold_id": bytes(16)},
        {"job_id": bytes(16)},
    ):
        bench.refuses(captured(**changes), ReceiptError)
    bench.refuses(captured({"receipt": {"job_id": bytes(16)}}), ReceiptError)
    bench.refuses(captured({"delivery": {"output_tokens": 11}}), ReceiptError)
    bench.refuses(captured(maximum=49), ChargeError)
    bench.refuses(captured({"node": NODES[7]}), ReceiptError)
    bench.refuses(captured(lease_id=bytes(16)), HoldUnknownError)
    placed = world.hold(tenant, 500)
    bench.do(placed)
    bench.refuses(captured(lease_id=placed.document.hold_id), HoldUnknownError)
    bench.do(captured(issued_ms=document.issued_ms - CLOCK_SKEW_MS_MAX))


def test_a_lease_is_its_gateways_and_no_ordinary_hold() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    opened = lease(world, tenant, 1_000)
    bench.do(opened)
    job = part(world, opened, 500)
    leg = part_leg(world, job, tenant, output_tokens=1, gateway=OTHER_GATEWAY)
    bench.refuses(capture_leased(world, job, [leg], gateway=OTHER_GATEWAY), HoldForeignError)
    bench.refuses(give_back(world, opened, 1, gateway=OTHER_GATEWAY), HoldForeignError)
    as_hold = world.hold(tenant, 1_000, hold_id=opened.document.lease_id)
    bench.refuses(as_hold, ConflictError)
    bench.refuses(world.release(as_hold), HoldUnknownError)
    leg = world.leg(as_hold, output_tokens=1)
    bench.refuses(world.capture(as_hold, [leg]), HoldUnknownError)
    bench.refuses(give_back(world, opened, 1, final=True), ValueRefusedError)


def test_when_a_lease_ends() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    bench.refuses(lease(world, tenant, 10, lifetime_ms=1_200_001), HoldExpiredError)
    bench.refuses(lease(world, tenant, 10, lifetime_ms=0), HoldExpiredError)
    opened = lease(world, tenant, 1_000, lifetime_ms=1_200_000)
    bench.do(opened)
    bench.refuses(expire(world, opened), HoldExpiredError)
    late = charge_leased(world, opened, tenant, 1)
    world.now_ms = opened.document.expires_ms
    bench.refuses(late, HoldExpiredError)
    # Until the sweep comes, its gateway may still give it back.
    bench.do(give_back(world, opened, 100))
    bench.do(expire(world, opened))
    assert bench.money == (10_000, 0)
    bench.refuses(give_back(world, opened, 1), HoldEndedError)
    world.now_ms = START_MS  # a clock that went back
    bench.refuses(late, HoldEndedError)


def test_a_lease_is_under_all_limits_of_its_key() -> None:
    limits = KeyLimits(microcredits_per_day=900)
    bench = Bench(credit_cap_total=1_000, limits=limits, models=("tiny-chat",))
    world, tenant = bench.world, bench.tenant
    bench.refuses(lease(world, tenant, 1_001), KeyCapError)
    bench.refuses(lease(world, tenant, 901), KeyDayCapError)
    bench.do(opened := lease(world, tenant, 900))
    bench.refuses(world.hold(tenant, 1), KeyDayCapError)
    bench.do(give_back(world, opened, 400))
    bench.do(world.hold(tenant, 400))
    world.now_ms += DAY_MS
    error = bench.refuses(world.hold(tenant, 101), KeyCapError)
    assert isinstance(error, KeyCapError)
    assert error.used == 900
    # What comes back now counts for the day of the lease, not for today.
    bench.do(world.hold(tenant, 100))
    bench.do(expire(world, opened))
    assert bench.use == (0, 500, 100)


def test_who_may_lease() -> None:
    bench = Bench(models=("tiny-chat",), gateways=(GATEWAY.peer_id,))
    world, tenant = bench.world, bench.tenant
    bench.refuses(lease(world, tenant, 10, mac=bytes(32)), KeyProofError)
    bench.refuses(lease(world, world.tenant(1), 10), KeyUnknownError)
    bench.refuses(lease(world, tenant, 10, gateway=OTHER_GATEWAY), KeyNotAllowedError)
    other_model = replace(lease(world, tenant, 10).document.terms, model_name="large")
    bench.refuses(lease(world, tenant, 10, terms=other_model), KeyNotAllowedError)
    hold_proof = world.hold(tenant, 10).document.mac
    bench.refuses(lease(world, tenant, 10, mac=hold_proof), KeyProofError)
    for amount in (0, 101):
        bench.refuses(lease(world, tenant, amount, amount_max=100), ValueRefusedError)
    assert "no leases" in str(
        bench.refuses(lease(world, tenant, 1, amount_max=0), ValueRefusedError)
    )
    bench.refuses(lease(world, tenant, 10_001), InsufficientFundsError)
    asked = lease(world, tenant, 10)
    bench.do(asked)
    assert bench.do(asked).exists
    changed = lease(world, tenant, 11, lease_id=asked.document.lease_id)
    bench.refuses(changed, ConflictError)


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_key_that_ends_does_not_stop_what_was_leased(how: str) -> None:
    bench = Bench(expires_ms=START_MS + 50_000)
    world, tenant = bench.world, bench.tenant
    opened = lease(world, tenant, 1_000)
    bench.do(opened)
    if how == "revoked":
        bench.do(world.revocation(tenant))
        bench.refuses(lease(world, tenant, 1), KeyRevokedError)
    else:
        world.now_ms += 60_000
        bench.refuses(lease(world, tenant, 1), KeyExpiredError)
    assert bench.do(charge_leased(world, opened, tenant, 100)).amount == 500
    assert bench.do(give_back(world, opened, final=True)).available == 9_500


def test_fees_are_those_of_the_leases_start() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    bench.do(opened := lease(world, tenant, 1_000, fees=FeeRule(1_000, 0)))
    bench.do(charge_leased(world, opened, tenant, 100))
    found = bench.ledger.balances()
    assert found[f"fees:{GATEWAY_ACCOUNT}"] == 50
    assert "treasury" not in found


def test_jobs_of_several_attempts_pay_each_node() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    bench.do(opened := lease(world, tenant, 1_000))
    job = part(world, opened, 1_000)
    legs = [
        part_leg(world, job, tenant, node=NODES[0], input_tokens=50, output_tokens=20),
        part_leg(world, job, tenant, node=NODES[1], attempt=1, output_tokens=40),
    ]
    assert bench.do(capture_leased(world, job, legs)).amount == 400
    found = bench.ledger.balances()
    assert [found[f"earnings:{account}"] for account in NODE_ACCOUNTS[:2]] == [180, 180]


def test_usage_counts_jobs_and_not_leases() -> None:
    bench = Bench()
    world, tenant = bench.world, bench.tenant
    bench.do(opened := lease(world, tenant, 1_000))
    bench.do(charge_leased(world, opened, tenant, 10))
    bench.do(give_back(world, opened, 0, failed=3, client_left=2))
    bench.do(give_back(world, opened, final=True))
    ((key, counts),) = bench.ledger.book.consumed.items()
    assert (key.key_id, key.model) == (tenant.api_key.key_id, "tiny-chat")
    expected = Counts(6, 1, client_left=2, failed=3, output_tokens=10, charged=50)
    assert replace(counts, duration_ms=0) == expected
    assert sum(legs for legs, _ in bench.ledger.book.worked.values()) == 1
