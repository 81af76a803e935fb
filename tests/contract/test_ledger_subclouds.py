"""Jobs of subclouds in the database: paid, counted, disputed, audited; what is forged is found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from ledger.accounts import owner_account
from ledger.errors import IntegrityError, LedgerError
from ledger.hold_context import HoldContext
from ledger.operations import Operation, PlaceHold
from ledger.rcp import Days
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import balance, earnings_view
from ledger.store.rcp_queries import referred_fees
from ledger.store.tail import check_tail
from ledger.usage import day_of
from p2p.ledger_messages import TransferResult
from tests.fakes import claim_world
from tests.fakes.dispute_world import DECIDER, decision, dispute
from tests.fakes.lease_world import charge_leased, give_back, lease
from tests.fakes.ledger_world import GATEWAY_ACCOUNT, MINT, NETWORK, Tenant, World
from tests.fakes.opening_world import referred
from tests.fakes.subcloud_ledger import (
    OWNER,
    SHARED,
    SHARED_TERMS,
    a_policy,
    a_token,
    open_one,
    owners_part,
)


class Owned:
    """A database with two tenants, and the account of a subcloud's owner."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)
        self.store, self.world = Store(self.engine), World()
        self.tenant, self.other = self.world.tenant(), self.world.tenant(1)
        self.ok(*self.world.setup(self.tenant, 100_000))
        self.ok(*self.world.setup(self.other, 100_000, nodes=0))
        self.ok(OWNER.founding)

    def ok(self, *operations: Operation) -> TransferResult:
        outcomes = self.store.apply(list(operations), self.world.now_ms)
        for outcome in outcomes:
            assert isinstance(outcome, TransferResult), outcome
        assert isinstance(outcomes[-1], TransferResult)
        return outcomes[-1]

    def charge(self, output_tokens: int = 100) -> PlaceHold:
        hold = self.world.hold(self.tenant, 1_000, terms=SHARED_TERMS, context=SHARED)
        leg = self.world.leg(hold, output_tokens=output_tokens)
        self.ok(hold)
        self.ok(self.world.capture(hold, [leg]))
        return hold

    def with_token(self, tenant: Tenant, **fields: object) -> PlaceHold:
        token = open_one(**fields)  # type: ignore[arg-type]
        context = HoldContext(OWNER.account_id, a_policy(callers={"tokens": True}), token)
        return self.world.hold(
            tenant,
            10,
            terms=SHARED_TERMS,
            context=context,
            caller_token=a_token(**fields),  # type: ignore[arg-type]
        )

    @property
    def owner(self) -> int:
        with self.engine.begin() as connection:
            return balance(connection, owner_account(OWNER.account_id))

    def problems(self) -> list[str]:
        with self.engine.begin() as connection:
            check_integrity(connection)
            keys = [DECIDER.public_key]
            return audit(connection, NETWORK, [MINT.public_key], keys).problems

    def forge(self, statement: str) -> list[str]:
        """What the audit says of a changed row; the change is taken back."""
        with self.engine.connect() as connection, connection.begin() as transaction:
            assert connection.execute(text(statement)).rowcount
            keys = [DECIDER.public_key]
            found = audit(connection, NETWORK, [MINT.public_key], keys).problems
            transaction.rollback()
        return found

    def broken(self, statement: str) -> str:
        """What the short check says of a changed row; the change is taken back."""
        with self.engine.connect() as connection, connection.begin() as transaction:
            assert connection.execute(text(statement)).rowcount
            with pytest.raises(IntegrityError) as caught:
                check_integrity(connection)
            with pytest.raises(IntegrityError) as of_tail:
                check_tail(connection, 0)
            transaction.rollback()
        assert "whom the hold does not name" in str(caught.value)
        return str(of_tail.value)

    def close(self) -> None:
        self.store.close()
        self.engine.dispose()


@pytest.fixture
def owned(url: str) -> Iterator[Owned]:
    found = Owned(url)
    yield found
    found.close()


@pytest.fixture
def in_file(tmp_path: Path) -> Iterator[Owned]:
    """The same, in a file only: what is tested is not the database's."""
    found = Owned(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield found
    found.close()


def test_every_way_of_paying_pays_the_owner_and_is_audited(owned: Owned) -> None:
    world, tenant = owned.world, owned.tenant
    first = owned.charge(101)
    opened = lease(world, tenant, 2_000, terms=SHARED_TERMS, context=SHARED)
    owned.ok(opened)
    owned.ok(charge_leased(world, opened, tenant, 33), give_back(world, opened, final=True))
    claimed = world.hold(tenant, 500, terms=SHARED_TERMS, context=SHARED)
    owned.ok(claimed)
    owned.ok(claim_world.claim(world, claimed, output_tokens=20))
    owned.ok(owned.with_token(tenant, uses=3))
    world.now_ms += 60_000
    owned.ok(claim_world.settle(world, claimed))
    expected = owners_part(505) + owners_part(165) + owners_part(100)
    assert owned.owner == expected
    owned.ok(dispute(world, tenant, first, claimed=505))
    with owned.engine.begin() as connection:
        view = earnings_view(connection, OWNER.account_id, 0)
    assert (view.owner_fees, view.unmatured_owner_fees) == (expected, expected)
    assert view.disputed_owner_fees == owners_part(505)
    owned.ok(decision(world, first, 505))
    assert owned.owner == expected - owners_part(505)
    assert owned.problems() == []


def test_forged_owners_and_uses_are_found(in_file: Owned) -> None:
    owned = in_file
    owned.charge()
    owned.ok(owned.with_token(owned.tenant, uses=3))
    assert owned.problems() == []
    other = GATEWAY_ACCOUNT
    for forged in (other, ""):
        statement = f"UPDATE ledger_holds SET owner_account = '{forged}'"
        assert owned.forge(statement)
        assert "whom the hold does not name" in owned.broken(statement)
    assert owned.forge("UPDATE ledger_caller_tokens SET uses = 2")
    assert owned.forge("UPDATE ledger_caller_tokens SET namespace = 'acct-x/dev'")
    assert owned.forge("DELETE FROM ledger_caller_tokens")


def test_a_token_that_was_refused_leaves_nothing_behind(owned: Owned) -> None:
    bound = owned.with_token(owned.other, account=owned.tenant.account_id)
    (outcome,) = owned.store.apply([bound], owned.world.now_ms)
    assert isinstance(outcome, LedgerError)
    with owned.engine.begin() as connection:
        rows = connection.execute(text("SELECT name FROM ledger_caller_tokens")).all()
    assert rows == []
    assert owned.problems() == []


def test_two_bootstraps_count_one_token(owned: Owned) -> None:
    """Two writers at once: as many holds as the token has uses, all of one namespace."""
    holds = {
        tenant.path: [owned.with_token(tenant, uses=5) for _ in range(6)]
        for tenant in (owned.tenant, owned.other)
    }
    outcomes: dict[str, list[Outcome]] = {path: [] for path in holds}
    begin = threading.Barrier(len(holds))

    def write(path: str) -> None:
        engine = open_engine(owned.url, writer=True)
        store = Store(engine)
        begin.wait(10)
        for hold in holds[path]:
            outcomes[path] += store.apply([hold], owned.world.now_ms)
        store.close()
        engine.dispose()

    threads = [threading.Thread(target=write, args=(path,)) for path in holds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    taken = {
        path: sum(isinstance(outcome, TransferResult) for outcome in found)
        for path, found in outcomes.items()
    }
    assert sorted(taken.values()) == [0, 5]
    refused = [o for found in outcomes.values() for o in found if isinstance(o, LedgerError)]
    assert {error.code for error in refused} == {"caller_token"}
    assert owned.problems() == []


def test_an_owners_share_brings_no_points(in_file: Owned) -> None:
    """Who referred a payer gets points for the network's fees, not for an owner's."""
    owned = in_file
    owned.ok(referred(owned.world, owned.tenant, owned.other))
    owned.world.now_ms += 86_400_000
    first = owned.charge(100)
    day = day_of(owned.world.now_ms)

    def paid() -> int:
        with owned.engine.begin() as connection:
            (found,) = referred_fees(connection, Days(day, day))
        return found.fees

    assert paid() == 50
    owned.ok(dispute(owned.world, owned.tenant, first, claimed=500))
    owned.ok(decision(owned.world, first, 250))
    assert paid() == 25
