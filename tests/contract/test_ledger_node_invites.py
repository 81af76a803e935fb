"""Node invites in the ledger: races, repeats, refusals, the audit, mirrors; on both databases."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from bootstrap.account_door import AccountDoor
from bootstrap.node_door import NodeDoor
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.operations import BindNode, Operation
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from ledger.store.integrity import check_integrity
from ledger.store.opening_tables import NODE_INVITE_USES
from ledger.store.queries import node_account
from p2p.errors import RefusedError
from p2p.network_configuration import NetworkConfiguration, Participation
from tests.fakes.ledger_world import MINT, NETWORK, START_MS, World, key_pair
from tests.fakes.mirrors import assert_same, running_mirror, running_primary
from tests.fakes.node_invites import BY_AUTHORITY, admitting, applicant, node_invite, node_key

ROUNDS = 60 if os.environ.get("RESULTITY_SOAK") == "1" else 2


class Bench:
    """A store that is opened anew for each group, so that everything comes from the database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.world = World()
        self.tenants = [self.world.tenant(number) for number in range(4)]
        self.engine = open_engine(url, writer=True)
        prepare(self.engine, NETWORK)
        self.do(*(tenant.founding for tenant in self.tenants))

    def do(self, *operations: Operation) -> list[str]:
        """Apply a group; gives `done`, `exists` or the code of the refusal of each."""
        engine = open_engine(self.url, writer=True)
        store = Store(engine)
        try:
            found = store.apply(operations, self.world.now_ms)
        finally:
            store.close()
            engine.dispose()
        return [
            one.code if isinstance(one, LedgerError) else "exists" if one.exists else "done"
            for one in found
        ]

    def problems(self) -> list[str]:
        with self.engine.begin() as connection:
            check_integrity(connection)
            return list(audit(connection, NETWORK, {MINT.public_key}).problems)

    def uses(self) -> list[str]:
        with self.engine.begin() as connection:
            return list(connection.execute(select(NODE_INVITE_USES.c.peer_id)).scalars())


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    found = Bench(url)
    yield found
    found.engine.dispose()


def test_an_invite_admits_what_it_says_however_many_come_at_once(bench: Bench) -> None:
    """k nodes race for n uses, each with a writer of its own, some of them twice."""
    for number in range(ROUNDS):
        draw = random.Random(number)
        uses = draw.randint(1, 4)
        invite = node_invite(uses, secret=600 + number)
        nodes = [node_key(100 * number + place) for place in range(draw.randint(uses, 7))]
        tickets = [
            [admitting(draw.choice(bench.tenants), node, invite)]
            for node in [*nodes, draw.choice(nodes)]
        ]
        before, start = set(bench.uses()), threading.Barrier(len(tickets))
        outcomes: list[str] = []

        def work(
            group: list[Operation],
            start: threading.Barrier = start,
            outcomes: list[str] = outcomes,
        ) -> None:
            start.wait()
            outcomes.extend(bench.do(*group))

        threads = [threading.Thread(target=work, args=(group,)) for group in tickets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert set(outcomes) <= {"done", "exists", "invite_refused"}
        admitted = set(bench.uses()) - before
        assert len(admitted) == uses
        again = [bench.do(*group)[0] for group in tickets]
        assert again.count("invite_refused") == sum(
            group[0].invitation.peer_id not in admitted for group in tickets
        )
        assert set(bench.uses()) - before == admitted
    assert bench.problems() == []


def test_a_node_that_is_bound_uses_nothing(bench: Bench) -> None:
    invite, node = node_invite(1), node_key(1)
    first, second = bench.tenants[:2]
    assert bench.do(admitting(first, node, invite)) == ["done"]
    assert bench.do(admitting(first, node, invite), admitting(second, node, invite)) == [
        "exists",
        "done",  # it works for another account from now on
    ]
    bench.world.now_ms += 1
    # Whatever has become of the invite, and without any: it is in.
    gone = replace(
        BY_AUTHORITY, revoked=frozenset([admitting(first, node, invite).invitation.invite_id])
    )
    assert bench.do(admitting(first, node, invite, gone)) == ["done"]
    assert bench.do(BindNode(node.peer_id, first.account_id, invited_only=True)) == ["exists"]
    assert bench.do(admitting(first, node_key(2), invite)) == ["invite_refused"]
    # One that came while the network was open needs none either.
    assert bench.do(BindNode(node_key(3).peer_id, first.account_id)) == ["done"]
    assert bench.do(admitting(first, node_key(3), invite)) == ["exists"]
    assert bench.do(BindNode(node_key(4).peer_id, first.account_id, True)) == ["invite_refused"]
    # Two in one group that want the same last use.
    last = node_invite(1, secret=601)
    assert bench.do(*(admitting(first, node_key(n), last) for n in (5, 5, 6))) == [
        "done",
        "exists",
        "invite_refused",
    ]
    assert set(bench.uses()) == {node.peer_id, node_key(5).peer_id}
    assert bench.problems() == []


def test_invites_that_do_not_do(bench: Bench) -> None:
    tenant, node = bench.tenants[0], node_key(1)
    invite = node_invite(1)
    good = admitting(tenant, node, invite)
    revoked = replace(BY_AUTHORITY, revoked=frozenset([good.invitation.invite_id]))
    assert bench.do(admitting(tenant, node, invite, revoked)) == ["invite_refused"]
    ended = node_invite(1, expires_ms=START_MS)
    assert bench.do(admitting(tenant, node, ended)) == ["invite_refused"]
    delegates = node_invite(1, issuer=key_pair(900))
    assert bench.do(admitting(tenant, node, delegates)) == ["invite_refused"]
    assert bench.do(admitting(tenant, node, invite, signer=key_pair(901))) == ["not_authorized"]
    unknown = bench.world.tenant(99)
    assert bench.do(admitting(unknown, node, invite)) == ["account_unknown"]
    assert bench.uses() == []
    named = replace(BY_AUTHORITY, issuers=frozenset([key_pair(900).public_key]))
    assert bench.do(admitting(tenant, node, delegates, named)) == ["done"]
    assert bench.problems() == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ledger_node_invite_uses",
        "UPDATE ledger_node_invite_uses SET at_ms = at_ms + 1",
        "UPDATE ledger_node_invite_uses SET account_id = (SELECT MAX(a.account_id) FROM "
        "ledger_accounts a WHERE a.account_id <> ledger_node_invite_uses.account_id)",
    ],
)
def test_changed_rows_are_found(bench: Bench, statement: str) -> None:
    bench.do(admitting(bench.tenants[0], node_key(1), node_invite()))
    assert bench.problems() == []
    with pytest.raises(DBAPIError), bench.engine.begin() as connection:
        connection.execute(text(statement))
    with bench.engine.begin() as connection:
        if bench.engine.dialect.name == "sqlite":
            names = connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :t"),
                {"t": NODE_INVITE_USES.name},
            )
            for name in names.scalars().all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("SET session_replication_role = replica"))
        assert connection.execute(text(statement)).rowcount
    assert any("nodes' uses of invites" in problem for problem in bench.problems())


async def test_the_door_lets_nodes_in_by_the_configuration(url: str) -> None:
    world = World()
    configuration = NetworkConfiguration(network_id=NETWORK, version=1, issued_ms=START_MS)

    def participation(**fields: object) -> None:
        nonlocal configuration
        rules = Participation.model_validate(fields)
        configuration = configuration.model_copy(update={"participation": rules})

    async with trio.open_nursery() as nursery:
        ledger = Ledger(url, NETWORK, clock_ms=world.clock_ms)
        await nursery.start(ledger.run)
        door = AccountDoor(ledger, lambda: configuration, world.clock_ms)
        nodes = NodeDoor(ledger, door, NETWORK, lambda: configuration)
        invite = node_invite(2)

        async def bind(tenant: int, node: int, *, invited: bool = True) -> str:
            found = applicant(
                world.tenant(tenant), node_key(node), world.now_ms, invite if invited else None
            )
            try:
                await nodes.bind(found)
            except RefusedError as error:
                return str(error)
            account_id = await ledger.read(lambda c: node_account(c, found.peer_id))
            return "in" if account_id == found.account_id else "elsewhere"

        # An open network: as before, without an invite.
        assert await bind(0, 0, invited=False) == "in"
        # Nodes and accounts by invite: one string is enough for both.
        participation(nodes="invite", accounts="invite")
        assert "opens accounts by invite only" in await bind(1, 1, invited=False)
        assert await bind(1, 1) == "in"
        assert "admits nodes by invite only" in await bind(1, 2, invited=False)
        assert await bind(0, 0, invited=False) == "in"  # it renews
        assert await bind(1, 1, invited=False) == "in"
        assert await bind(1, 2) == "in"
        assert "is used up: it has admitted 2 of 2 nodes" in await bind(1, 3)
        assert await bind(2, 4) != "in"
        assert await bind(1, 2) == "in"
        invite = node_invite(5, secret=700)
        revoked = applicant(world.tenant(1), node_key(5), world.now_ms, invite).invitation
        assert revoked is not None
        participation(nodes="invite", revoked_invites=(revoked.invite_id.hex(),))
        assert "was revoked" in await bind(1, 5)
        participation(nodes="invite")
        world.now_ms += 8 * 86_400_000
        assert "ended at" in await bind(1, 5)
        invite = node_invite(1, secret=701, issuer=key_pair(902), expires_ms=2**52)
        assert "not signed by the authority or one of its invite keys" in await bind(1, 5)
        participation(nodes="invite", invite_keys=(key_pair(902).public_key.hex(),))
        assert await bind(1, 5) == "in"
        # A network that is open counts the uses of an invite that is shown, too.
        participation(invite_keys=(key_pair(902).public_key.hex(),))
        assert "used up" in await bind(1, 6)
        assert await bind(1, 6, invited=False) == "in"
        problems = await ledger.read(lambda c: audit(c, NETWORK, {MINT.public_key}).problems)
        assert problems == []
        nursery.cancel_scope.cancel()


async def test_a_mirror_follows_nodes_that_came_by_invite(tmp_path: Path) -> None:
    world = World()
    first, second = world.tenant(0), world.tenant(1)
    invite = node_invite(3)

    async def uses(ledger: Ledger) -> list[tuple[object, ...]]:
        return await ledger.read(
            lambda c: sorted(tuple(row) for row in c.execute(select(NODE_INVITE_USES)))
        )

    async with running_primary(f"sqlite:///{tmp_path / 'primary.db'}", world) as primary:
        primary.service.sequencer._sources_max = 2
        for tenant in (first, second):
            await primary.ledger.submit(tenant.founding)
        async with running_mirror(tmp_path / "mirror", world) as mirror:
            for place, tenant in enumerate((first, second, first)):
                await primary.ledger.submit(admitting(tenant, node_key(place), invite))
            await primary.ledger.submit(admitting(second, node_key(0), invite))
            await primary.log()
            await mirror.follow(primary)
            await assert_same(primary, mirror)
            assert await uses(mirror.ledger) == await uses(primary.ledger)
            assert (len(await uses(mirror.ledger)), mirror.alarms()) == (3, [])
