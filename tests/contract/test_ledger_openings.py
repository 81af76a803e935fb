"""Referrals and invites in the database: restarts, races, the audit; on both databases."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import trio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bootstrap.limits import EPOCH_GRACE_MS
from ledger import methods
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.operations import Operation
from ledger.rcp import Days, ReferredFees
from ledger.store.account_queries import founding_of
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from ledger.store.integrity import check_integrity
from ledger.store.opening_tables import INVITE_USES, REFERRALS
from ledger.store.rcp_queries import referred_fees
from ledger.usage import DAY_MS, day_of
from p2p.codec import decode_message, encode_message
from p2p.ledger_messages import TransferResult
from p2p.usage_messages import RcpQuery, RcpReport
from tests.fakes.epochs import Points
from tests.fakes.ledger_desk import caller
from tests.fakes.ledger_world import GATEWAY, MINT, NETWORK, START_MS, World
from tests.fakes.opening_world import invite, invited, referred, uninvited

ROUNDS = 100 if os.environ.get("RESULTITY_SOAK") == "1" else 3


class Bench:
    """A store that is opened anew for each group, so that everything comes from the database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.world = World()
        self.tenants = [self.world.tenant(number) for number in range(max(12, 2 * ROUNDS))]
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)

    def do(self, *operations: Operation) -> list[str]:
        """Apply a group; gives `done`, `exists` or the code of the refusal of each."""
        engine = open_engine(self.url, writer=True)
        store = Store(engine)
        try:
            return [_name(found) for found in store.apply(operations, self.world.now_ms)]
        finally:
            store.close()
            engine.dispose()

    def refer(self, who: int, by: int, **options: object) -> Operation:
        return referred(self.world, self.tenants[who], self.tenants[by], **options)

    def problems(self) -> list[str]:
        with self.engine.begin() as connection:
            check_integrity(connection)
            return list(audit(connection, NETWORK, {MINT.public_key}).problems)


def _name(outcome: TransferResult | LedgerError) -> str:
    if isinstance(outcome, LedgerError):
        return outcome.code
    return "exists" if outcome.exists else "done"


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    found = Bench(url)
    yield found
    found.engine.dispose()


def race(bench: Bench, groups: list[list[Operation]]) -> list[str]:
    """Apply groups at the same moment, each by a writer of its own (on SQLite they take turns)."""
    outcomes: list[str] = []
    start = threading.Barrier(len(groups))

    def work(operations: list[Operation]) -> None:
        start.wait()
        outcomes.extend(bench.do(*operations))

    threads = [threading.Thread(target=work, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return sorted(outcomes)


def test_referrals_are_kept_and_loops_are_seen_across_groups(bench: Bench) -> None:
    bench.do(*(tenant.founding for tenant in bench.tenants))
    assert bench.do(bench.refer(1, 0)) == ["done"]
    assert bench.do(bench.refer(1, 0), bench.refer(1, 2), bench.refer(0, 1)) == [
        "exists",
        "id_conflict",
        "referral_refused",
    ]
    # Within one group and over the database's rows at once.
    assert bench.do(bench.refer(3, 2), bench.refer(2, 1), bench.refer(0, 3)) == [
        "done",
        "done",
        "referral_refused",
    ]
    # Taken from above: the audit does them in another order, and finds them right.
    bench.do(*(bench.refer(number + 1, number, chain_max=3) for number in range(8, 3, -1)))
    assert bench.problems() == []


def test_two_that_name_each_other_at_once(bench: Bench) -> None:
    bench.do(*(tenant.founding for tenant in bench.tenants))
    for first in range(0, 2 * ROUNDS, 2):
        groups = [[bench.refer(first, first + 1)], [bench.refer(first + 1, first)]]
        assert race(bench, groups) == ["done", "referral_refused"]
    assert bench.problems() == []


def test_an_invite_opens_what_it_says_however_many_come_at_once(bench: Bench) -> None:
    found = invite(3)
    assert bench.do(uninvited(bench.tenants[0])) == ["invite_refused"]
    assert race(bench, [[invited(tenant, found)] for tenant in bench.tenants[:6]]) == [
        *["done"] * 3,
        *["invite_refused"] * 3,
    ]
    again = [bench.do(invited(tenant, found))[0] for tenant in bench.tenants[:6]]
    assert sorted(again) == [*["exists"] * 3, *["invite_refused"] * 3]
    opened = bench.tenants[again.index("exists")]
    with bench.engine.begin() as connection:
        founding = founding_of(connection, opened.account_id)
        assert founding == encode_message(opened.founding.signed)
    assert bench.do(bench.world.opening(opened)) == ["done"]
    assert bench.problems() == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ledger_referrals",
        "UPDATE ledger_referrals SET referrer = "
        "(SELECT MAX(account_id) FROM ledger_accounts WHERE account_id NOT IN "
        "(SELECT account_id FROM ledger_referrals UNION SELECT referrer FROM ledger_referrals))",
        "UPDATE ledger_referrals SET at_ms = at_ms + 1",
        "UPDATE ledger_invite_uses SET at_ms = at_ms + 1",
        "DELETE FROM ledger_invite_uses",
    ],
)
def test_changed_rows_are_found(bench: Bench, statement: str) -> None:
    bench.do(*(tenant.founding for tenant in bench.tenants[:4]))
    bench.do(invited(bench.tenants[4], invite()), bench.refer(1, 0))
    assert bench.problems() == []
    with pytest.raises(DBAPIError), bench.engine.begin() as connection:
        connection.execute(text(statement))
    with bench.engine.begin() as connection:
        if bench.engine.dialect.name == "sqlite":
            for table in (REFERRALS, INVITE_USES):
                names = connection.execute(
                    text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :t"),
                    {"t": table.name},
                )
                for name in names.scalars().all():
                    connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("SET session_replication_role = replica"))
        assert connection.execute(text(statement)).rowcount
    assert any("the list of" in problem for problem in bench.problems())


def test_fees_of_referred_accounts_from_the_next_epoch_on(bench: Bench) -> None:
    world, payer = bench.world, bench.tenants[0]
    bench.do(bench.tenants[1].founding, *world.setup(payer, 1_000_000))
    bench.do(bench.refer(0, 1))
    hold = world.hold(payer, 10_000)
    bench.do(hold, world.capture(hold, [world.leg(hold, output_tokens=300)]))
    today = day_of(START_MS)

    def fees(first: int, last: int) -> tuple[ReferredFees, ...]:
        with bench.engine.begin() as connection:
            return referred_fees(connection, Days(first, last))

    assert fees(today, today) == ()  # it was referred within this epoch
    world.now_ms += DAY_MS
    hold = world.hold(payer, 10_000)
    bench.do(hold, world.capture(hold, [world.leg(hold, output_tokens=300)]))
    (found,) = fees(today + 1, today + 1)
    assert (found.account_id, found.referrer) == (payer.account_id, bench.tenants[1].account_id)
    with bench.engine.begin() as connection:
        statement = text(
            "SELECT SUM(amount) FROM ledger_entries WHERE account = 'treasury' "
            "OR account LIKE 'fees:%'"
        )
        both_days = connection.execute(statement).scalar_one()
    assert found.fees * 2 == both_days
    assert fees(today + 1, today + 5) == (found,)
    assert fees(today + 2, today + 2) == ()


async def test_an_epoch_with_referrals_is_frozen_and_audited(url: str) -> None:
    world = World()
    world.now_ms = (day_of(START_MS) - 1) * DAY_MS
    payer, referrer = world.tenant(0), world.tenant(1)
    async with trio.open_nursery() as nursery:
        ledger = Ledger(url, NETWORK, clock_ms=world.clock_ms)
        await nursery.start(ledger.run)
        for operation in (referrer.founding, *world.setup(payer, 1_000_000)):
            await ledger.submit(operation)
        await ledger.submit(referred(world, payer, referrer))
        world.now_ms = day_of(START_MS) * DAY_MS
        hold = world.hold(payer, 10_000)
        leg = world.leg(hold, output_tokens=300)
        await ledger.submit(hold)
        await ledger.submit(world.capture(hold, [leg]))
        points = Points(ledger, world.clock_ms, work_basis_points=5000, referral_basis_points=2000)
        world.now_ms += DAY_MS + EPOCH_GRACE_MS
        assert await points.service.freeze() == 1
        query = encode_message(RcpQuery(0, 0, 10, referrer.account_id))
        answer = await points.service.handlers()[methods.RCP](caller(GATEWAY), query)
        (score,) = decode_message(answer, RcpReport).scores
        assert (score.points, score.referral_fees) == (200_000, 150)
        problems = await ledger.read(lambda c: audit(c, NETWORK, {MINT.public_key}).problems)
        assert problems == []
        nursery.cancel_scope.cancel()
