"""Usage through the service: who may ask for what, and what they get."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
import trio

from ledger.client import LedgerClient
from ledger.ledger import Ledger
from ledger.usage import day_of
from p2p.api_keys import new_api_key
from p2p.errors import RefusedError, StaleError
from p2p.types import Role
from tests.fakes.ledger_desk import ACCOUNT, KEY, TERMS, Desk, caller, open_hold_id
from tests.fakes.ledger_world import (
    GATEWAY,
    MINT,
    NETWORK,
    NODE_ACCOUNTS,
    NODES,
    OTHER_GATEWAY,
    START_MS,
)

DAY = day_of(START_MS)
OTHER_KEY = new_api_key(bytes(range(100, 142)))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    started: list[Desk] = []
    ledger = Ledger(
        f"sqlite:///{tmp_path / 'ledger.db'}",
        NETWORK,
        clock_ms=lambda: started[0].clock_ms() if started else START_MS,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        found = Desk(ledger)
        started.append(found)
        await found.set_up()
        owner = found.client(ACCOUNT)
        await owner.create_key(found.account_id, "dev", OTHER_KEY, name="another")
        await owner.open_namespace(found.account_id, "empty")
        yield found
        nursery.cancel_scope.cancel()


async def spend(desk: Desk) -> None:
    """One request by KEY that is charged, one by OTHER_KEY that its client left."""
    result = await desk.hold(1_000)
    leg = desk.leg(result, input_tokens=100, output_tokens=50)
    await desk.gateway.capture(
        capture_id=desk.world.new_id(), hold_id=open_hold_id(result), legs=[leg]
    )
    hold_id = desk.world.new_id()
    await desk.gateway.hold(
        OTHER_KEY.key_id,
        OTHER_KEY.hold_key(),
        hold_id=hold_id,
        job_id=desk.world.new_id(),
        maximum=10,
        terms=TERMS,
        expires_ms=desk.world.now_ms + 60_000,
    )
    await desk.gateway.release(
        release_id=desk.world.new_id(), hold_id=hold_id, outcome="client_left"
    )


async def refused(code: str, wait: Awaitable[object]) -> None:
    with pytest.raises(RefusedError) as caught:
        await wait
    assert caught.value.code == code, caught.value


async def test_the_owner_sees_every_key_and_a_key_itself(desk: Desk) -> None:
    await spend(desk)
    report = await desk.client(ACCOUNT).usage(desk.account_id, "dev", DAY, DAY)
    by_key = {row.key_id: row for row in report.rows}
    assert set(by_key) == {KEY.key_id, OTHER_KEY.key_id}
    mine = by_key[KEY.key_id]
    assert (mine.requests, mine.captured, mine.input_tokens, mine.output_tokens) == (1, 1, 100, 50)
    assert (mine.charged, mine.model, mine.day) == (450, "tiny-chat", DAY)
    other = by_key[OTHER_KEY.key_id]
    assert (other.requests, other.client_left, other.failed, other.charged) == (1, 1, 0, 0)
    own = await desk.gateway.usage(
        desk.account_id, "dev", DAY, DAY, key_id=KEY.key_id, hold_key=KEY.hold_key()
    )
    assert own.rows == (mine,)
    for namespace, first, last in (("dev", DAY + 1, DAY + 9), ("empty", DAY, DAY)):
        empty = await desk.client(ACCOUNT).usage(desk.account_id, namespace, first, last)
        assert (empty.rows, empty.more) == ((), False)


async def test_nobody_else_sees_it(desk: Desk) -> None:
    await spend(desk)

    def ask(client: LedgerClient, namespace: str = "dev", **key: object) -> Awaitable[object]:
        return client.usage(desk.account_id, namespace, DAY, DAY, **key)  # type: ignore[arg-type]

    proof = {"key_id": KEY.key_id, "hold_key": KEY.hold_key()}
    await refused("not_authorized", ask(desk.client(MINT)))
    await refused("not_authorized", ask(desk.gateway))
    await refused("key_proof", ask(desk.gateway, **{**proof, "hold_key": bytes(32)}))
    await refused("not_authorized", ask(desk.gateway, "empty", **proof))
    courier = desk.client(OTHER_GATEWAY, caller(GATEWAY))
    await refused("not_entitled", ask(courier, **proof))
    node = desk.client(ACCOUNT, caller(NODES[0], Role.NODE, NODE_ACCOUNTS[0]))
    await refused("not_entitled", ask(node))
    await desk.client(ACCOUNT).revoke_key(desk.account_id, KEY.key_id)
    await refused("key_revoked", ask(desk.gateway, **proof))


async def test_an_old_question_is_not_answered(desk: Desk) -> None:
    late = LedgerClient(
        desk.call_as(caller(GATEWAY)), ACCOUNT, NETWORK, lambda: desk.world.now_ms - 120_000
    )
    with pytest.raises(StaleError):
        await late.usage(desk.account_id, "dev", DAY, DAY)
