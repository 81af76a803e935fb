"""A Hypothesis state machine: the store, on both databases, against a simple model."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from ledger.accounts import owner_account
from ledger.errors import LedgerError
from ledger.operations import OpenLease, Operation, PlaceHold
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import balance, namespace_view
from p2p.ledger_messages import TransferResult
from tests.fakes.lease_machine import LeaseMachine
from tests.fakes.ledger_databases import PostgresServer
from tests.fakes.ledger_world import NETWORK, NODES, OTHER_GATEWAY, Tenant, World
from tests.fakes.subcloud_ledger import OWNER, SHARED, SHARED_TERMS, owners_part

SOAK = os.environ.get("RESULTITY_SOAK") == "1"
TENANTS = 2
GRANTED = 5_000
_TOTAL = text("SELECT COALESCE(SUM(amount), 0) FROM ledger_entries")


@functools.cache
def empty_ledger() -> bytes:
    """A SQLite file with the tables: making them takes longer than everything else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        engine = open_engine(f"sqlite:///{path}", writer=True)
        prepare(engine, NETWORK)
        engine.dispose()
        return path.read_bytes()


class Model:
    """What each tenant has, and what became of each hold."""

    def __init__(self) -> None:
        self.available = [0] * TENANTS
        self.held = [0] * TENANTS
        self.spent = [0] * TENANTS
        self.granted = [0] * TENANTS
        self.holds: list[tuple[int, PlaceHold, str]] = []
        self.owner = 0

    def note_owner(self, payer: PlaceHold | OpenLease, charged: int) -> None:
        self.owner += owners_part(charged) if payer.document.terms.subcloud_id else 0

    def end(self, place: int, state: str, charged: int) -> None:
        tenant, hold, _ = self.holds[place]
        maximum = hold.document.maximum
        self.held[tenant] -= maximum
        self.available[tenant] += maximum - charged
        self.spent[tenant] += charged
        self.holds[place] = (tenant, hold, state)


class LedgerMachine(LeaseMachine):
    """Random operations, alone and in groups, with repetitions and restarts."""

    def new_database(self) -> str:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "ledger.db"
        path.write_bytes(empty_ledger())
        return f"sqlite:///{path}"

    def remove_database(self) -> None:
        self.folder.cleanup()

    @initialize()
    def start(self) -> None:
        self.url = self.new_database()
        self.reader = open_engine(self.url, writer=False)
        self.engine = open_engine(self.url, writer=True)
        prepare(self.engine, NETWORK)
        self.store = Store(self.engine)
        self.world, self.model = World(), Model()
        self.tenants: list[Tenant] = [self.world.tenant(number) for number in range(TENANTS)]
        self.done: list[tuple[Operation, TransferResult]] = []
        self.rows_seen: dict[int, tuple] = {}
        for number, tenant in enumerate(self.tenants):
            self.store.apply(self.world.setup(tenant, 0), self.world.now_ms)
            self.accept(self.one(self.world.grant(tenant, GRANTED)))
            self.model.available[number] = self.model.granted[number] = GRANTED

    def one(self, operation: Operation) -> Outcome:
        (outcome,) = self.store.apply([operation], self.world.now_ms)
        if isinstance(outcome, TransferResult) and not outcome.exists:
            self.done.append((operation, outcome))
        return outcome

    def accept(self, outcome: Outcome) -> TransferResult:
        assert isinstance(outcome, TransferResult), outcome
        assert not outcome.exists
        return outcome

    def is_open(self, place: int) -> bool:
        _, hold, state = self.model.holds[place]
        return state == "open" and hold.document.expires_ms > self.world.now_ms

    @rule(tenant=st.integers(0, TENANTS - 1), amount=st.integers(1, 3_000))
    def grant(self, tenant: int, amount: int) -> None:
        result = self.accept(self.one(self.world.grant(self.tenants[tenant], amount)))
        self.model.available[tenant] += amount
        self.model.granted[tenant] += amount
        assert result.available == self.model.available[tenant]

    @rule(
        tenant=st.integers(0, TENANTS - 1),
        maximums=st.lists(st.integers(0, 4_000), min_size=1, max_size=4),
        lifetime_ms=st.integers(1_000, 100_000),
        shared=st.booleans(),
    )
    def hold(self, tenant: int, maximums: list[int], lifetime_ms: int, shared: bool) -> None:
        of = {"terms": SHARED_TERMS, "context": SHARED} if shared else {}
        holds = [
            self.world.hold(self.tenants[tenant], maximum, lifetime_ms=lifetime_ms, **of)
            for maximum in maximums
        ]
        outcomes = self.store.apply(holds, self.world.now_ms)
        for hold, maximum, outcome in zip(holds, maximums, outcomes, strict=True):
            if maximum > self.model.available[tenant]:
                assert isinstance(outcome, LedgerError)
                assert outcome.code == "insufficient_funds"
                continue
            self.done.append((hold, self.accept(outcome)))
            self.model.available[tenant] -= maximum
            self.model.held[tenant] += maximum
            self.model.holds.append((tenant, hold, "open"))

    @precondition(lambda self: self.model.holds)
    @rule(
        data=st.data(),
        input_tokens=st.integers(0, 200),
        outputs=st.lists(st.integers(0, 200), min_size=1, max_size=3),
    )
    def capture(self, data: st.DataObject, input_tokens: int, outputs: list[int]) -> None:
        place = data.draw(st.integers(0, len(self.model.holds) - 1))
        _, hold, state = self.model.holds[place]
        input_tokens = input_tokens if outputs[0] else 0
        legs = [
            self.world.leg(
                hold,
                node=NODES[attempt],
                attempt=attempt,
                input_tokens=0 if attempt else input_tokens,
                output_tokens=output,
            )
            for attempt, output in enumerate(outputs)
        ]
        charge = 2 * input_tokens + 5 * sum(outputs)
        outcome = self.one(self.world.capture(hold, legs))
        if not self.is_open(place):
            assert isinstance(outcome, LedgerError)
            assert outcome.code == ("hold_expired" if state == "open" else "hold_ended")
        elif charge > hold.document.maximum:
            assert isinstance(outcome, LedgerError)
            assert outcome.code == "charge_above_hold"
        else:
            assert self.accept(outcome).amount == charge
            self.model.end(place, "captured", charge)
            self.model.note_owner(hold, charge)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), foreign=st.booleans())
    def release(self, data: st.DataObject, foreign: bool) -> None:
        place = data.draw(st.integers(0, len(self.model.holds) - 1))
        _, hold, state = self.model.holds[place]
        if foreign:
            outcome = self.one(self.world.release(hold, gateway=OTHER_GATEWAY))
            assert isinstance(outcome, LedgerError)
        else:
            outcome = self.one(self.world.release(hold))
            if state == "open":
                self.accept(outcome)
                self.model.end(place, "released", 0)
            else:
                assert isinstance(outcome, LedgerError)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.model.holds) - 1))
        _, hold, state = self.model.holds[place]
        outcome = self.one(self.world.expire(hold))
        if state != "open":
            assert isinstance(outcome, TransferResult)
            assert outcome.exists
        elif self.is_open(place):
            assert isinstance(outcome, LedgerError)
        else:
            self.accept(outcome)
            self.model.end(place, "expired", 0)

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        operation, first = self.done[data.draw(st.integers(0, len(self.done) - 1))]
        outcome = self.one(operation)
        assert isinstance(outcome, TransferResult)
        assert outcome.exists
        assert outcome.transfer_id == first.transfer_id
        if not isinstance(outcome, LedgerError) and outcome.amount:
            assert outcome == TransferResult(first.transfer_id, first.amount, first.available, True)

    @rule(by_ms=st.integers(-50_000, 100_000))
    def move_clock(self, by_ms: int) -> None:
        self.world.now_ms += by_ms

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.engine.dispose()
        self.engine = open_engine(self.url, writer=True)
        prepare(self.engine, NETWORK)
        self.store = Store(self.engine)

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if not hasattr(self, "engine"):
            return
        with self.reader.begin() as connection:
            for number, tenant in enumerate(self.tenants):
                view = namespace_view(connection, tenant.path)
                assert view is not None
                assert view.available == self.model.available[number] >= 0
                assert view.held == self.model.held[number] >= 0
                assert view.granted == self.model.granted[number]
                assert view.granted - view.available - view.held == self.model.spent[number]
            assert balance(connection, "mint") == -sum(self.model.granted)
            assert balance(connection, owner_account(OWNER.account_id)) == self.model.owner
            assert connection.execute(_TOTAL).scalar_one() == 0
            check_integrity(connection)
            self.check_history(connection)

    def check_history(self, connection: Connection) -> None:
        rows = connection.execute(text("SELECT * FROM ledger_transfers")).all()
        found = {row[0]: tuple(row) for row in rows}
        assert self.rows_seen.items() <= found.items()
        self.rows_seen = found

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.store.close()
            self.engine.dispose()
            self.reader.dispose()
            self.remove_database()


class PostgresMachine(LedgerMachine):
    """The same on PostgreSQL."""

    server: ClassVar[PostgresServer]

    def new_database(self) -> str:
        return self.server.new_database()

    def remove_database(self) -> None:
        self.server.do(f"DROP DATABASE {make_url(self.url).database}")


LedgerMachine.TestCase.settings = settings(
    max_examples=2_000 if SOAK else 25, stateful_step_count=50 if SOAK else 30
)
TestLedgerMachine = pytest.mark.timeout(7_200 if SOAK else 300)(LedgerMachine.TestCase)

PostgresMachine.TestCase.settings = settings(
    max_examples=200 if SOAK else 6, stateful_step_count=50 if SOAK else 20, deadline=None
)


@pytest.mark.timeout(7_200 if SOAK else 300)
class TestPostgresMachine(PostgresMachine.TestCase):
    """Run with the session's server."""

    @pytest.fixture(autouse=True)
    def use_server(self, postgres: PostgresServer) -> None:
        PostgresMachine.server = postgres
