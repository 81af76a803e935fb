"""Account keys, API keys' secrets and limits in the database, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.errors import IntegrityError, LedgerError
from ledger.operations import Operation
from ledger.store.account_queries import keys_of, namespaces_of
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import account_view, earnings_view
from p2p.key_limits import KeyLimits
from p2p.ledger_messages import TransferResult
from tests.fakes.account_world import DAY_MS, key_change, recovery_of, rotation
from tests.fakes.ledger_world import NETWORK, NODE_ACCOUNTS, World, key_pair

NEW, OTHER, THIRD = key_pair(71), key_pair(72), key_pair(73)
LIMITS = KeyLimits(1_000, 60, 10_000, ("192.0.2.0/24",))


class Bench:
    """A store that is opened anew for each group, so that everything comes from the database."""

    def __init__(self, url: str) -> None:
        self.world = World()
        self.tenant = self.world.tenant()
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)

    def do(self, *operations: Operation) -> list[str]:
        """Apply a group; gives `done`, `exists` or the code of the refusal of each."""
        store = Store(self.engine)
        try:
            outcomes = store.apply(operations, self.world.now_ms)
        finally:
            store.close()
        return [_name(outcome) for outcome in outcomes]

    def read(self, query):
        with self.engine.begin() as connection:
            return query(connection)


def _name(outcome: TransferResult | LedgerError) -> str:
    if isinstance(outcome, LedgerError):
        return outcome.code
    return "exists" if outcome.exists else "done"


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    found = Bench(url)
    yield found
    found.read(check_integrity)
    found.engine.dispose()


def test_changes_of_account_keys_are_kept(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    assert bench.do(tenant.founding) == ["done"]
    rotated = key_change(world, tenant, 1, added=(NEW,), removed=(tenant.keys,))
    # In one group: what is signed after the change by the old key is refused.
    assert bench.do(world.opening(tenant), rotated, world.creation(tenant)) == [
        "done",
        "done",
        "not_authorized",
    ]
    assert bench.do(rotated, world.opening(tenant)) == ["exists", "not_authorized"]
    assert bench.do(world.creation(tenant, signer=NEW)) == ["done"]
    recovery = key_change(
        world,
        tenant,
        7,
        signer=recovery_of(),
        added=(OTHER,),
        removed=(NEW,),
        recovery=THIRD,
    )
    assert bench.do(recovery) == ["done"]
    account = bench.read(lambda c: account_view(c, tenant.account_id))
    assert account.signing_keys == {OTHER.public_key}
    assert account.recovery_keys == {THIRD.public_key}
    gone = {tenant.keys.public_key, NEW.public_key, recovery_of().public_key}
    assert account.retired_keys == gone
    assert (account.key_changes, account.operations) == (7, 5)
    assert bench.do(key_change(world, tenant, 8, signer=OTHER, added=(NEW,))) == ["value_refused"]


def test_a_key_may_come_and_go_within_one_group(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    come = key_change(world, tenant, 1, added=(NEW,))
    go = key_change(world, tenant, 2, removed=(NEW,))
    again = key_change(world, tenant, 3, added=(NEW,))
    assert bench.do(tenant.founding, come, go) == ["done"] * 3
    assert bench.do(again) == ["value_refused"]
    assert bench.do(key_change(world, tenant, 3, added=(OTHER,))) == ["done"]


def test_limits_and_secrets_of_api_keys_are_kept(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    creation = world.creation(tenant, limits=KeyLimits(microcredits_per_day=1_000))
    setup = [tenant.founding, world.opening(tenant), creation, world.grant(tenant, 10_000)]
    assert bench.do(*setup, *world.bindings()) == ["done"] * 7
    hold = world.hold(tenant, 900)
    assert bench.do(hold, world.hold(tenant, 101)) == ["done", "key_day_cap"]
    assert bench.do(world.hold(tenant, 101)) == ["key_day_cap"]
    turned, renewed = rotation(world, tenant, 1, grace_ms=10_000)
    assert bench.do(turned) == ["done"]
    assert bench.do(world.release(hold), world.hold(renewed, 700)) == ["done", "done"]
    assert bench.do(world.hold(tenant, 300), turned) == ["done", "exists"]
    assert bench.do(world.hold(tenant, 1)) == ["key_day_cap"]
    world.now_ms += DAY_MS
    assert bench.do(world.hold(tenant, 1)) == ["key_proof"]
    assert bench.do(world.hold(renewed, 1_000)) == ["done"]
    ((key, usage),) = bench.read(lambda c: keys_of(c, tenant.path, "", 10))
    assert (key.generation, key.limits.microcredits_per_day) == (1, 1_000)
    assert (usage.held, usage.day, usage.day_used) == (2_000, world.now_ms // DAY_MS, 1_000)


def test_keys_and_namespaces_are_listed(bench: Bench) -> None:
    world, tenants = bench.world, [bench.world.tenant(number) for number in range(2)]
    for tenant in tenants:
        bench.do(tenant.founding, world.opening(tenant), world.creation(tenant, limits=LIMITS))
    one = tenants[0]
    ((key, _),) = bench.read(lambda c: keys_of(c, one.path, "", 10))
    assert (key.key_id, key.limits, key.created_ms) == (one.api_key.key_id, LIMITS, world.now_ms)
    assert bench.read(lambda c: keys_of(c, one.path, key.key_id, 10)) == []
    (namespace,) = bench.read(lambda c: namespaces_of(c, one.account_id))
    assert (namespace.name, namespace.keys) == ("dev", 1)


def test_earnings_mature(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    bench.do(*world.setup(tenant, 10_000))
    for _ in range(2):
        hold = world.hold(tenant, 1_000)
        capture = world.capture(hold, [world.leg(hold, output_tokens=100)])
        assert bench.do(hold, capture) == ["done", "done"]
        world.now_ms += DAY_MS
    since_ms = world.now_ms - DAY_MS - 1
    view = bench.read(lambda c: earnings_view(c, NODE_ACCOUNTS[0], since_ms))
    assert (view.earned, view.unmatured_earned, view.legs) == (900, 450, 2)
    view = bench.read(lambda c: earnings_view(c, NODE_ACCOUNTS[0], world.now_ms))
    assert (view.earned, view.unmatured_earned) == (900, 0)


def test_a_changed_counter_of_a_day_is_found(url: str) -> None:
    bench = Bench(url)
    bench.do(*bench.world.setup(bench.tenant, 10_000), bench.world.hold(bench.tenant, 10))
    with bench.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE ledger_api_keys SET day_used = 9")
    with pytest.raises(IntegrityError, match="use of a day"):
        bench.read(check_integrity)
    with bench.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE ledger_api_keys SET day_used = 10")
        connection.exec_driver_sql("UPDATE ledger_accounts SET operations = 9")
    with pytest.raises(IntegrityError, match="operations are not all there"):
        bench.read(check_integrity)
    bench.engine.dispose()
