"""A Hypothesis state machine of disputes: opened, answered and decided in any order, on a store."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger.errors import LedgerError
from ledger.operations import BindNode, Operation, PlaceHold
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import balance, namespace_view
from ledger.store.usage_check import counter_problems
from p2p.ledger_messages import TransferResult
from tests.contract.test_ledger_store_machine import empty_ledger
from tests.fakes.dispute_world import answer, decision, dispute, operator_tenant
from tests.fakes.ledger_world import NETWORK, NODES, World
from tests.fakes.subcloud_ledger import SHARED, SHARED_TERMS

SOAK = os.environ.get("RESULTITY_SOAK") == "1"
WINDOW_MS = 100_000
GRANTED = 20_000


@dataclass
class Case:
    """A charge and what became of it."""

    hold: PlaceHold
    charged: int
    at_ms: int
    disputed: bool = False
    answered: bool = False
    refund: int | None = None


class DisputeMachine(RuleBasedStateMachine):
    """Charges of one tenant, its disputes, and decisions of all kinds."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "ledger.db"
        path.write_bytes(empty_ledger())
        self.engine = open_engine(f"sqlite:///{path}", writer=True)
        prepare(self.engine, NETWORK)
        self.store, self.world = Store(self.engine), World()
        self.tenant, self.operator = self.world.tenant(), operator_tenant(self.world)
        self.cases: list[Case] = []
        self.done: list[tuple[Operation, TransferResult]] = []
        for operation in (
            *self.world.setup(self.tenant, GRANTED, nodes=3),
            *self.world.setup(self.operator, 0, nodes=0),
            BindNode(NODES[0].peer_id, self.operator.account_id),
        ):
            assert isinstance(self.do(operation), TransferResult)

    def do(self, operation: Operation) -> Outcome:
        (outcome,) = self.store.apply([operation], self.world.now_ms)
        return outcome

    def taken(self, operation: Operation) -> TransferResult:
        outcome = self.do(operation)
        assert isinstance(outcome, TransferResult), outcome
        assert not outcome.exists
        self.done.append((operation, outcome))
        return outcome

    def refused(self, operation: Operation, *codes: str) -> None:
        outcome = self.do(operation)
        assert isinstance(outcome, LedgerError), outcome
        assert outcome.code in codes

    @rule(outputs=st.lists(st.integers(1, 60), min_size=1, max_size=3), shared=st.booleans())
    def charge(self, outputs: list[int], shared: bool) -> None:
        of = {"terms": SHARED_TERMS, "context": SHARED} if shared else {}
        hold = self.world.hold(self.tenant, 900, **of)
        outcome = self.do(hold)
        if isinstance(outcome, LedgerError):
            assert outcome.code == "insufficient_funds"
            return
        legs = [
            self.world.leg(hold, node=NODES[attempt], attempt=attempt, output_tokens=tokens)
            for attempt, tokens in enumerate(outputs)
        ]
        charged = self.taken(self.world.capture(hold, legs)).amount
        assert charged == 5 * sum(outputs)
        self.cases.append(Case(hold, charged, self.world.now_ms))

    @precondition(lambda self: self.cases)
    @rule(data=st.data(), claimed=st.integers(1, 100))
    def open(self, data: st.DataObject, claimed: int) -> None:
        case = data.draw(st.sampled_from(self.cases))
        opening = dispute(self.world, self.tenant, case.hold, claimed=claimed, window_ms=WINDOW_MS)
        if case.disputed:
            outcome = self.do(opening)
            same = isinstance(outcome, TransferResult) and outcome.exists
            assert same or (isinstance(outcome, LedgerError) and outcome.code == "dispute_exists")
        elif self.world.now_ms > case.at_ms + WINDOW_MS:
            self.refused(opening, "dispute_late")
        elif claimed > case.charged:
            self.refused(opening, "value_refused")
        else:
            self.taken(opening)
            case.disputed = True

    @precondition(lambda self: self.cases)
    @rule(data=st.data(), text=st.sampled_from(["no", "yes"]))
    def answer(self, data: st.DataObject, text: str) -> None:
        case = data.draw(st.sampled_from(self.cases))
        said = answer(self.world, self.operator, case.hold, text)
        if not case.disputed:
            self.refused(said, "dispute_unknown")
        elif case.answered:
            outcome = self.do(said)
            if isinstance(outcome, LedgerError):
                assert outcome.code in ("dispute_exists", "dispute_ended")
        elif case.refund is not None:
            self.refused(said, "dispute_ended")
        else:
            self.taken(said)
            case.answered = True

    @precondition(lambda self: self.cases)
    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        case = data.draw(st.sampled_from(self.cases))
        refund = data.draw(st.integers(0, case.charged + 1))
        decided = decision(self.world, case.hold, refund)
        if not case.disputed:
            self.refused(decided, "dispute_unknown")
        elif case.refund is None and refund > case.charged:
            self.refused(decided, "value_refused")
        elif case.refund is None:
            assert self.taken(decided).amount == refund
            case.refund = refund
        elif case.refund == refund:
            again = self.do(decided)
            assert isinstance(again, TransferResult)
            assert again.exists
        else:
            self.refused(decided, "dispute_ended")

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        operation, first = data.draw(st.sampled_from(self.done))
        outcome = self.do(operation)
        assert isinstance(outcome, TransferResult), outcome
        assert (outcome.exists, outcome.amount) == (True, first.amount)

    @rule(by_ms=st.integers(-10_000, WINDOW_MS // 2))
    def move_clock(self, by_ms: int) -> None:
        self.world.now_ms += by_ms

    @invariant()
    def everything_adds_up(self) -> None:
        if not hasattr(self, "cases"):
            return
        spent = sum(case.charged - (case.refund or 0) for case in self.cases)
        with self.engine.begin() as connection:
            view = namespace_view(connection, self.tenant.path)
            assert view is not None
            assert view.granted - view.available - view.held == spent
            assert view.credited == sum(case.refund or 0 for case in self.cases)
            assert balance(connection, "treasury") >= 0
            check_integrity(connection)
            assert list(counter_problems(connection)) == []

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.store.close()
            self.engine.dispose()
            self.folder.cleanup()


DisputeMachine.TestCase.settings = settings(
    max_examples=2_000 if SOAK else 8, stateful_step_count=50 if SOAK else 25, deadline=None
)
TestDisputeMachine = pytest.mark.timeout(7_200 if SOAK else 300)(DisputeMachine.TestCase)
