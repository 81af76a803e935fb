"""IDs that somebody takes before their time: nothing may be stopped, or lost, by that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.errors import ChargeUnknownError, LedgerError, ReceiptError, ValueRefusedError
from ledger.operations import Operation, expiry_id
from ledger.store.claim_tables import CLAIMS
from ledger.store.database import open_engine, prepare
from ledger.store.group import Outcome, Store
from ledger.store.integrity import check_integrity
from p2p.dispute_messages import correction_id
from p2p.ledger_messages import TransferResult
from tests.fakes.claim_world import leased_claim, settle_part
from tests.fakes.dispute_world import decision, dispute
from tests.fakes.lease_world import capture_leased, lease, part, part_leg
from tests.fakes.ledger_world import NETWORK, NODES, OTHER_GATEWAY, World


class Bench:
    """A store with a tenant that has a credit."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)
        self.store = Store(self.engine)
        self.world = World()
        self.tenant = self.world.tenant()
        for operation in self.world.setup(self.tenant, 1_000_000):
            self.do(operation)

    def group(self, *operations: Operation) -> list[Outcome]:
        return self.store.apply(operations, self.world.now_ms)

    def do(self, operation: Operation) -> TransferResult:
        found = self.group(operation)[0]
        assert not isinstance(found, LedgerError), found
        return found

    def refused(self, operation: Operation, error: type[LedgerError]) -> None:
        assert isinstance(self.group(operation)[0], error)

    def check(self) -> None:
        with self.engine.connect() as connection:
            check_integrity(connection)


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    found = Bench(url)
    yield found
    found.check()
    found.store.close()
    found.engine.dispose()


def test_nobody_can_choose_the_id_by_which_a_hold_expires(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    hold = world.hold(tenant, 100)
    bench.do(hold)
    taken = expiry_id(hold.document.hold_id)
    own = lease(world, tenant, 500)
    bench.do(own)
    for operation in (
        world.hold(tenant, 0, hold_id=taken),
        world.release(world.hold(tenant, 1), release_id=taken),
        lease(world, tenant, 10, lease_id=taken),
        world.capture(hold, [world.leg(hold, output_tokens=1)], capture_id=taken),
    ):
        bench.refused(operation, ValueRefusedError)
    own_part = part(world, own, 10, hold_id=taken)
    bench.refused(leased_claim(world, own_part, tenant, output_tokens=1), ReceiptError)
    world.now_ms += 60_001
    assert bench.do(world.expire(hold)).amount == 100


def test_nobody_can_choose_the_id_by_which_a_dispute_is_decided(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    hold = world.hold(tenant, 2_000)
    bench.do(hold)
    bench.do(world.capture(hold, [world.leg(hold, input_tokens=10, output_tokens=100)]))
    taken = correction_id(hold.document.hold_id)
    bench.refused(world.hold(tenant, 0, hold_id=taken), ValueRefusedError)
    bench.do(dispute(world, tenant, hold))
    assert bench.do(decision(world, hold, 100)).amount == 100


def test_one_job_of_two_leases_is_two_holds(bench: Bench) -> None:
    """A part's ID follows from its lease: the ID of one lease's part is nothing in another."""
    world, tenant = bench.world, bench.tenant
    short, long = lease(world, tenant, 10_000, lifetime_ms=60_000), lease(world, tenant, 10_000)
    bench.do(short)
    bench.do(long)
    job = part(world, short, 1_000)
    bench.do(leased_claim(world, job, tenant, output_tokens=20))
    again = part(world, long, 1_000, hold_id=job.hold_id, job_id=job.job_id)
    bench.refused(leased_claim(world, again, tenant, output_tokens=21), ReceiptError)
    world.now_ms += 60_001
    assert bench.do(settle_part(world, short, job)).amount == 100
    bench.refused(leased_claim(world, again, tenant, node=NODES[1], output_tokens=9), ReceiptError)
    with bench.engine.connect() as connection:
        assert len(connection.execute(CLAIMS.select()).all()) == 1


def test_a_charge_has_one_name_for_disputes(bench: Bench) -> None:
    world, tenant = bench.world, bench.tenant
    hold = world.hold(tenant, 2_000)
    bench.do(hold)
    capture = world.capture(hold, [world.leg(hold, input_tokens=10, output_tokens=100)])
    bench.do(capture)
    bench.do(dispute(world, tenant, hold))
    outcomes = bench.group(
        dispute(world, tenant, capture.document.capture_id), world.hold(tenant, 10)
    )
    assert isinstance(outcomes[0], ChargeUnknownError)
    assert isinstance(outcomes[1], TransferResult)


def test_nobody_can_take_the_id_of_a_job_that_a_lease_pays(bench: Bench) -> None:
    """Another gateway that learned of a job could once stop its capture by using its ID first."""
    world, tenant = bench.world, bench.tenant
    own, foreign = lease(world, tenant, 10_000), lease(world, tenant, 10_000, gateway=OTHER_GATEWAY)
    bench.do(own)
    bench.do(foreign)
    job = part(world, own, 1_000)
    taken = job.hold_id
    for operation in (
        world.hold(tenant, 0, hold_id=taken, gateway=OTHER_GATEWAY),
        lease(world, tenant, 10, lease_id=taken, gateway=OTHER_GATEWAY),
    ):
        bench.refused(operation, ValueRefusedError)
    theirs = part(world, foreign, 1_000, hold_id=taken, job_id=job.job_id)
    leg = part_leg(world, theirs, tenant, output_tokens=1, gateway=OTHER_GATEWAY)
    bench.refused(capture_leased(world, theirs, [leg], gateway=OTHER_GATEWAY), ReceiptError)
    bench.do(capture_leased(world, job, [part_leg(world, job, tenant, output_tokens=20)]))
