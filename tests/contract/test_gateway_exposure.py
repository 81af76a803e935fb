"""What clients are told when the ledger lets this gateway have no more credit."""

from __future__ import annotations

from pathlib import Path

from ledger.errors import GatewayExposureError
from p2p.errors import RefusedError
from tests.fakes.gateway_world import GatewayWorld, chat

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
        for fact in ("1000 microcredits a day", "600 are held", "350 were charged", "2027-01-16T"):
            assert fact in error["message"]
        # Nothing is wrong with the key, and nothing was held that would have to be released.
        assert (await client.post(CHAT, json=chat())).status_code == 200
        await world.ledger.settled(1)
