"""What captures say of nodes, counted: once, bounded, and no money by it. Usage by subcloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, func, select

from bootstrap.failure_proofs import failed_nodes
from ledger.conduct import KEPT_DAYS, MINUTE_MS
from ledger.operations import BindNode, CaptureHold, Operation, PlaceHold
from ledger.store.audit.whole import audit
from ledger.store.conduct_queries import conduct_rows, tidy_conduct
from ledger.store.conduct_tables import CONDUCT
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from ledger.store.subcloud_queries import subcloud_report
from ledger.store.usage_check import counter_problems
from ledger.usage import day_of
from p2p.codec import decode_message, encode_message
from p2p.conduct_messages import ConductCounts, ConductQuery, FailedAttempt, LegObservation
from p2p.job_messages import Accept
from p2p.ledger_messages import CaptureRequest, TransferResult
from p2p.signing import KeyPair, Signed
from p2p.subcloud_usage_messages import BY_MEMBER, BY_MODEL, SubcloudUsageRequest
from tests.fakes.dispute_world import DECIDER, decision, dispute
from tests.fakes.lease_world import capture_leased, lease, part, part_leg
from tests.fakes.ledger_world import (
    GATEWAY,
    GATEWAY_ACCOUNT,
    MINT,
    NETWORK,
    NODES,
    START_MS,
    World,
)
from tests.fakes.subcloud_ledger import OWNER, SHARED, SHARED_TERMS, SUBCLOUD, owners_part

T = TypeVar("T")
GOOD = LegObservation(200, 900)
NODE_IDS = tuple(node.peer_id for node in NODES)


class Desk:
    """A database with two tenants."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)
        self.store, self.world = Store(self.engine), World()
        self.tenant, self.other = self.world.tenant(), self.world.tenant(1)
        self.ok(*self.world.setup(self.tenant, 10**6))
        self.ok(*self.world.setup(self.other, 10**6, nodes=0), OWNER.founding)

    def ok(self, *operations: Operation) -> None:
        for outcome in self.store.apply(list(operations), self.world.now_ms):
            assert isinstance(outcome, TransferResult), outcome

    def read(self, query: Callable[[Connection], T]) -> T:
        self.store.close()
        with self.engine.begin() as connection:
            return query(connection)

    def hold(self, *, subcloud: bool = False, **options: Any) -> PlaceHold:
        of = {"terms": SHARED_TERMS, "context": SHARED} if subcloud else {}
        hold = self.world.hold(options.pop("tenant", self.tenant), 5_000, **of, **options)
        self.ok(hold)
        return hold

    def capture(
        self,
        hold: PlaceHold,
        *observed: LegObservation,
        failures: tuple[FailedAttempt, ...] = (),
        nodes: tuple[KeyPair, ...] = (NODES[0],),
        tokens: int = 10,
    ) -> CaptureHold:
        legs = [
            self.world.leg(hold, node=node, attempt=place, output_tokens=tokens)
            for place, node in enumerate(nodes)
        ]
        made = self.world.capture(hold, legs, outcome="complete")
        document = replace(made.document, observed=observed, failures=failures)
        signed = GATEWAY.sign(NETWORK, document)
        proven = failed_nodes(NETWORK, document, made.legs)
        return replace(made, signed=signed, document=document, failures=proven)

    def rows(self, **options: Any) -> list[ConductCounts]:
        query = ConductQuery(NODE_IDS, options.pop("subcloud", ""), START_MS, **options)
        return self.read(lambda c: conduct_rows(c, query, self.world.now_ms))[0]

    def accept(self, hold: PlaceHold, node: KeyPair, attempt: int = 7) -> Signed:
        job_id = hold.document.job_id
        return node.sign(NETWORK, Accept(job_id, attempt, bytes(32), 10, 10))

    def problems(self) -> list[str]:
        keys = ([MINT.public_key], [DECIDER.public_key])
        return self.read(lambda c: audit(c, NETWORK, *keys)).problems

    def close(self) -> None:
        self.store.close()
        self.engine.dispose()


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    found = Desk(url)
    yield found
    found.close()


def test_what_a_capture_says_is_counted_once(desk: Desk) -> None:
    hold, other = desk.hold(), desk.hold(tenant=desk.other)
    both = desk.capture(hold, GOOD, LegObservation(300, 100, True), nodes=NODES[:2])
    desk.ok(both, desk.capture(other, LegObservation(50, 450)))
    # The same capture again, with other observations: it was answered before.
    again = replace(both.document, observed=())
    desk.ok(replace(both, document=again, signed=GATEWAY.sign(NETWORK, again)))
    desk.world.now_ms += 3 * MINUTE_MS
    desk.ok(desk.capture(desk.hold(), GOOD))
    own = (GATEWAY.peer_id, GATEWAY_ACCOUNT, False)
    minute = (START_MS, START_MS + MINUTE_MS)
    third = (START_MS + 3 * MINUTE_MS, START_MS + 4 * MINUTE_MS)
    first, second = sorted(NODE_IDS[:2])
    counts = {
        NODE_IDS[0]: (2, 0, 0, 2, 250, 18, 1350),
        NODE_IDS[1]: (1, 1, 0, 1, 300, 9, 100),
    }
    assert desk.rows() == [
        ConductCounts(first, *own, *minute, *counts[first]),
        ConductCounts(second, *own, *minute, *counts[second]),
        ConductCounts(NODE_IDS[0], *own, *third, 1, 0, 0, 1, 200, 9, 900),
    ]
    whole = {row.node_id: row for row in desk.rows(whole=True)}
    assert (whole[NODE_IDS[0]].jobs, whole[NODE_IDS[0]].first_token_ms) == (3, 450)
    assert (whole[NODE_IDS[0]].from_ms, whole[NODE_IDS[0]].until_ms) == (
        START_MS,
        desk.world.now_ms,
    )
    assert desk.problems() == []


def test_captures_of_before_and_what_does_not_fit(desk: Desk) -> None:
    """A gateway that measures nothing, and one that measures something else, still settle."""
    desk.ok(desk.capture(desk.hold()), desk.capture(desk.hold(), GOOD, GOOD))
    (row,) = desk.rows()
    assert (row.jobs, row.failed, row.first_tokens, row.output_ms) == (2, 0, 0, 0)


def test_failures_need_the_nodes_own_word(desk: Desk) -> None:
    hold = desk.hold()
    foreign = desk.accept(desk.hold(), NODES[1])
    forged = replace(desk.accept(hold, NODES[1]), signature=bytes(64))
    unproven = (
        FailedAttempt(NODE_IDS[1], "lost"),
        FailedAttempt(NODE_IDS[1], "lost", foreign),
        FailedAttempt(NODE_IDS[1], "lost", forged),
        FailedAttempt(NODE_IDS[1], "lost", desk.accept(hold, NODES[2])),
        FailedAttempt(NODE_IDS[1], "lost", desk.accept(hold, NODES[1], attempt=0)),
        FailedAttempt(NODES[5].peer_id, "lost"),  # bound to nobody
    )
    desk.ok(desk.capture(hold, GOOD, failures=unproven))
    (row,) = [row for row in desk.rows() if row.node_id == NODE_IDS[1]]
    assert (row.jobs, row.failed, row.unproven) == (0, 0, 1)
    proof = FailedAttempt(NODE_IDS[1], "failed", None)
    hold = desk.hold()
    proven = (proof, replace(proof, accept=desk.accept(hold, NODES[1])))
    desk.ok(desk.capture(hold, GOOD, failures=proven))
    (row,) = [row for row in desk.rows() if row.node_id == NODE_IDS[1]]
    assert (row.jobs, row.failed, row.unproven) == (1, 1, 1)
    assert desk.problems() == []


def test_nobody_vouches_for_himself(desk: Desk) -> None:
    """Payer, gateway and node of fewer than three accounts: the count is marked."""
    world = desk.world
    desk.ok(BindNode(NODE_IDS[0], desk.tenant.account_id))
    desk.ok(desk.capture(desk.hold(), GOOD))
    desk.ok(BindNode(NODE_IDS[1], GATEWAY_ACCOUNT))
    desk.ok(desk.capture(desk.hold(), GOOD, nodes=(NODES[1],)))
    own = replace(world.hold(desk.tenant, 100), gateway_account=desk.tenant.account_id)
    desk.ok(own, desk.capture(own, GOOD, nodes=(NODES[2],)))
    assert {(row.node_id, row.related) for row in desk.rows()} == {
        (node_id, True) for node_id in NODE_IDS[:3]
    }


def test_leased_jobs_and_subclouds(desk: Desk) -> None:
    world = desk.world
    opened = lease(world, desk.tenant, 5_000, terms=SHARED_TERMS, context=SHARED)
    desk.ok(opened)
    job = part(world, opened, 1_000)
    made = capture_leased(world, job, [part_leg(world, job, desk.tenant, output_tokens=20)])
    document = replace(made.document, observed=(GOOD,))
    desk.ok(replace(made, document=document, signed=GATEWAY.sign(NETWORK, document)))
    desk.ok(desk.capture(desk.hold(), GOOD))
    (row,) = desk.rows(subcloud=SUBCLOUD)
    assert (row.jobs, row.output_tokens) == (1, 19)
    assert desk.rows()[0].jobs == 2
    assert desk.rows(subcloud="another-" + "0" * 32) == []


def test_pages(desk: Desk) -> None:
    for node in NODES[:3]:
        desk.ok(desk.capture(desk.hold(), GOOD, nodes=(node,)))
    every, found, after = desk.rows(), [], 0
    while True:
        query = ConductQuery(NODE_IDS, "", START_MS, after=after)
        rows, after = desk.read(lambda c, q=query: conduct_rows(c, q, desk.world.now_ms, 2))
        found += rows
        if not after:
            break
    assert found == every
    assert len(every) == 3


def test_old_counts_become_coarser_and_are_forgotten(desk: Desk) -> None:
    world = desk.world
    for _ in range(25):
        world.now_ms += MINUTE_MS
        desk.ok(desk.capture(desk.hold(), GOOD))

    def tidy(later_ms: int) -> list[tuple[int, int]]:
        """The lengths of the intervals, in minutes, with the jobs of each."""
        for _ in range(2):  # the second time nothing happens
            desk.read(lambda c: tidy_conduct(c, world.now_ms + later_ms))
        rows = [row for row in desk.rows() if row.node_id == NODE_IDS[0]]
        assert len({row.from_ms for row in rows}) == len(rows)
        return [((row.until_ms - row.from_ms) // MINUTE_MS, row.jobs) for row in rows]

    assert tidy(0) == [(1, 1)] * 25
    coarser = tidy(300 * MINUTE_MS)
    assert {span for span, _ in coarser} == {10}
    assert sum(jobs for _, jobs in coarser) == 25
    assert tidy(5 * 1440 * MINUTE_MS) == [(1440, 25)]
    assert tidy((KEPT_DAYS + 2) * 1440 * MINUTE_MS) == []
    assert desk.read(lambda c: c.execute(select(func.count()).select_from(CONDUCT)).scalar()) == 0


# --- usage by subcloud ----------------------------------------------------------------------------
def report(desk: Desk, by: str = BY_MODEL, **options: Any) -> Any:
    day = day_of(START_MS)
    request = SubcloudUsageRequest(SUBCLOUD, day, day + 1, by, bytes(16), START_MS)
    request = replace(request, **options)
    return desk.read(lambda c: subcloud_report(c, request, 2))


def test_usage_of_a_subcloud_is_what_its_transfers_say(desk: Desk) -> None:
    world = desk.world
    hold = desk.hold(subcloud=True)
    desk.ok(desk.capture(hold, GOOD, nodes=NODES[:2], tokens=100))
    desk.ok(desk.capture(desk.hold(subcloud=True, tenant=desk.other), tokens=40))
    desk.ok(world.release(desk.hold(subcloud=True), outcome="client_left"))
    desk.ok(world.release(desk.hold(subcloud=True)))
    desk.ok(desk.capture(desk.hold(), tokens=1_000))  # of the global pool: not told
    found = report(desk)
    assert not found.more
    assert found.consumers == 2
    (row,) = found.rows
    income = owners_part(1_000) + owners_part(200)
    assert (row.jobs, row.captured, row.client_left, row.failed) == (4, 2, 1, 1)
    assert (row.output_tokens, row.charged, row.income, row.consumers) == (240, 1_200, income, 2)
    members = {row.member: (row.jobs, row.consumers) for row in report(desk, BY_MEMBER).rows}
    assert members == {NODE_IDS[0]: (2, 2), NODE_IDS[1]: (1, 1)}
    earned = sum(row.earned for row in report(desk, BY_MEMBER).rows)
    assert earned == 1_200 - income - 2 * (1_200 * 500 // 10_000)
    # A decision takes back the owner's part too.
    desk.ok(dispute(world, desk.tenant, hold, claimed=1_000), decision(world, hold, 1_000))
    (row,) = report(desk).rows
    assert (row.credited, row.income) == (1_000, owners_part(200))
    assert desk.read(lambda c: list(counter_problems(c))) == []
    assert desk.problems() == []


def test_usage_of_a_subcloud_comes_in_pages(desk: Desk) -> None:
    for node in NODES[:3]:
        desk.ok(desk.capture(desk.hold(subcloud=True), nodes=(node,)))
    first = report(desk, BY_MEMBER)
    rest = report(desk, BY_MEMBER, after=2)
    assert (first.more, rest.more) == (True, False)
    assert {row.member for row in (*first.rows, *rest.rows)} == set(NODE_IDS[:3])
    assert report(desk, first_day=0, last_day=1).rows == ()


def test_the_audit_sees_changed_usage_of_a_subcloud(desk: Desk) -> None:
    desk.ok(desk.capture(desk.hold(subcloud=True)))
    for table in (
        "ledger_subcloud_usage SET income = income + 1",
        "ledger_subcloud_work SET legs = 7",
    ):
        desk.store.close()
        with desk.engine.connect() as connection, connection.begin() as transaction:
            connection.exec_driver_sql(f"UPDATE {table}")
            assert list(counter_problems(connection))
            transaction.rollback()


def test_old_forms_of_captures_are_still_read(desk: Desk) -> None:
    """What does not observe is encoded as it was before there were observations."""
    made = desk.capture(desk.hold())
    encoded = encode_message(made.document)
    assert encoded[0] == 0x90 + 6  # number, and five fields
    assert decode_message(encoded, CaptureRequest) == made.document
