"""What a client is told when a limit of its API key is reached, and what the ledger is told."""

from __future__ import annotations

from pathlib import Path

from p2p.errors import RefusedError
from p2p.key_limits import KeyLimits
from tests.fakes.gateway_world import GatewayWorld, chat

CHAT = "/v1/chat/completions"


async def test_requests_a_minute(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, limits=KeyLimits(requests_per_minute=2))
    async with world.run() as client:
        for _ in range(2):
            assert (await client.post(CHAT, json=chat())).status_code == 200
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 429
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
        assert "requests per minute: limit 2, used 2, requested 1" in error["message"]
        assert 1 <= int(response.headers["retry-after"]) <= 30
        await world.ledger.settled(2)
    assert world.ledger.started_holds == 2


async def test_tokens_a_minute_count_what_was_used(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, limits=KeyLimits(tokens_per_minute=700))
    async with world.run() as client:
        # Each may use some 540 tokens and uses 27: one after the other they all pass.
        for count in range(1, 6):
            assert (await client.post(CHAT, json=chat())).status_code == 200
            await world.ledger.settled(count)
        response = await client.post(CHAT, json=chat(max_tokens=1000))
        assert response.status_code == 429
        assert "too large for this API key's limit on tokens" in response.json()["error"]["message"]
        assert "retry-after" not in response.headers


async def test_a_source_network_is_checked_here_and_stated_to_the_ledger(tmp_path: Path) -> None:
    networks = ("192.0.2.0/24", "127.0.0.0/8")
    world = GatewayWorld(tmp_path, limits=KeyLimits(networks=networks))
    async with world.run() as client:
        assert (await client.post(CHAT, json=chat())).status_code == 200
        await world.ledger.settled(1)
    assert world.ledger.source_networks == ["127.0.0.0/8"]


async def test_another_source_network_is_refused(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, limits=KeyLimits(networks=("192.0.2.0/24",)))
    async with world.run() as client:
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 403
        error = response.json()["error"]
        assert error["code"] == "key_not_allowed"
        assert "192.0.2.0/24; this request comes from 127.0.0.1" in error["message"]
    assert world.ledger.started_holds == 0


async def test_the_cap_of_a_day_says_when_it_resets(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path)
    reason = "this key's credit cap of a day is 5 microcredits; it resets at 2027-01-16T00:00:00Z"
    async with world.run() as client:
        world.ledger.refuse_hold = RefusedError("key_day_cap", reason, 7_200.0)
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 429
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
        assert reason in error["message"]
        assert response.headers["retry-after"] == "7200"
