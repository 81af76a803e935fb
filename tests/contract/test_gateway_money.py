"""Money, keys and stopping at the gateway: what is held, charged, refused, and settled later."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from gateway.peer import job_run
from gateway.peer.job_run import JobRun
from gateway.peer.journal import SettlementJournal
from gateway.peer.settlement import Settlement
from p2p.codec import decode_message
from p2p.errors import RefusedError
from p2p.ledger_messages import CaptureRequest, TransferResult
from p2p.signing import Signed
from tests.fakes.gateway_world import GatewayWorld, chat, script_next, streamed_text
from tests.fakes.leased_gateway import check_whole, prime
from tests.fakes.ledger import DroppingLedger, FakeLedger, api_key
from tests.fakes.networks import eventually
from tests.fakes.nodes import WORDS, Script

CHAT = "/v1/chat/completions"
ANSWER = "".join(WORDS)
PRICE = 7 * 2 + 20 * 5


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path)


# --- money --------------------------------------------------------------------------------------
async def test_no_credit(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, available=5)
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
    assert response.status_code == 429
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert not any(node.jobs for node in world.nodes)


async def test_overlapped_hold_that_is_refused(world: GatewayWorld) -> None:
    async with world.run() as client:
        assert (await client.post(CHAT, json=chat())).status_code == 200
        world.ledger.refuse_hold = RefusedError("key_cap", "the cap is 5 microcredits")
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "insufficient_quota"
        await eventually(lambda: sum(len(node.jobs) for node in world.nodes) == 2)
        refused = max((j for n in world.nodes for j in n.jobs), key=lambda j: j.offer.issued_ms)
        with trio.fail_after(2):
            await refused.cancelled.wait()
        await world.ledger.settled(1)
    assert world.ledger.spent == PRICE


async def test_ledger_down(world: GatewayWorld) -> None:
    async with world.run() as client:
        world.ledger.down = True
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "ledger_unavailable"
        assert "retry-after" in response.headers


async def test_settlement_outlives_a_short_outage(world: GatewayWorld) -> None:
    gate = trio.Event()
    script_next(world, Script(hold_back=gate))
    async with world.run() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.post(CHAT, json=chat()))
            await eventually(lambda: len(world.ledger.holds) == 1)
            world.ledger.down = True
            gate.set()
        await trio.sleep(0.3)
        assert world.ledger.spent == 0
        world.ledger.down = False
        await world.ledger.settled(1)
    assert world.ledger.spent == PRICE


async def test_lost_answer_to_a_capture_charges_once(world: GatewayWorld) -> None:
    options = {name: getattr(world.ledger, name) for name in ("network", "issuer", "gateway_id")}
    world.ledger = DroppingLedger(**options, clock_ms=world.clock_ms)
    async with world.run() as client:
        assert (await client.post(CHAT, json=chat())).status_code == 200
        await world.ledger.settled(1)
        with trio.fail_after(10):
            while (await client.get("/healthz")).json()["settlements_waiting"]:
                await trio.sleep(0.05)
    assert world.ledger.spent == PRICE


async def test_restart_settles_what_was_owed(world: GatewayWorld, tmp_path: Path) -> None:
    async with world.run(stop_grace_s=0.0) as client:
        gate = trio.Event()
        script_next(world, Script(hold_back=gate))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.post(CHAT, json=chat()))
            await eventually(lambda: len(world.ledger.holds) == 1)
            world.ledger.down = True
            gate.set()
    assert world.ledger.spent == 0
    assert len(SettlementJournal(tmp_path / "settlement.journal").owed()) == 1
    again = GatewayWorld(tmp_path)
    again.ledger.holds, again.ledger.available = world.ledger.holds, world.ledger.available
    async with again.run():
        await again.ledger.settled(1)
    assert again.ledger.spent == PRICE
    assert SettlementJournal(tmp_path / "settlement.journal").owed() == {}


async def _stop_here(*arguments: object) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("lease_usable_s", [0, 300])
async def test_stopped_before_its_turn_is_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lease_usable_s: int
) -> None:
    world = GatewayWorld(tmp_path, lease_usable_s=lease_usable_s)
    async with world.run(stop_grace_s=0.0) as client:
        if lease_usable_s:
            await prime(world, client)
        monkeypatch.setattr(Settlement, "wait_turn", _stop_here)
        assert (await client.post(CHAT, json=chat())).status_code == 200
    monkeypatch.undo()
    spent = world.ledger.spent
    assert spent == (2 * PRICE if lease_usable_s else 0)
    again = GatewayWorld(tmp_path, lease_usable_s=lease_usable_s)
    for name in ("leases", "holds", "ended", "captured", "available"):
        setattr(again.ledger, name, getattr(world.ledger, name))
    async with again.run():
        await eventually(lambda: again.ledger.spent == spent + PRICE)
    check_whole(again)


class SilentLedger(FakeLedger):
    """Captures, and never says so."""

    async def capture(self, signed: Signed) -> TransferResult:
        await FakeLedger.capture(self, signed)
        await trio.sleep_forever()
        raise AssertionError("not reached")


async def test_a_capture_under_way_is_not_journalled_under_another_id(
    world: GatewayWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {name: getattr(world.ledger, name) for name in ("network", "issuer", "gateway_id")}
    world.ledger = SilentLedger(**options, clock_ms=world.clock_ms)
    monkeypatch.setattr(job_run, "DELIVERY_INTERVAL_S", 0.0)
    ticks = 0
    tick = JobRun.tick

    def counted(self: JobRun, now_s: float) -> None:
        nonlocal ticks
        ticks += 1
        tick(self, now_s)

    monkeypatch.setattr(JobRun, "tick", counted)
    async with world.run(stop_grace_s=0.0) as client:
        response = await client.post(CHAT, json=chat(stream=True))
        assert streamed_text(response.text) == ANSWER
        await eventually(lambda: len(world.ledger.captured) == 1)
        before = ticks
        await eventually(lambda: ticks >= before + 3)
    journal = SettlementJournal(tmp_path / "settlement.journal")
    ((_, owed),) = journal.owed().items()
    journal.close()
    assert owed is not None
    assert decode_message(owed.body, CaptureRequest).capture_id in world.ledger.captured


# --- keys ---------------------------------------------------------------------------------------
async def test_wrong_keys(world: GatewayWorld) -> None:
    async with world.run() as client:
        for header in ("", "Bearer", "Bearer nonsense", f"Basic {world.key.text}"):
            response = await client.post(CHAT, json=chat(), headers={"authorization": header})
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
        other = api_key("somebody else").text
        for _ in range(5):
            response = await client.get("/v1/models", headers={"authorization": f"Bearer {other}"})
            assert response.status_code == 401
            assert other not in response.text
        assert world.ledger.lookups == 1  # the refusal is remembered
        # The right ID with another secret is not let in by the cache.
        assert (await client.get("/v1/models")).status_code == 200
        mixed = world.key.text[:-6] + "AAAAAA"
        response = await client.get("/v1/models", headers={"authorization": f"Bearer {mixed}"})
        assert response.status_code == 401


async def test_revoked_key(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, cache_s=0.1)
    async with world.run() as client:
        assert (await client.post(CHAT, json=chat())).status_code == 200
        world.ledger.keys.clear()
        await trio.sleep(0.2)
        assert (await client.post(CHAT, json=chat())).status_code == 401


async def test_key_that_allows_other_models_only(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, models=("another",))
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 403
        assert (await client.get("/v1/models")).json()["data"] == []


# --- stopping -----------------------------------------------------------------------------------
async def test_stop_lets_a_stream_finish(world: GatewayWorld) -> None:
    script_next(world, Script(batch=2, pause_s=0.05))
    async with world.run(stop_grace_s=10.0) as client:
        texts = []

        async def ask() -> None:
            texts.append((await client.post(CHAT, json=chat(stream=True))).text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: any(node.jobs for node in world.nodes))
            world.stop.set()
    assert streamed_text(texts[0]) == ANSWER
    assert world.ledger.spent == PRICE
    assert world.ledger.open_holds == 0


async def test_frozen_node_is_noticed_and_avoided(world: GatewayWorld) -> None:
    never = trio.Event()
    async with world.run() as client:
        frozen = world.nodes[0]
        world.hub.freeze(frozen.key_pair.peer_id)
        with trio.fail_after(15):
            while (await client.get("/healthz")).json()["nodes"] != 1:
                await trio.sleep(0.2)
        for _ in range(3):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        world.hub.thaw(frozen.key_pair.peer_id)
        await world.ledger.settled(3)
    assert not never.is_set()
    assert not frozen.jobs
