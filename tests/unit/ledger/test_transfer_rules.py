"""The rules of transfers: bad receipts, holds that cannot be had, repetitions, ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.errors import (
    ChargeError,
    ConflictError,
    GrantCapError,
    HoldEndedError,
    HoldExpiredError,
    HoldForeignError,
    HoldUnknownError,
    InsufficientFundsError,
    KeyCapError,
    KeyExpiredError,
    KeyNotAllowedError,
    KeyProofError,
    KeyRevokedError,
    KeyUnknownError,
    LedgerError,
    NamespaceUnknownError,
    ReceiptError,
    ValueRefusedError,
)
from ledger.limits import GRANT_EPOCH_MS
from ledger.operations import Operation, PlaceHold
from tests.fakes.ledger_world import (
    GATEWAY,
    NODES,
    OTHER_GATEWAY,
    TERMS,
    MemoryLedger,
    Tenant,
    World,
)


class Ready:
    """A ledger where a tenant has 100,000 microcredits."""

    def __init__(self, *, cap: int = 0, amount: int = 100_000) -> None:
        self.world = World()
        self.ledger = MemoryLedger(self.world)
        self.tenant: Tenant = self.world.tenant()
        self.ledger.do(*self.world.setup(self.tenant, amount, cap=cap))

    def held(self, maximum: int = 1_000) -> PlaceHold:
        hold = self.world.hold(self.tenant, maximum)
        self.ledger.do(hold)
        return hold

    def refuses(self, operation: Operation, error: type[LedgerError]) -> LedgerError:
        before = self.ledger.balances()
        with pytest.raises(error) as caught:
            self.ledger.do(operation)
        assert self.ledger.balances() == before
        return caught.value


OTHER = bytes([77])
BAD_LEGS: dict[str, Callable[[Ready, PlaceHold], list]] = {
    "receipt of another hold": lambda r, h: [
        r.world.leg(h, output_tokens=5, receipt={"hold_id": OTHER * 16})
    ],
    "count of another hold": lambda r, h: [
        r.world.leg(h, output_tokens=5, delivery={"hold_id": OTHER * 16})
    ],
    "receipt of another job": lambda r, h: [
        r.world.leg(h, output_tokens=5, receipt={"job_id": OTHER * 16})
    ],
    "count of another job": lambda r, h: [
        r.world.leg(h, output_tokens=5, delivery={"job_id": OTHER * 16})
    ],
    "receipt for another gateway": lambda r, h: [
        r.world.leg(h, output_tokens=5, receipt={"gateway_id": OTHER_GATEWAY.peer_id})
    ],
    "count for another node": lambda r, h: [
        r.world.leg(h, output_tokens=5, delivery={"node_id": NODES[1].peer_id})
    ],
    "different attempts": lambda r, h: [r.world.leg(h, output_tokens=5, delivery={"attempt": 1})],
    "different offers": lambda r, h: [
        r.world.leg(h, output_tokens=5, delivery={"offer_hash": OTHER * 32})
    ],
    "another model": lambda r, h: [
        r.world.leg(h, output_tokens=5, receipt={"model_digest": OTHER * 32})
    ],
    "more output counted than signed": lambda r, h: [
        r.world.leg(h, output_tokens=5, delivery={"output_tokens": 6})
    ],
    "more input counted than signed": lambda r, h: [
        r.world.leg(h, input_tokens=5, output_tokens=5, delivery={"input_tokens": 6})
    ],
    "more cached input counted than signed": lambda r, h: [
        r.world.leg(h, input_tokens=5, output_tokens=5, delivery={"cached_input_tokens": 1})
    ],
    "less cached input counted than signed": lambda r, h: [
        r.world.leg(h, input_tokens=5, output_tokens=5, receipt={"cached_input_tokens": 1})
    ],
    "cached input without input": lambda r, h: [
        r.world.leg(h, output_tokens=5, delivery={"cached_input_tokens": 1})
    ],
    "ends before it starts": lambda r, h: [
        r.world.leg(h, output_tokens=5, receipt={"at_ms": 5, "started_ms": 6})
    ],
    "from the future": lambda r, h: [
        r.world.leg(h, output_tokens=5, receipt={"at_ms": r.world.now_ms + 3_600_000})
    ],
    "input without output, not final": lambda r, h: [
        r.world.leg(h, input_tokens=5, receipt={"final": False})
    ],
    "input without output, cancelled": lambda r, h: [
        r.world.leg(h, input_tokens=5, receipt={"finish_reason": "cancelled"})
    ],
    "input without the output that the node signed": lambda r, h: [
        r.world.leg(h, input_tokens=5, receipt={"output_tokens": 7})
    ],
    "an attempt twice": lambda r, h: [
        r.world.leg(h, output_tokens=5),
        r.world.leg(h, output_tokens=5),
    ],
    "an attempt twice, by two nodes": lambda r, h: [
        r.world.leg(h, output_tokens=5),
        r.world.leg(h, output_tokens=5, node=NODES[1]),
    ],
    "different requests": lambda r, h: [
        r.world.leg(h, output_tokens=5),
        r.world.leg(h, attempt=1, output_tokens=5, receipt={"request_hash": OTHER * 32}),
    ],
    "input twice": lambda r, h: [
        r.world.leg(h, input_tokens=5, output_tokens=5),
        r.world.leg(h, attempt=1, input_tokens=5, output_tokens=5),
    ],
    "input at a later attempt than the first output": lambda r, h: [
        r.world.leg(h, output_tokens=5),
        r.world.leg(h, attempt=1, input_tokens=5, output_tokens=5),
    ],
    "a node without an account": lambda r, h: [r.world.leg(h, output_tokens=5, node=NODES[7])],
}


@pytest.mark.parametrize("name", BAD_LEGS)
def test_bad_receipts_are_refused_and_the_hold_stays(name: str) -> None:
    ready = Ready()
    hold = ready.held()
    error = ready.refuses(ready.world.capture(hold, BAD_LEGS[name](ready, hold)), ReceiptError)
    assert error.code == "receipt_invalid"
    good = ready.world.capture(hold, [ready.world.leg(hold, input_tokens=5, output_tokens=5)])
    assert ready.ledger.do(good).amount == 35


def test_cached_input_is_charged_at_its_own_price() -> None:
    ready = Ready()
    terms = replace(TERMS, cached_input_microcredits_per_million_tokens=500_000)
    hold = ready.world.hold(ready.tenant, 1_000, terms=terms)
    ready.ledger.do(hold)
    cached = {"cached_input_tokens": 40}
    leg = ready.world.leg(hold, input_tokens=60, output_tokens=5, receipt=cached, delivery=cached)
    assert ready.ledger.do(ready.world.capture(hold, [leg])).amount == 20 * 2 + 40 // 2 + 5 * 5


def test_a_charge_above_the_hold_is_refused() -> None:
    ready = Ready()
    hold = ready.held(34)
    capture = ready.world.capture(hold, [ready.world.leg(hold, input_tokens=5, output_tokens=5)])
    error = ready.refuses(capture, ChargeError)
    assert (error.charge, error.maximum) == (35, 34)


def test_the_whole_balance_can_be_held_but_not_more() -> None:
    ready = Ready(amount=1_000)
    error = ready.refuses(ready.world.hold(ready.tenant, 1_001), InsufficientFundsError)
    assert (error.available, error.needed) == (1_000, 1_001)
    result = ready.ledger.do(ready.world.hold(ready.tenant, 1_000))
    assert result.available == 0


def test_holds_need_a_key_that_may() -> None:
    ready = Ready()
    world, tenant = ready.world, ready.tenant
    ready.refuses(world.hold(world.tenant(5), 1), KeyUnknownError)
    ready.refuses(world.hold(tenant, 1, mac=bytes(32)), KeyProofError)
    ready.refuses(world.hold(tenant, 1, lifetime_ms=0), HoldExpiredError)
    ready.refuses(world.hold(tenant, 1, lifetime_ms=900_001), HoldExpiredError)
    # A MAC for one gateway, maximum or hold is worth nothing for another.
    hold = world.hold(tenant, 10)
    for change in ({"maximum": 11}, {"hold_id": OTHER * 16}, {"expires_ms": world.now_ms + 1}):
        document = replace(hold.document, **change)
        ready.refuses(replace(hold, document=document), KeyProofError)
    ready.refuses(replace(hold, gateway_id=OTHER_GATEWAY.peer_id), KeyProofError)
    ready.ledger.do(world.revocation(tenant))
    ready.refuses(world.hold(tenant, 1), KeyRevokedError)


def test_limits_of_a_key() -> None:
    world = World()
    ledger, tenant = MemoryLedger(world), world.tenant()
    ledger.do(tenant.founding, world.opening(tenant), world.grant(tenant, 1_000))
    ledger.do(
        world.creation(
            tenant,
            models=("tiny-chat",),
            gateways=(GATEWAY.peer_id,),
            expires_ms=world.now_ms + 1_000,
        )
    )
    ledger.do(world.hold(tenant, 1))
    with pytest.raises(KeyNotAllowedError, match="gateway"):
        ledger.do(world.hold(tenant, 1, gateway=OTHER_GATEWAY))
    with pytest.raises(KeyNotAllowedError, match="other-model"):
        ledger.do(world.hold(tenant, 1, terms=replace(TERMS, model_name="other-model")))
    world.now_ms += 1_000
    with pytest.raises(KeyExpiredError):
        ledger.do(world.hold(tenant, 1))


def test_the_cap_counts_what_is_spent_and_held() -> None:
    ready = Ready(cap=1_000)
    first = ready.held(600)
    error = ready.refuses(ready.world.hold(ready.tenant, 401), KeyCapError)
    assert (error.used, error.needed, error.cap) == (600, 401, 1_000)
    leg = ready.world.leg(first, output_tokens=20)
    ready.ledger.do(ready.world.capture(first, [leg]))  # 100 are spent, 500 come back
    ready.refuses(ready.world.hold(ready.tenant, 901), KeyCapError)
    ready.ledger.do(ready.world.hold(ready.tenant, 900))


def test_a_hold_ends_exactly_once() -> None:
    ready = Ready()
    world = ready.world
    ends = {
        "captured": lambda h: world.capture(h, [world.leg(h, output_tokens=1)]),
        "released": world.release,
        "expired": world.expire,
    }
    for state, end in ends.items():
        hold = ready.held()
        if state == "expired":
            ready.refuses(world.expire(hold), HoldExpiredError)
            world.now_ms += 60_000
        ready.ledger.do(end(hold))
        for other in (ends["captured"], ends["released"]):
            error = ready.refuses(other(hold), HoldEndedError)
            assert error.state == state
        assert ready.ledger.do(world.expire(hold)).exists
        world.now_ms += 1


def test_an_expired_hold_cannot_be_captured_even_before_the_sweep() -> None:
    ready = Ready()
    hold = ready.held()
    ready.world.now_ms += 60_000
    leg = ready.world.leg(hold, output_tokens=1)
    ready.refuses(ready.world.capture(hold, [leg]), HoldExpiredError)


def test_only_the_gateway_of_a_hold_can_end_it() -> None:
    ready = Ready()
    world, hold = ready.world, ready.held()
    leg = world.leg(hold, output_tokens=1, gateway=OTHER_GATEWAY)
    ready.refuses(world.capture(hold, [leg], gateway=OTHER_GATEWAY), HoldForeignError)
    ready.refuses(world.release(hold, gateway=OTHER_GATEWAY), HoldForeignError)
    unknown = world.hold(ready.tenant, 5)
    ready.refuses(world.release(unknown), HoldUnknownError)


def test_repetitions_give_the_first_result() -> None:
    ready = Ready()
    world, tenant = ready.world, ready.tenant
    hold = world.hold(tenant, 1_000)
    for operation in (
        world.grant(tenant, 5),
        hold,
        world.capture(hold, [world.leg(hold, output_tokens=3)]),
    ):
        first = ready.ledger.do(operation)
        ready.ledger.do(world.grant(tenant, 1))
        assert not first.exists
        assert ready.ledger.do(operation) == replace(first, exists=True)


def test_a_question_can_be_signed_again_later() -> None:
    ready = Ready()
    world = ready.world
    hold_id, expires_in_ms = world.new_id(), 60_000
    first = ready.ledger.do(world.hold(ready.tenant, 7, hold_id=hold_id, lifetime_ms=expires_in_ms))
    world.now_ms += 250
    again = world.hold(ready.tenant, 7, hold_id=hold_id, lifetime_ms=expires_in_ms - 250)
    assert ready.ledger.do(again) == replace(first, exists=True)


def test_one_id_with_other_content_is_refused() -> None:
    ready = Ready()
    world, tenant = ready.world, ready.tenant
    hold = ready.held()
    used = hold.document.hold_id
    other = ready.held()
    ready.refuses(world.hold(tenant, 999, hold_id=used), ConflictError)
    ready.refuses(world.grant(tenant, 1, grant_id=used), ConflictError)
    ready.refuses(world.release(other, release_id=used), ConflictError)
    leg = world.leg(other, output_tokens=1)
    ready.refuses(world.capture(other, [leg], capture_id=used), ConflictError)


def test_grants_are_capped_per_mint_key_and_epoch() -> None:
    ready = Ready(amount=0)
    world, tenant = ready.world, ready.tenant
    ready.ledger.do(world.grant(tenant, 600, epoch_cap=1_000))
    error = ready.refuses(world.grant(tenant, 401, epoch_cap=1_000), GrantCapError)
    assert (error.granted, error.amount, error.cap) == (600, 401, 1_000)
    ready.ledger.do(world.grant(tenant, 400, epoch_cap=1_000))
    ready.refuses(world.grant(tenant, 0), ValueRefusedError)
    ready.refuses(world.grant(world.tenant(9), 1), NamespaceUnknownError)
    assert GRANT_EPOCH_MS == 86_400_000


def test_fees_are_those_of_the_hold() -> None:
    ready = Ready()
    hold = ready.held()
    assert ready.ledger.book.holds[hold.document.hold_id].fees == hold.fees


def test_a_free_model_moves_no_money() -> None:
    ready = Ready()
    free = replace(
        TERMS, input_microcredits_per_million_tokens=0, output_microcredits_per_million_tokens=0
    )
    hold = ready.world.hold(ready.tenant, 0, terms=free)
    ready.ledger.do(hold)
    leg = ready.world.leg(hold, input_tokens=5, output_tokens=5)
    assert ready.ledger.do(ready.world.capture(hold, [leg])).amount == 0
