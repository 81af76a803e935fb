"""Limits of an API key in use are changed: in force at once, in order, and the audit follows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.errors import LedgerError
from ledger.operations import Operation
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.queries import key_view
from p2p.key_limits import KeyLimits
from p2p.ledger_messages import TransferResult
from tests.fakes.account_world import DAY_MS, limits_change, rotation
from tests.fakes.ledger_world import GATEWAY, MINT, NETWORK, OTHER_GATEWAY, World, key_pair


class Owner:
    """A database with a tenant whose API key has no limits."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)
        self.store, self.world = Store(self.engine), World()
        self.tenant = self.world.tenant()
        self.ok(*self.world.setup(self.tenant, 100_000))

    def do(self, operation: Operation) -> Outcome:
        (outcome,) = self.store.apply([operation], self.world.now_ms)
        return outcome

    def ok(self, *operations: Operation) -> None:
        for operation in operations:
            outcome = self.do(operation)
            assert isinstance(outcome, TransferResult), outcome

    def refused(self, operation: Operation, code: str) -> None:
        outcome = self.do(operation)
        assert isinstance(outcome, LedgerError), outcome
        assert outcome.code == code

    def check(self) -> None:
        with self.engine.begin() as connection:
            assert audit(connection, NETWORK, [MINT.public_key]).problems == []

    def close(self) -> None:
        self.store.close()
        self.engine.dispose()


@pytest.fixture
def owner(url: str) -> Iterator[Owner]:
    found = Owner(url)
    yield found
    found.close()


def test_new_limits_are_in_force_and_old_holds_stay_right(owner: Owner) -> None:
    world, tenant = owner.world, owner.tenant
    owner.ok(world.hold(tenant, 900), world.hold(tenant, 800, gateway=OTHER_GATEWAY))
    limits = KeyLimits(2_000, 5, 6, ("192.0.2.0/24",))
    change = limits_change(
        world, tenant, 1, gateways=(GATEWAY.peer_id,), credit_cap_total=1_800, limits=limits
    )
    owner.ok(change)
    again = owner.do(change)
    assert isinstance(again, TransferResult)
    assert again.exists
    owner.refused(world.hold(tenant, 1, gateway=OTHER_GATEWAY), "key_not_allowed")
    owner.refused(world.hold(tenant, 1), "key_not_allowed")
    world.now_ms += 5
    owner.ok(limits_change(world, tenant, 2, credit_cap_total=1_800))
    owner.refused(world.hold(tenant, 101), "key_cap")
    owner.ok(world.hold(tenant, 100))
    world.now_ms += 5
    owner.ok(limits_change(world, tenant, 3, limits=KeyLimits(2_500)))
    owner.refused(world.hold(tenant, 701), "key_day_cap")
    rotated, renewed = rotation(world, tenant, 1)
    owner.ok(rotated, world.hold(renewed, 700))
    with owner.engine.begin() as connection:
        view = key_view(connection, tenant.api_key.key_id)
    assert view is not None
    assert (view.key.limit_changes, view.key.limits) == (3, KeyLimits(2_500))
    assert (view.key.gateways, view.key.credit_cap_total, view.key.generation) == ((), 0, 1)
    owner.check()


def test_changes_come_in_order_and_from_the_owner(owner: Owner) -> None:
    world, tenant = owner.world, owner.tenant
    first = limits_change(world, tenant, 1, credit_cap_total=10)
    owner.refused(limits_change(world, tenant, 2, credit_cap_total=10), "operation_order")
    owner.refused(limits_change(world, tenant, 1, signer=key_pair(99)), "not_authorized")
    owner.ok(first, limits_change(world, tenant, 2, credit_cap_total=20))
    owner.refused(first, "operation_order")
    owner.refused(limits_change(world, tenant, 3, models=("\n",)), "value_refused")
    owner.refused(limits_change(world, tenant, 3, expires_ms=world.now_ms), "value_refused")
    narrow = KeyLimits(networks=("here",))
    owner.refused(limits_change(world, tenant, 3, limits=narrow), "value_refused")
    stranger = world.tenant(5)
    owner.ok(*world.setup(stranger, 0, nodes=0))
    foreign = limits_change(world, tenant, 3, signer=stranger.keys, account_id=stranger.account_id)
    owner.refused(foreign, "key_unknown")
    owner.ok(world.revocation(tenant))
    owner.refused(limits_change(world, tenant, 3), "key_revoked")
    owner.check()


def test_a_key_that_expired_can_be_given_more_time(owner: Owner) -> None:
    world, tenant = owner.world, owner.tenant
    owner.ok(limits_change(world, tenant, 1, expires_ms=world.now_ms + DAY_MS))
    world.now_ms += DAY_MS
    owner.refused(world.hold(tenant, 1), "key_expired")
    owner.ok(limits_change(world, tenant, 2), world.hold(tenant, 1))
    owner.check()
