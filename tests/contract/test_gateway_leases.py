"""Leases at the gateway: jobs without a word to the ledger, charged like all others."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio

from gateway.peer.journal import SettlementJournal
from p2p.errors import RefusedError
from tests.fakes.gateway_world import GatewayWorld, chat, script_next, streamed_text
from tests.fakes.leased_gateway import CHAT, PRICE, check_whole, jobs, prime
from tests.fakes.networks import eventually
from tests.fakes.nodes import WORDS, Script

ANSWER = "".join(WORDS)


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path, lease_usable_s=300)


# --- paying from a lease ------------------------------------------------------------------------
async def test_a_leased_job_waits_for_no_ledger(world: GatewayWorld) -> None:
    async with world.run() as client:
        await prime(world, client)
        holds = world.ledger.started_holds
        world.ledger.delay_s = 30.0  # whoever asks the ledger now waits for ever
        gate = trio.Event()
        script_next(world, Script(hold_back=gate))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.post(CHAT, json=chat()))
            await eventually(lambda: any(job.leased for job in jobs(world)))
            gate.set()
        world.ledger.delay_s = 0.0
        assert world.ledger.started_holds == holds
    assert world.ledger.leased_captures + len(world.ledger.holds) == 3
    check_whole(world)


async def test_lease_is_sized_by_rule_and_shown_once_in_a_session(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, nodes=1, lease_usable_s=300)
    async with world.run() as client:
        await prime(world, client)
        for _ in range(3):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        (lease,) = world.ledger.leases.values()
        assert lease.amount == 64 * jobs(world)[0].offer.maximum
        assert len(world.nodes[0].leases) == 1
        await eventually(lambda: world.ledger.leased_captures == 3)
    assert world.ledger.spent == 5 * PRICE
    check_whole(world)


async def test_small_balance_is_not_leased(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, lease_usable_s=300, available=40_000)
    async with world.run() as client:
        for _ in range(4):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        await world.ledger.settled(4)
    assert not world.ledger.leases


async def test_refused_lease_leaves_jobs_alone(world: GatewayWorld) -> None:
    world.ledger.refuse_lease = RefusedError("key_cap", "the cap is 5 microcredits")
    async with world.run() as client:
        for _ in range(4):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        await world.ledger.settled(4)
    assert SettlementJournal(world.data_dir / "settlement.journal").leases() == {}


async def test_captures_travel_together(world: GatewayWorld) -> None:
    gate = trio.Event()
    async with world.run() as client:
        await prime(world, client)
        for node in world.nodes:
            node.script = Script(hold_back=gate)
        before = len(world.ledger.batches)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(lambda: client.post(CHAT, json=chat()))
            await eventually(lambda: len(jobs(world)) == 10)
            gate.set()
        await eventually(lambda: world.ledger.spent == 10 * PRICE)
        assert len(world.ledger.batches) - before < 8
        assert sum(world.ledger.batches[before:]) == 8
    check_whole(world)


async def test_used_up_lease_is_renewed(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, lease_usable_s=300)
    gate = trio.Event()
    async with world.run() as client:
        await prime(world, client)
        for node in world.nodes:
            node.script = Script(hold_back=gate)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(lambda: client.post(CHAT, json=chat()))
            await eventually(lambda: len(world.ledger.leases) == 2)
            gate.set()
    assert world.ledger.spent == 52 * PRICE
    check_whole(world)


# --- the charging table -------------------------------------------------------------------------
CELLS: list[tuple[str, bool, Script, list[tuple[int, int]]]] = [
    ("complete", True, Script(), [(7, 20)]),
    ("complete", False, Script(), [(7, 20)]),
    ("continued", True, Script(stop_after=8, then="drop"), [(7, 8), (0, 12)]),
    ("continued", False, Script(stop_after=8, then="drop"), [(7, 8), (0, 12)]),
    ("refused first", False, Script(refuse="busy"), [(7, 20)]),
    ("failed before output", False, Script(stop_after=0, then="fail"), [(7, 20)]),
    ("forged", False, Script(forge_signature=True), []),
]


@pytest.mark.parametrize(("name", "streaming", "script", "legs"), CELLS)
async def test_charging_from_a_lease(
    world: GatewayWorld, name: str, streaming: bool, script: Script, legs: list[tuple[int, int]]
) -> None:
    async with world.run() as client:
        await prime(world, client)
        script_next(world, script)
        response = await client.post(CHAT, json=chat(stream=streaming))
        assert response.status_code == 200, name
        if streaming:
            assert streamed_text(response.text) == ANSWER
    paid = [(leg.input_tokens, leg.output_tokens) for leg in world.ledger.paid[2:]]
    assert paid == legs
    assert all(job.leased for job in jobs(world)[2:] if job.voucher.is_set())
    check_whole(world)


@pytest.mark.parametrize(("streaming", "charged"), [(True, 7 * 2 + 8 * 5), (False, 0)])
async def test_failed_after_output(tmp_path: Path, streaming: bool, charged: int) -> None:
    world = GatewayWorld(tmp_path, nodes=1, lease_usable_s=300)
    async with world.run() as client:
        await prime(world, client)
        world.nodes[0].scripts = [Script(stop_after=8, then="fail")]
        response = await client.post(CHAT, json=chat(stream=streaming))
        assert response.status_code == (200 if streaming else 502)
    assert world.ledger.spent == 2 * PRICE + charged
    (lease,) = world.ledger.leases.values()
    assert lease.failed == (0 if streaming else 1)
    check_whole(world)


async def test_client_leaves_a_leased_stream(world: GatewayWorld) -> None:
    async with world.run() as client:
        await prime(world, client)
        script_next(world, Script(batch=1, pause_s=0.05))
        async with await world.raw_post(CHAT, chat(stream=True)) as stream:
            seen = b""
            while b"word3" not in seen:
                seen += await stream.receive_some()
        await eventually(lambda: world.ledger.leased_captures == 1)
    leg = world.ledger.paid[-1]
    assert leg.input_tokens == 7
    assert 4 <= leg.output_tokens < 20
    check_whole(world)


async def test_client_leaves_before_leased_output(world: GatewayWorld) -> None:
    never = trio.Event()
    async with world.run() as client:
        await prime(world, client)
        script_next(world, Script(hold_back=never))
        with trio.move_on_after(0.3):
            await client.post(CHAT, json=chat())
    (lease,) = world.ledger.leases.values()
    assert lease.client_left == 1
    assert world.ledger.spent == 2 * PRICE
    check_whole(world)


# --- nodes that take no leases ------------------------------------------------------------------
async def test_a_node_that_wants_vouchers_gets_one(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, nodes=1, lease_usable_s=300)
    async with world.run() as client:
        await prime(world, client)
        world.nodes[0].accept_leases = False
        for count in (1, 2):
            response = await client.post(CHAT, json=chat(stream=True))
            assert streamed_text(response.text) == ANSWER
            assert world.ledger.started_holds == 2 + count
        # The second time it is not even asked.
        assert len(jobs(world)) == 2 + 2 + 1
    assert world.ledger.spent == 4 * PRICE
    check_whole(world)


async def test_a_node_that_has_done_enough_for_one_lease(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, nodes=1, lease_usable_s=300)
    async with world.run() as client:
        await prime(world, client)
        world.nodes[0].full_leases = 1
        assert (await client.post(CHAT, json=chat())).status_code == 200
        assert world.ledger.started_holds == 3
        assert (await client.post(CHAT, json=chat())).status_code == 200
        assert world.ledger.started_holds == 3  # leases are good again
    assert world.ledger.spent == 4 * PRICE
    check_whole(world)


async def test_leased_answer_is_continued_only_where_leases_are_taken(world: GatewayWorld) -> None:
    async with world.run() as client:
        await prime(world, client)
        gate = trio.Event()
        script_next(world, Script(stop_after=8, hold_back=gate, then="fail"))
        results: list[httpx.Response] = []

        async def ask() -> None:
            results.append(await client.post(CHAT, json=chat()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: len(jobs(world)) == 3 and jobs(world)[2].leased)
            for node in world.nodes:
                node.accept_leases = False
            gate.set()
        (response,) = results
        assert response.status_code == 502
        # Afterwards each node is offered jobs with vouchers of their own.
        for node in world.nodes:
            node.script = Script()
        assert (await client.post(CHAT, json=chat())).status_code == 200
    assert world.ledger.spent == 3 * PRICE
    check_whole(world)
