"""Stakes for subclouds: set aside once, spent by nobody, back where they came from, audited."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from ledger.accounts import stake_account
from ledger.errors import (
    ConflictError,
    InsufficientFundsError,
    NamespaceUnknownError,
    NotAuthorizedError,
    RequestError,
    ValueRefusedError,
)
from ledger.operations import Operation
from ledger.stake_errors import StakeExistsError, StakeInUseError, StakeUnknownError
from ledger.stakes import UNUSED_RETURN_MS
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine, prepare
from ledger.store.directory_store import NewPolicy, put_policy
from ledger.store.group import Outcome, Store
from ledger.store.queries import namespace_view
from ledger.store.stake_queries import stake_of
from ledger.store.tables import ENTRIES
from p2p.ledger_messages import TransferResult
from tests.fakes.ledger_world import MINT, NETWORK, Tenant, World
from tests.fakes.stake_world import stake, staked_subcloud, unstake
from tests.fakes.subcloud_ledger import SUBCLOUD

_TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger'"


class Bank:
    """A database, and two tenants with 10,000 microcredits each."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)
        self.url, self.store, self.world = url, Store(self.engine), World()
        self.tenant, self.other = self.world.tenant(), self.world.tenant(1)
        self.ok(*self.world.setup(self.tenant, 10_000), *self.world.setup(self.other, 10_000))

    def do(self, operation: Operation) -> Outcome:
        return self.store.apply([operation], self.world.now_ms)[0]

    def ok(self, *operations: Operation) -> TransferResult:
        outcomes = self.store.apply(list(operations), self.world.now_ms)
        for outcome in outcomes:
            assert isinstance(outcome, TransferResult), outcome
        assert isinstance(outcomes[-1], TransferResult)
        return outcomes[-1]

    def refused(self, operation: Operation, kind: type[RequestError]) -> None:
        before = self.state()
        assert type(self.do(operation)) is kind, self.do(operation)
        assert self.state() == before

    def available(self, tenant: Tenant) -> int:
        with self.engine.begin() as connection:
            found = namespace_view(connection, tenant.path)
        assert found is not None
        return found.available

    def staked(self, tenant: Tenant) -> int:
        with self.engine.begin() as connection:
            return stake_of(connection, staked_subcloud(tenant))

    def state(self) -> object:
        both = (self.tenant, self.other)
        return [(self.available(tenant), self.staked(tenant)) for tenant in both]

    def problems(self) -> list[str]:
        with self.engine.begin() as connection:
            total = connection.execute(text("SELECT SUM(amount) FROM ledger_entries")).scalar_one()
            assert total == 0
            return audit(connection, NETWORK, [MINT.public_key]).problems


@pytest.fixture
def bank(url: str) -> Iterator[Bank]:
    found = Bank(url)
    yield found
    found.store.close()
    found.engine.dispose()


def test_set_aside_and_back(bank: Bank) -> None:
    world, tenant = bank.world, bank.tenant
    made = stake(world, tenant, 4_000)
    assert bank.ok(made).available == 6_000
    assert bank.ok(made).exists  # asked again, because the answer was lost
    assert bank.staked(tenant) == 4_000
    assert bank.problems() == []
    # It cannot be spent: a hold finds only the rest.
    assert isinstance(bank.do(world.hold(tenant, 6_001)), InsufficientFundsError)
    bank.ok(world.hold(tenant, 6_000))
    back = unstake(world, tenant)
    assert bank.ok(back).available == 4_000
    assert bank.ok(back).exists
    assert bank.staked(tenant) == 0
    bank.refused(unstake(world, tenant), StakeUnknownError)
    assert bank.problems() == []
    # Once it is back it can be set aside again.
    bank.ok(stake(world, tenant, 1_000))
    assert bank.staked(tenant) == 1_000
    assert bank.problems() == []


def test_what_is_refused(bank: Bank) -> None:
    world, tenant, other = bank.world, bank.tenant, bank.other
    bank.refused(stake(world, tenant, 10_001), InsufficientFundsError)
    bank.refused(stake(world, tenant, 10, amount_min=11), ValueRefusedError)
    bank.refused(stake(world, tenant, 10, signer=other.keys), NotAuthorizedError)
    bank.refused(stake(world, tenant, 10, subcloud="no subcloud"), ValueRefusedError)
    # Only its founder may: nobody blocks a name by a stake of his own.
    bank.refused(stake(world, tenant, 10, subcloud=SUBCLOUD), NotAuthorizedError)
    bank.refused(stake(world, tenant, 10, namespace="elsewhere"), NamespaceUnknownError)
    bank.refused(unstake(world, tenant), StakeUnknownError)
    made = stake(world, tenant, 500)
    bank.ok(made)
    bank.refused(stake(world, tenant, 500), StakeExistsError)
    document = replace(made.document, amount=600)
    bank.refused(
        replace(made, document=document, signed=tenant.keys.sign(NETWORK, document)), ConflictError
    )
    bank.refused(unstake(world, tenant, ended=False), StakeInUseError)
    bank.refused(unstake(world, tenant, signer=other.keys), NotAuthorizedError)
    bank.refused(unstake(world, other, subcloud=staked_subcloud(tenant)), NotAuthorizedError)
    bank.ok(bank.world.opening(replace(tenant, namespace="second")))
    bank.refused(unstake(world, tenant, namespace="second"), ValueRefusedError)
    assert bank.problems() == []


def test_a_stake_stays_though_this_bootstrap_has_not_heard_of_its_subcloud_yet(bank: Bank) -> None:
    world, tenant = bank.world, bank.tenant
    bank.ok(stake(world, tenant, 500))
    world.now_ms += UNUSED_RETURN_MS
    new = NewPolicy(staked_subcloud(tenant), tenant.account_id, 1, "d", b"record", "")
    with bank.engine.begin() as connection:
        put_policy(connection, new, world.now_ms)
    bank.refused(unstake(world, tenant, ended=None), StakeInUseError)
    bank.ok(unstake(world, tenant))
    assert bank.problems() == []


def test_a_subcloud_that_nobody_knows_gives_its_stake_back_after_a_day(bank: Bank) -> None:
    world, tenant = bank.world, bank.tenant
    bank.ok(stake(world, tenant, 500))
    world.now_ms += UNUSED_RETURN_MS - 1
    bank.refused(unstake(world, tenant, ended=None), StakeInUseError)
    world.now_ms += 1
    bank.ok(unstake(world, tenant, ended=None))


def test_two_processes_make_one_stake(bank: Bank) -> None:
    """Both ask at the same time, each with an ID of its own, from two namespaces."""
    world, tenant = bank.world, bank.tenant
    second = replace(tenant, namespace="second")
    bank.ok(world.opening(second), world.grant(second, 1_000))
    operations = [stake(world, tenant, 600), stake(world, tenant, 600, namespace="second")]
    engines = [open_engine(bank.url, writer=True) for _ in operations]
    outcomes: list[Outcome] = []

    def work(place: int) -> Callable[[], None]:
        store = Store(engines[place])

        def run() -> None:
            outcomes.extend(store.apply([operations[place]], world.now_ms))
            store.close()

        return run

    bank.store.close()
    threads = [threading.Thread(target=work(place)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for engine in engines:
        engine.dispose()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        "StakeExistsError",
        "TransferResult",
    ]
    assert bank.staked(tenant) == 600
    assert bank.problems() == []


def test_the_audit_sees_a_stake_that_was_moved(bank: Bank) -> None:
    world, tenant = bank.world, bank.tenant
    bank.ok(stake(world, tenant, 500))
    account = stake_account(staked_subcloud(tenant))
    if bank.engine.dialect.name == "postgresql":
        pytest.skip("the same rule, and triggers that take more to drop")
    with bank.engine.connect() as connection, connection.begin() as transaction:
        for name in connection.execute(text(_TRIGGERS)).scalars().all():
            connection.execute(text(f"DROP TRIGGER {name}"))
        changed = connection.execute(
            text(
                f"UPDATE {ENTRIES.name} SET account = 'earnings:{tenant.account_id}' "
                f"WHERE account = '{account}'"
            )
        )
        assert changed.rowcount == 1
        assert audit(connection, NETWORK, [MINT.public_key]).problems
        transaction.rollback()
