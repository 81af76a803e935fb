"""Jobs in subclouds, in the pure rules: who may call, and what of a charge the owner gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.accounts import NO_OWNER, fees_account, owner_account
from ledger.errors import LedgerError
from ledger.hold_context import HoldContext
from ledger.log.leaves import LoggedTransfer, transfer_openings
from ledger.operations import Operation, PlaceHold
from p2p.codec import encode_message
from p2p.key_limits import GLOBAL_POOL, KeyLimits
from p2p.log_messages import ConsumerLeg
from p2p.prices import FeeRule
from tests.fakes import claim_world
from tests.fakes.lease_world import capture_leased, charge_leased, lease, part, part_leg
from tests.fakes.ledger_world import (
    GATEWAY_ACCOUNT,
    MemoryLedger,
    Tenant,
    World,
)
from tests.fakes.subcloud_ledger import (
    OWNER,
    SHARED,
    SHARED_TERMS,
    SUBCLOUD,
    a_policy,
    a_token,
    open_one,
    owners_part,
)

OWNERS = owner_account(OWNER.account_id)


class Bench(MemoryLedger):
    def __init__(self, amount: int = 100_000) -> None:
        super().__init__(World())
        self.tenant, self.other = self.world.tenant(), self.world.tenant(1)
        self.do(*self.world.setup(self.tenant, amount))
        self.do(*self.world.setup(self.other, amount, nodes=0))

    def refused(self, operation: Operation) -> str:
        with pytest.raises(LedgerError) as caught:
            self.do(operation)
        return caught.value.code

    def hold(
        self, maximum: int = 1_000, tenant: Tenant | None = None, **options: object
    ) -> PlaceHold:
        options = {"terms": SHARED_TERMS, "context": SHARED, **options}
        return self.world.hold(tenant or self.tenant, maximum, **options)  # type: ignore[arg-type]


# --- the owner's share --------------------------------------------------------------------------
def test_the_owner_is_paid_out_of_the_charge() -> None:
    bench = Bench()
    hold = bench.hold()
    bench.do(hold, bench.world.capture(hold, [bench.world.leg(hold, output_tokens=101)]))
    found = bench.balances()
    assert found[OWNERS] == owners_part(505) == 75
    assert found[fees_account(GATEWAY_ACCOUNT)] == found["treasury"] == 25
    nodes = sum(amount for account, amount in found.items() if account.startswith("earnings:"))
    assert nodes == 505 - 75 - 25 - 25


def test_an_owner_that_is_also_the_gateway_gets_two_entries() -> None:
    bench = Bench()
    hold = replace(bench.hold(), gateway_account=OWNER.account_id)
    bench.do(hold, bench.world.capture(hold, [bench.world.leg(hold, output_tokens=100)]))
    assert bench.balances()[OWNERS] == 75
    assert bench.balances()[fees_account(OWNER.account_id)] == 25


def test_leases_and_claims_pay_the_owner() -> None:
    bench = Bench()
    world = bench.world
    opened = lease(world, bench.tenant, 5_000, terms=SHARED_TERMS, context=SHARED)
    bench.do(opened, charge_leased(world, opened, bench.tenant, 101))
    assert bench.balances()[OWNERS] == 75
    hold = bench.hold()
    bench.do(hold, claim_world.claim(world, hold, output_tokens=101))
    job = part(world, opened, 1_000)
    bench.do(claim_world.leased_claim(world, job, bench.tenant, output_tokens=101))
    world.now_ms += 700_000
    bench.do(claim_world.settle(world, hold), claim_world.settle_part(world, opened, job))
    assert bench.balances()[OWNERS] == 3 * 75


def test_a_job_out_of_a_lease_is_settled_under_the_leases_terms() -> None:
    bench = Bench()
    opened = lease(bench.world, bench.tenant, 5_000)
    job = part(bench.world, opened, 1_000)
    leg = part_leg(bench.world, job, bench.tenant, output_tokens=100)
    bench.do(opened, capture_leased(bench.world, job, [leg]))
    assert OWNERS not in bench.balances()


@given(st.integers(0, 2_000), st.integers(0, 5_000), st.integers(0, 5_000), st.integers(0, 5_000))
def test_fees_leave_something_or_are_refused(
    tokens: int, gateway: int, network: int, owner: int
) -> None:
    bench = Bench()
    terms = replace(SHARED_TERMS, owner_fee_basis_points=owner)
    hold = bench.hold(10_000, terms=terms, fees=FeeRule(gateway, network))
    if owner and gateway + network + owner > 9_000:
        assert bench.refused(hold) == "value_refused"
        return
    bench.do(hold, bench.world.capture(hold, [bench.world.leg(hold, output_tokens=tokens)]))
    found = bench.balances()
    assert found.get(OWNERS, 0) == 5 * tokens * owner // 10_000
    earned = sum(amount for account, amount in found.items() if account.startswith("earnings:"))
    assert earned >= (tokens * 5 // 10 if owner else 0)


def test_terms_of_a_subcloud_without_an_owner_are_refused() -> None:
    bench = Bench()
    assert bench.refused(bench.world.hold(bench.tenant, 10, terms=SHARED_TERMS)) == "value_refused"
    loose = replace(SHARED_TERMS, subcloud_id="")
    assert bench.refused(bench.hold(terms=loose)) == "value_refused"


# --- who may call -------------------------------------------------------------------------------
def judged(**callers: object) -> HoldContext:
    return HoldContext(OWNER.account_id, a_policy(callers=callers))


def test_only_named_callers_get_holds_and_leases() -> None:
    bench = Bench()
    one = bench.tenant
    for callers in (
        {"anyone": True},
        {"accounts": (one.account_id,)},
        {"namespaces": (one.path,)},
        {"keys": (one.api_key.key_id,)},
    ):
        context = judged(**callers)
        bench.do(bench.hold(context=context))
        bench.do(lease(bench.world, one, 100, terms=SHARED_TERMS, context=context))
        if "anyone" not in callers:
            assert bench.refused(bench.hold(10, bench.other, context=context)) == (
                "caller_not_allowed"
            )
            foreign = lease(bench.world, bench.other, 10, terms=SHARED_TERMS, context=context)
            assert bench.refused(foreign) == "caller_not_allowed"
    assert bench.refused(bench.hold(context=judged())) == "caller_not_allowed"


def test_the_source_networks_bound_everybody() -> None:
    bench = Bench()
    context = judged(anyone=True, source_networks=("10.0.0.0/8",))
    assert bench.refused(bench.hold(context=context)) == "caller_not_allowed"
    assert bench.refused(bench.hold(context=context, caller_network="::/0")) == (
        "caller_not_allowed"
    )
    bench.do(bench.hold(context=context, caller_network="10.0.0.0/8"))
    wrong = lease(bench.world, bench.tenant, 10, terms=SHARED_TERMS, context=context)
    assert bench.refused(wrong) == "caller_not_allowed"


def test_who_lacks_the_key_learns_nothing_of_the_policy() -> None:
    bench = Bench()
    assert bench.refused(bench.hold(context=judged(), mac=bytes(32))) == "key_proof"


def test_a_gateway_of_one_account_serves_its_namespaces_only() -> None:
    bench = Bench()
    context = replace(SHARED, own_namespaces_only=True)
    own = {"gateway_account": bench.tenant.account_id}
    bench.do(replace(bench.hold(context=context), **own))  # type: ignore[arg-type]
    foreign = replace(bench.hold(10, bench.other, context=context), **own)  # type: ignore[arg-type]
    assert bench.refused(foreign) == "gateway_private"
    opened = lease(bench.world, bench.other, 10, terms=SHARED_TERMS, context=context)
    assert bench.refused(replace(opened, **own)) == "gateway_private"  # type: ignore[arg-type]
    bench.do(replace(bench.world.hold(bench.other, 10), **own))  # type: ignore[arg-type]


# --- tokens ---------------------------------------------------------------------------------------
def with_token(bench: Bench, tenant: Tenant | None = None, **fields: object) -> PlaceHold:
    token = open_one(**fields)  # type: ignore[arg-type]
    context = HoldContext(OWNER.account_id, a_policy(callers={"tokens": True}), token)
    return bench.hold(10, tenant, context=context, caller_token=a_token(**fields))


def test_a_token_is_counted_once_for_each_hold() -> None:
    bench = Bench()
    first = with_token(bench, uses=2)
    assert bench.do(first).exists is False
    assert bench.do(first).exists is True
    bench.do(with_token(bench, uses=2))
    assert bench.refused(with_token(bench, uses=2)) == "caller_token"
    bench.do(with_token(bench, number=2, uses=0))
    assert [use.uses for use in bench.book.token_uses.values()] == [2, 1]


def test_a_refused_hold_uses_nothing() -> None:
    bench = Bench(amount=5)
    assert bench.refused(with_token(bench, uses=1)) == "insufficient_funds"
    bench.do(bench.world.grant(bench.tenant, 100), with_token(bench, uses=1))


def test_a_token_belongs_to_who_used_it_first() -> None:
    bench = Bench()
    bench.do(with_token(bench))
    assert bench.refused(with_token(bench, bench.other)) == "caller_token"
    bench.do(with_token(bench))


def test_a_token_for_a_namespace_is_worthless_to_others() -> None:
    bench = Bench()
    bound = {"account": bench.tenant.account_id, "namespace": "dev"}
    assert bench.refused(with_token(bench, bench.other, **bound)) == "caller_not_allowed"
    bench.do(with_token(bench, **bound))
    elsewhere = {**bound, "namespace": "prod", "number": 2}
    assert bench.refused(with_token(bench, **elsewhere)) == "caller_not_allowed"


# --- keys -----------------------------------------------------------------------------------------
def limited(*subclouds: str) -> Bench:
    bench = Bench()
    key = bench.book.keys[bench.tenant.api_key.key_id]
    bench.book.keys[key.key_id] = replace(key, limits=KeyLimits(subclouds=subclouds))
    return bench


def test_a_key_may_be_limited_to_subclouds() -> None:
    bench = limited(SUBCLOUD)
    bench.do(bench.hold())
    bench.do(lease(bench.world, bench.tenant, 10, terms=SHARED_TERMS, context=SHARED))
    assert bench.refused(bench.world.hold(bench.tenant, 10)) == "key_not_allowed"
    assert bench.refused(lease(bench.world, bench.tenant, 10)) == "key_not_allowed"
    bench = limited(GLOBAL_POOL)
    bench.do(bench.world.hold(bench.tenant, 10))
    assert bench.refused(bench.hold()) == "key_not_allowed"


# --- repeats --------------------------------------------------------------------------------------
def test_the_token_is_part_of_what_a_hold_asks_for() -> None:
    bench = Bench()
    hold = with_token(bench)
    bench.do(hold)
    other = replace(hold.document, caller_token=a_token(2))
    changed = replace(hold, document=other, signed=hold.signed)
    assert bench.refused(changed) == "id_conflict"


# --- the log --------------------------------------------------------------------------------------
def test_the_logs_leaf_covers_who_the_owner_is() -> None:
    bench = Bench()
    plain, shared = bench.world.hold(bench.tenant, 10), bench.hold(10)
    bench.do(plain, shared)

    def record(hold: PlaceHold, **changes: object) -> bytes:
        (made,) = [t for t in bench.book.new_transfers if t.transfer_id == hold.document.hold_id]
        kept = replace(bench.book.holds[made.transfer_id], **changes)  # type: ignore[arg-type]
        logged = LoggedTransfer(
            *(1, made.transfer_id, made.kind, made.namespace, made.content, made.request),
            *(encode_message(made.result), made.at_ms, made.entries, kept),
        )
        (opening,) = transfer_openings(logged)
        assert isinstance(opening, ConsumerLeg)
        return opening.record

    assert record(shared) != record(shared, owner_account=GATEWAY_ACCOUNT)
    assert record(shared) != record(shared, owner_account=NO_OWNER)
    assert record(plain) == record(plain, owner_account=NO_OWNER)
