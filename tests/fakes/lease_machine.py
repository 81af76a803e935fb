"""Owns the rules of leases for the state machine of the ledger's store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import text

from ledger.errors import LedgerError
from ledger.hold_context import NO_CONTEXT
from ledger.operations import OpenLease
from p2p.ledger_messages import TransferResult
from p2p.limits import CLOCK_SKEW_MS_MAX
from tests.fakes.lease_world import capture_leased, expire, give_back, lease, part, part_leg
from tests.fakes.ledger_world import NODES, OTHER_GATEWAY, TERMS
from tests.fakes.subcloud_ledger import SHARED, SHARED_TERMS

TENANTS = 2


@dataclass
class ModelLease:
    """What the model knows of a lease."""

    tenant: int
    opened: OpenLease
    state: str = "open"
    charged: int = 0
    returned: int = 0

    @property
    def amount(self) -> int:
        return self.opened.document.amount

    @property
    def left(self) -> int:
        return self.amount - self.charged - self.returned


class LeaseMachine(RuleBasedStateMachine):
    """Leases: granted, charged (alone and in groups, beyond what they have), given back, expired.

    Whoever inherits gives `world`, `model`, `tenants`, `store`, `reader`, `one` and `accept`.
    """

    world: Any
    model: Any
    tenants: Any
    store: Any
    reader: Any
    done: Any
    one: Any
    accept: Any

    @property
    def leases(self) -> list[ModelLease]:
        if not hasattr(self, "_leases"):
            self._leases: list[ModelLease] = []
        return self._leases

    def refused(self, outcome: object, *codes: str) -> None:
        assert isinstance(outcome, LedgerError), outcome
        assert outcome.code in codes, outcome

    @rule(
        tenant=st.integers(0, TENANTS - 1),
        amount=st.integers(1, 4_000),
        lifetime_ms=st.integers(1_000, 200_000),
        shared=st.booleans(),
    )
    def open_lease(self, tenant: int, amount: int, lifetime_ms: int, shared: bool) -> None:
        terms, context = (SHARED_TERMS, SHARED) if shared else (TERMS, NO_CONTEXT)
        opened = lease(
            self.world,
            self.tenants[tenant],
            amount,
            lifetime_ms=lifetime_ms,
            terms=terms,
            context=context,
        )
        outcome = self.one(opened)
        if amount > self.model.available[tenant]:
            self.refused(outcome, "insufficient_funds")
            return
        assert self.accept(outcome).amount == amount
        self.model.available[tenant] -= amount
        self.model.held[tenant] += amount
        self.leases.append(ModelLease(tenant, opened))

    def drawn(self, data: st.DataObject) -> ModelLease:
        return self.leases[data.draw(st.integers(0, len(self.leases) - 1))]

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        outputs=st.lists(st.integers(0, 400), min_size=1, max_size=5),
        nodes=st.integers(1, 3),
        twice=st.booleans(),
    )
    def charge_lease(
        self, data: st.DataObject, outputs: list[int], nodes: int, twice: bool
    ) -> None:
        """Several jobs in one group; the gateway may have promised more than the lease has."""
        found = self.drawn(data)
        tenant = self.tenants[found.tenant]
        captures, charges = [], []
        for output in outputs:
            charge = 5 * output
            job = part(self.world, found.opened, min(charge, found.amount))
            legs = [
                part_leg(
                    self.world,
                    job,
                    tenant,
                    node=NODES[attempt],
                    attempt=attempt,
                    output_tokens=output // nodes + (output % nodes if not attempt else 0),
                )
                for attempt in range(nodes)
            ]
            captures.append(capture_leased(self.world, job, legs))
            charges.append(charge)
        if twice:
            captures.append(captures[0])
            charges.append(charges[0])
        outcomes = self.store.apply(captures, self.world.now_ms)
        first_done = isinstance(outcomes[0], TransferResult)
        for number, (charge, outcome) in enumerate(zip(charges, outcomes, strict=True)):
            if twice and number == len(outputs) and first_done:
                assert isinstance(outcome, TransferResult)
                assert outcome.exists
                continue
            self.judge_charge(found, charge, outcome)
            if isinstance(outcome, TransferResult):
                self.done.append((captures[number], outcome))

    def judge_charge(self, found: ModelLease, charge: int, outcome: object) -> None:
        if found.opened.document.expires_ms <= self.world.now_ms:
            self.refused(outcome, "hold_expired", "hold_ended")
        elif found.state == "expired":
            self.refused(outcome, "hold_ended")
        elif self.world.now_ms < found.opened.document.issued_ms - CLOCK_SKEW_MS_MAX:
            self.refused(outcome, "receipt_invalid")  # the clock went back before the lease
        elif charge > found.amount:
            self.refused(outcome, "charge_above_hold")
        elif found.state == "released" or charge > found.left:
            self.refused(outcome, "lease_exhausted")
        else:
            assert self.accept(outcome).amount == charge
            found.charged += charge
            self.model.held[found.tenant] -= charge
            self.model.spent[found.tenant] += charge
            self.model.note_owner(found.opened, charge)

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        amount=st.integers(0, 3_000),
        final=st.booleans(),
        foreign=st.sampled_from([False, False, False, True]),
    )
    def return_lease(self, data: st.DataObject, amount: int, final: bool, foreign: bool) -> None:
        found = self.drawn(data)
        amount = 0 if final else amount
        gateway = {"gateway": OTHER_GATEWAY} if foreign else {}
        outcome = self.one(give_back(self.world, found.opened, amount, final=final, **gateway))
        if foreign:
            self.refused(outcome, "hold_foreign")
        elif found.state != "open":
            self.refused(outcome, "hold_ended")
        elif amount > found.left:
            self.refused(outcome, "lease_exhausted")
        else:
            self.came_back(found, outcome, found.left if final else amount)
            found.state = "released" if final else "open"

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def expire_lease(self, data: st.DataObject) -> None:
        found = self.drawn(data)
        outcome = self.one(expire(self.world, found.opened))
        if found.state != "open":
            assert isinstance(outcome, TransferResult)
            assert outcome.exists
        elif found.opened.document.expires_ms > self.world.now_ms:
            self.refused(outcome, "hold_expired")
        else:
            self.came_back(found, outcome, found.left)
            found.state = "expired"

    def came_back(self, found: ModelLease, outcome: object, amount: int) -> None:
        assert self.accept(outcome).amount == amount
        found.returned += amount
        self.model.available[found.tenant] += amount
        self.model.held[found.tenant] -= amount

    @invariant()
    def leases_are_as_the_model_says(self) -> None:
        if not self.leases:
            return
        with self.reader.begin() as connection:
            rows = connection.execute(
                text(
                    "SELECT t.transfer_id, h.state, h.charged, h.returned FROM ledger_holds h "
                    "JOIN ledger_transfers t ON t.number = h.number WHERE h.is_lease = 1"
                )
            ).all()
        expected = {
            one.opened.document.lease_id: (one.state, one.charged, one.returned)
            for one in self.leases
        }
        assert {bytes(row[0]): tuple(row[1:]) for row in rows} == expected
        assert all(one.left >= 0 for one in self.leases)
