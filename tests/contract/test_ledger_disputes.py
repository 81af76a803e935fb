"""Disputes in the database: decided once, everything adds up, and the audit accepts it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select, text

from ledger.errors import LedgerError
from ledger.limits import EVIDENCE_KEPT_MS
from ledger.operations import BindNode, Operation, PlaceHold
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine, prepare
from ledger.store.dispute_tables import DISPUTE_EVIDENCE
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from ledger.store.queries import balance, key_view, namespace_view
from ledger.store.tail import check_tail
from ledger.store.usage_check import counter_problems
from ledger.store.usage_queries import usage_rows
from ledger.usage import day_of
from p2p.ledger_messages import TransferResult
from tests.fakes.dispute_world import (
    DECIDER,
    WINDOW_MS,
    answer,
    decision,
    dispute,
    operator_tenant,
)
from tests.fakes.ledger_world import (
    GATEWAY_ACCOUNT,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    World,
)


class Court:
    """A database with a tenant, an operator whose nodes are NODES[0], and one charge of 1,000."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)
        self.store, self.world = Store(self.engine), World()
        self.tenant, self.operator = self.world.tenant(), operator_tenant(self.world)
        self.ok(
            *self.world.setup(self.tenant, 100_000), *self.world.setup(self.operator, 0, nodes=0)
        )
        self.ok(BindNode(NODES[0].peer_id, self.operator.account_id))
        self.hold = self.charge()

    def charge(self) -> PlaceHold:
        hold = self.world.hold(self.tenant, 2_000)
        first = self.world.leg(hold, input_tokens=10, output_tokens=100)
        second = self.world.leg(hold, node=NODES[1], attempt=1, output_tokens=96)
        self.ok(hold, self.world.capture(hold, [first, second]))
        return hold

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

    def balances(self) -> dict[str, int]:
        names = {
            "available": f"namespace:{self.tenant.path}",
            "operator": f"earnings:{self.operator.account_id}",
            "other": f"earnings:{NODE_ACCOUNTS[1]}",
            "gateway": f"fees:{GATEWAY_ACCOUNT}",
            "treasury": "treasury",
        }
        with self.engine.begin() as connection:
            return {name: balance(connection, account) for name, account in names.items()}

    def check(self) -> None:
        """All rules hold, by every check that there is."""
        with self.engine.begin() as connection:
            check_integrity(connection)
            check_tail(connection, 0)
            assert list(counter_problems(connection)) == []
            report = audit(
                connection, NETWORK, [MINT.public_key], dispute_keys=[DECIDER.public_key]
            )
            # Nothing is logged here, so there is no problem with the log either.
            assert report.problems == []

    def close(self) -> None:
        self.store.close()
        self.engine.dispose()


@pytest.fixture
def court(url: str) -> Iterator[Court]:
    found = Court(url)
    yield found
    found.close()


def test_a_refund_is_taken_back_in_proportion(court: Court) -> None:
    before = court.balances()
    assert before["operator"] + before["other"] + before["gateway"] + before["treasury"] == 1_000
    court.ok(dispute(court.world, court.tenant, court.hold, claimed=500))
    court.check()
    court.world.now_ms += 2 * 86_400_000
    assert court.do(decision(court.world, court.hold, 333)).amount == 333  # type: ignore[union-attr]
    after = court.balances()
    assert after["available"] == before["available"] + 333
    for name in ("operator", "other", "gateway", "treasury"):
        assert abs(before[name] - after[name] - before[name] * 333 / 1000) < 1
    assert sum(after.values()) == sum(before.values())
    with court.engine.begin() as connection:
        view = namespace_view(connection, court.tenant.path)
        assert view is not None
        assert view.granted - view.available - view.held == 667
        assert key_view(connection, court.tenant.api_key.key_id) is not None
        spent = connection.execute(text("SELECT spent FROM ledger_api_keys WHERE spent <> 0"))
        assert spent.scalars().all() == [667]
        today = day_of(court.world.now_ms)
        rows = usage_rows(connection, court.tenant.path, 0, today, count_max=10)
    assert [(row.day, row.requests, row.charged, row.credited) for row in rows] == [
        (today - 2, 1, 1_000, 0),
        (today, 0, 0, 333),
    ]
    court.check()


def test_every_step_is_idempotent_and_happens_once(court: Court) -> None:
    opened = dispute(court.world, court.tenant, court.hold)
    said = answer(court.world, court.operator, court.hold)
    decided = decision(court.world, court.hold, 10)
    for operation in (opened, said, decided):
        court.ok(operation)
        again = court.do(operation)
        assert isinstance(again, TransferResult)
        assert again.exists
    court.world.now_ms += 1
    later = decision(court.world, court.hold, 10)
    again = court.do(later)
    assert isinstance(again, TransferResult), "the same decision, signed again"
    assert again.exists
    court.refused(decision(court.world, court.hold, 11), "dispute_ended")
    court.refused(dispute(court.world, court.tenant, court.hold), "dispute_exists")
    court.refused(answer(court.world, court.operator, court.hold, "more"), "dispute_ended")
    court.check()


def test_who_may_not(court: Court) -> None:
    stranger = court.world.tenant(7, "other")
    court.ok(*court.world.setup(stranger, 0, nodes=0))
    world, tenant, hold = court.world, court.tenant, court.hold
    court.refused(dispute(world, stranger, hold), "charge_unknown")
    court.refused(dispute(world, tenant, hold, signer=stranger.keys), "not_authorized")
    court.refused(dispute(world, tenant, world.new_id()), "charge_unknown")
    court.refused(dispute(world, tenant, hold, claimed=1_001), "value_refused")
    court.refused(dispute(world, tenant, hold, claimed=0), "value_refused")
    court.refused(dispute(world, tenant, hold, reason=" "), "value_refused")
    released = world.hold(tenant, 10)
    court.ok(released, world.release(released))
    court.refused(dispute(world, tenant, released), "charge_unknown")
    court.refused(answer(world, court.operator, hold), "dispute_unknown")
    court.refused(decision(world, hold, 5), "dispute_unknown")
    court.ok(dispute(world, tenant, hold))
    court.refused(answer(world, stranger, hold), "dispute_unknown")
    court.refused(decision(world, hold, 1_001), "value_refused")
    court.ok(decision(world, hold, 0))
    assert court.balances()["available"] == 99_000
    court.check()


def test_a_charge_can_be_disputed_within_the_window_and_decided_after_it(court: Court) -> None:
    late = court.charge()
    court.ok(dispute(court.world, court.tenant, court.hold))
    court.world.now_ms += WINDOW_MS + 1
    court.refused(dispute(court.world, court.tenant, late), "dispute_late")
    court.world.now_ms += 100 * 86_400_000
    court.ok(decision(court.world, court.hold, 1_000))
    assert court.balances()["operator"] > 0, "the other charge"
    court.check()


def test_evidence_is_forgotten_some_time_after_the_decision(court: Court) -> None:
    other = court.charge()
    for hold in (court.hold, other):
        court.ok(dispute(court.world, court.tenant, hold))
    court.ok(decision(court.world, court.hold, 1))
    court.world.now_ms += EVIDENCE_KEPT_MS + 1
    court.ok(decision(court.world, other, 1))
    with court.engine.begin() as connection:
        assert len(connection.execute(select(DISPUTE_EVIDENCE)).all()) == 1
    court.check()


def test_decisions_are_immutable(court: Court) -> None:
    court.ok(dispute(court.world, court.tenant, court.hold), decision(court.world, court.hold, 3))
    for statement in (
        "UPDATE ledger_dispute_decisions SET refunded = 5",
        "DELETE FROM ledger_disputes",
        "UPDATE ledger_disputes SET claimed = 7",
    ):
        with pytest.raises(Exception, match="immutable"), court.engine.begin() as connection:
            connection.execute(text(statement))


def test_of_two_deciders_at_the_same_time_one_wins(court: Court, url: str) -> None:
    holds = [court.hold, *(court.charge() for _ in range(5))]
    for hold in holds:
        court.ok(dispute(court.world, court.tenant, hold))
    court.store.close()
    engines = [open_engine(url, writer=True) for _ in range(2)]
    decisions = [[decision(court.world, hold, 100 + side) for hold in holds] for side in range(2)]
    outcomes: list[list[Outcome]] = [[], []]

    def decide(side: int) -> None:
        store = Store(engines[side])
        for operation in decisions[side]:
            outcomes[side] += store.apply([operation], court.world.now_ms)
        store.close()

    threads = [threading.Thread(target=decide, args=(side,)) for side in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for engine in engines:
        engine.dispose()
    refunded = 0
    for pair in zip(*outcomes, strict=True):
        won = [one.amount for one in pair if isinstance(one, TransferResult)]
        assert [one.code for one in pair if isinstance(one, LedgerError)] == ["dispute_ended"]
        refunded += sum(won)
    assert court.balances()["available"] == 100_000 - 6_000 + refunded
    court.check()
