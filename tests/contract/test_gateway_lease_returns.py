"""How leases go back: notices of bootstraps, wanted credit, a ledger away, a gateway that died."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from gateway.errors import CreditLeasedError
from gateway.peer.journal import SettlementJournal
from p2p.errors import RefusedError
from p2p.lease_messages import LedgerNotice, key_mark
from tests.fakes.gateway_world import GatewayWorld, chat, script_next
from tests.fakes.leased_gateway import CHAT, PRICE, check_whole, jobs, prime
from tests.fakes.networks import eventually
from tests.fakes.nodes import Script

LEASED = RefusedError("credit_leased", "900 microcredits are leased until 12:00:00", 1.0)


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path, lease_usable_s=300)


# --- notices ------------------------------------------------------------------------------------
async def test_revoked_key_is_out_at_once(world: GatewayWorld) -> None:
    world.ledger.cache_s = 3600.0
    async with world.run() as client:
        await prime(world, client)
        world.ledger.keys.clear()
        assert (await client.post(CHAT, json=chat())).status_code == 200  # not heard of it yet
        notice = LedgerNotice(world.clock_ms(), changed_keys=(key_mark(world.key.key_id),))
        await world.notify(notice)
        await eventually(lambda: all(lease.ended for lease in world.ledger.leases.values()))
        assert (await client.post(CHAT, json=chat())).status_code == 401
    check_whole(world)


async def test_running_jobs_of_a_revoked_key_are_settled(world: GatewayWorld) -> None:
    gate = trio.Event()
    async with world.run() as client:
        await prime(world, client)
        script_next(world, Script(hold_back=gate))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.post(CHAT, json=chat()))
            await eventually(lambda: any(job.leased for job in jobs(world)))
            world.ledger.keys.clear()
            await world.notify(
                LedgerNotice(world.clock_ms(), changed_keys=(key_mark(world.key.key_id),))
            )
            maximum = jobs(world)[-1].offer.maximum
            await eventually(lambda: world.ledger.leased == maximum)
            gate.set()
        await eventually(lambda: world.ledger.leased == 0)
    assert world.ledger.spent == 3 * PRICE
    check_whole(world)


async def test_wanted_lease_goes_back_and_is_not_asked_for_again(world: GatewayWorld) -> None:
    async with world.run() as client:
        await prime(world, client)
        await world.notify(
            LedgerNotice(world.clock_ms(), wanted_keys=(key_mark(world.key.key_id),))
        )
        await eventually(lambda: world.ledger.leased == 0)
        for _ in range(3):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        assert len(world.ledger.leases) == 1
        assert world.ledger.started_holds == 5
    check_whole(world)


async def test_notices_that_nobody_may_give_are_dropped(world: GatewayWorld) -> None:
    mark = key_mark(world.key.key_id)
    old = world.clock_ms() - 200_000
    async with world.run() as client:
        await prime(world, client)
        await world.notify(LedgerNotice(old, changed_keys=(mark,)))
        await world.bootstrap_network.publish("ledger-notices", b"nonsense")
        await world.notify(LedgerNotice(world.clock_ms(), changed_keys=(bytes(16),)))
        assert (await client.post(CHAT, json=chat())).status_code == 200
        assert world.ledger.started_holds == 2
    check_whole(world)


# --- credit that is leased elsewhere ------------------------------------------------------------
async def test_hold_waits_while_leased_credit_comes_back(world: GatewayWorld) -> None:
    async with world.run() as client:
        world.ledger.refuse_hold, world.ledger.refuse_holds = LEASED, 4
        assert (await client.post(CHAT, json=chat())).status_code == 200
        assert world.ledger.started_holds == 5
    check_whole(world)


async def test_credit_that_stays_leased_is_told(world: GatewayWorld) -> None:
    async with world.run() as client:
        world.ledger.refuse_hold = LEASED
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("credit_leased", "rate_limit_error")
        assert "900 microcredits are leased until 12:00:00" in error["message"]
    assert not any(job.voucher.is_set() for job in jobs(world))
    check_whole(world)


async def test_own_leases_make_room_for_an_own_hold(world: GatewayWorld) -> None:
    async with world.run() as client:
        await prime(world, client)
        world.ledger.refuse_hold, world.ledger.refuse_holds = LEASED, 2
        body = chat("x" * 700)  # its maximum is larger, but the lease would cover it too
        world.nodes[0].accept_leases = world.nodes[1].accept_leases = False
        assert (await client.post(CHAT, json=body)).status_code == 200
        await eventually(lambda: world.ledger.leased == 0)
    check_whole(world)


# --- without a ledger, and after a death --------------------------------------------------------
async def test_a_lease_serves_while_no_bootstrap_answers(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, lease_usable_s=300, cache_s=0.2)
    async with world.run() as client:
        await prime(world, client)
        world.ledger.down = True
        for _ in range(5):
            await trio.sleep(0.1)
            assert (await client.post(CHAT, json=chat())).status_code == 200
        other = await client.get("/healthz")
        assert other.json()["leases"] == 1
        world.ledger.down = False
        await eventually(lambda: world.ledger.leased_captures == 5)
    check_whole(world)


async def test_a_restart_settles_and_returns(world: GatewayWorld, tmp_path: Path) -> None:
    gate = trio.Event()
    async with world.run(stop_grace_s=0.0) as client:
        await prime(world, client)
        script_next(world, Script(hold_back=gate))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.post(CHAT, json=chat()))
            await eventually(lambda: any(job.leased for job in jobs(world)))
            world.ledger.down = True
            gate.set()
    assert world.ledger.leased > 0
    journal = SettlementJournal(tmp_path / "settlement.journal")
    assert (len(journal.owed()), len(journal.leases())) == (1, 1)
    journal.close()
    again = GatewayWorld(tmp_path, lease_usable_s=300)
    for name in ("leases", "holds", "ended", "captured", "available"):
        setattr(again.ledger, name, getattr(world.ledger, name))
    async with again.run():
        await eventually(lambda: again.ledger.leased == 0)
    assert again.ledger.spent == 3 * PRICE
    check_whole(again)
    journal = SettlementJournal(tmp_path / "settlement.journal")
    assert (journal.owed(), journal.leases()) == ({}, {})
    journal.close()


async def test_a_lost_answer_to_a_lease_is_given_back(world: GatewayWorld) -> None:
    world.ledger.lose_leases = True
    async with world.run() as client:
        for _ in range(4):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        await eventually(lambda: len(world.ledger.leases) == 1 and world.ledger.leased == 0)
        assert (await client.get("/healthz")).json()["leases"] == 0
    check_whole(world)


def test_the_body_is_shaped_like_openai() -> None:
    body = json.loads(json.dumps(CreditLeasedError("wait", retry_after_s=1.0).body()))
    assert set(body["error"]) == {"message", "type", "param", "code"}
