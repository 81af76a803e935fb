"""What clients are told when the ledger lets this gateway have no more credit."""

from __future__ import annotations

from pathlib import Path

from ledger.errors import GatewayExposureError
from p2p.errors import RefusedError
from tests.fakes.gateway_world import GatewayWorld, chat
from tests.fakes.leased_gateway import check_whole, prime
from tests.fakes.ledger import api_key
from tests.fakes.networks import eventually

CHAT = "/v1/chat/completions"
REFUSAL = GatewayExposureError(600, 350, 60, 1_000, 1_800_057_600_000, 4.2)


async def test_clients_may_come_again_later_or_elsewhere(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path)
    async with world.run() as client:
        world.ledger.refuse_hold = RefusedError(REFUSAL.code, str(REFUSAL), REFUSAL.retry_after_s)
        world.ledger.refuse_holds = 1
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        error = response.json()["error"]
        assert error["code"] == "gateway_exposure"
        assert "resets at 2027-01-16T00:00:00Z" in error["message"]
        for volume in ("1000", "600", "350"):  # the gateway's business is not its clients'
            assert volume not in error["message"]
        # Nothing is wrong with the key, and nothing was held that would have to be released.
        assert (await client.post(CHAT, json=chat())).status_code == 200
        await world.ledger.settled(1)


async def test_idle_leases_of_all_keys_make_room(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, lease_usable_s=300)
    other = api_key("another")
    world.ledger.keys.add(other)
    async with world.run() as client, world.client(other.text) as other_client:
        await prime(world, client)
        world.ledger.refuse_hold = RefusedError(REFUSAL.code, str(REFUSAL), REFUSAL.retry_after_s)
        world.ledger.refuse_holds = 2
        assert (await other_client.post(CHAT, json=chat())).status_code == 200
        await eventually(lambda: world.ledger.leased == 0)
        assert world.ledger.started_holds == 2 + 3
    check_whole(world)


async def test_refused_lease_takes_the_place_of_an_idle_one(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, lease_usable_s=300)
    other = api_key("another")
    world.ledger.keys.add(other)
    async with world.run() as client, world.client(other.text) as other_client:
        await prime(world, client)
        world.ledger.refuse_lease = RefusedError(REFUSAL.code, str(REFUSAL), 4.2)
        for _ in range(2):
            assert (await other_client.post(CHAT, json=chat())).status_code == 200
        await eventually(lambda: world.ledger.leased == 0)
    check_whole(world)
