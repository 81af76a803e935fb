"""How leases go back: notices of bootstraps, wanted credit, a ledger away, a gateway that died."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.errors import CreditLeasedError
from gateway.limits import NOTICES_REMEMBERED_MAX
from gateway.peer import lease_returns
from gateway.peer.journal import SettlementJournal
from gateway.peer.ledger_port import ReturnedLease
from gateway.peer.notices import Notices
from p2p.api_keys import ApiKey
from p2p.errors import RefusedError
from p2p.lease_messages import LeaseResult, LedgerNotice, key_mark
from p2p.ledger_messages import TransferResult
from p2p.ledger_notices import NOTICE_AGE_MS_MAX, encode_notice
from tests.fakes import trust
from tests.fakes.gateway_world import GatewayWorld, chat, script_next
from tests.fakes.leased_gateway import CHAT, PRICE, check_whole, jobs, prime
from tests.fakes.ledger import FakeLease, FakeLedger
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


async def test_a_replayed_notice_is_ignored(world: GatewayWorld) -> None:
    heard: list[object] = []

    class Listener:
        forget_marked = key_changed = wanted = heard.append

    now_ms = [world.clock_ms()]
    listener: Any = Listener()
    notices = Notices(
        trust.NETWORK, listener, listener, is_banned=lambda _: False, clock_ms=lambda: now_ms[0]
    )
    chain = trust.bootstrap_chain(issued_ms=world.issued_ms)

    def notice(mark: bytes) -> bytes:
        document = LedgerNotice(now_ms[0], wanted_keys=(mark,))
        return encode_notice(document, trust.BOOTSTRAP, trust.NETWORK, chain)

    first = notice(bytes(16))
    for _ in range(3):
        notices.take(first)
    assert len(heard) == 1
    now_ms[0] += NOTICE_AGE_MS_MAX
    notices.take(first)  # still young enough to be believed
    assert len(heard) == 1
    for number in range(NOTICES_REMEMBERED_MAX // 256):
        notices.take(notice(bytes([number]) * 16))
    assert len(heard) == 1 + NOTICES_REMEMBERED_MAX // 256
    assert len(notices._seen) <= NOTICES_REMEMBERED_MAX
    now_ms[0] += NOTICE_AGE_MS_MAX + 1
    notices.take(notice(bytes(16)))
    assert len(notices._seen) == 1


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


class LateLedger(FakeLedger):
    """A lease's answer is lost, and the ledger hears of the lease after its return."""

    late: dict[bytes, FakeLease]

    async def lease(self, key: ApiKey, *, lease_id: bytes, **fields: Any) -> LeaseResult:
        before = set(self.leases)
        self.lose_leases = True
        try:
            return await FakeLedger.lease(self, key, lease_id=lease_id, **fields)
        finally:
            self.late = {k: self.leases.pop(k) for k in set(self.leases) - before}


async def test_a_lease_granted_after_its_return(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_returns, "LEASE_UNKNOWN_PAUSE_S_MAX", 0.2)
    options = {name: getattr(world.ledger, name) for name in ("network", "issuer", "gateway_id")}
    world.ledger = ledger = LateLedger(**options, clock_ms=world.clock_ms)
    refused = []
    give_back = FakeLedger.lease_return

    async def lease_return(self: FakeLedger, document: ReturnedLease) -> TransferResult:
        refused.append(document.lease_id)
        return await give_back(self, document)

    monkeypatch.setattr(FakeLedger, "lease_return", lease_return)
    monkeypatch.setattr(lease_returns._Sending, "__init__", _impatient)
    async with world.run() as client:
        for _ in range(2):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        await eventually(lambda: len(refused) >= 2)
        assert len(set(refused)) == 1
        ledger.leases |= ledger.late
        await eventually(lambda: ledger.leased == 0)
        await world.leases_at_gateway(client, 0)
    check_whole(world)


_sending = lease_returns._Sending.__init__


def _impatient(self: Any, lease: Any) -> None:
    _sending(self, lease, pause_s=0.1)


@pytest.mark.parametrize("code", ["ledger_integrity", "mirror_reads_only"])
async def test_a_ledger_that_writes_nothing_for_a_while(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    halted, tries = [True], []
    answer = FakeLedger._answer

    async def refuse(self: FakeLedger) -> None:
        tries.append(code)
        if halted:
            raise RefusedError(code, "nothing is written until it is repaired")
        await answer(self)

    async with world.run() as client:
        await prime(world, client)
        monkeypatch.setattr(FakeLedger, "_answer", refuse)
        assert (await client.post(CHAT, json=chat())).status_code == 200
        await world.notify(
            LedgerNotice(world.clock_ms(), wanted_keys=(key_mark(world.key.key_id),))
        )
        await eventually(lambda: len(tries) >= 4)
        halted.clear()
        await eventually(lambda: world.ledger.leased == 0)
    assert world.ledger.spent == 3 * PRICE
    check_whole(world)


def test_the_body_is_shaped_like_openai() -> None:
    body = json.loads(json.dumps(CreditLeasedError("wait", retry_after_s=1.0).body()))
    assert set(body["error"]) == {"message", "type", "param", "code"}
