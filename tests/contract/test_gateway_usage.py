"""`GET /v1/account/usage`: pages put together, JSON and CSV, what is refused; outcomes of jobs."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import backend
from ledger.usage import day_of
from p2p.clock import system_clock_ms
from p2p.usage_messages import UsageRow
from tests.fakes.gateway_world import GatewayWorld, chat, script_next
from tests.fakes.ledger import api_key
from tests.fakes.nodes import Script

URL = "/v1/account/usage"
FIRST = UsageRow(20_000, api_key().key_id, "tiny-chat", 3, 2, 0, 1, 100, 50, 450, 2_500)
ROWS = tuple(replace(FIRST, day=20_000 + number) for number in range(5))
RANGE = {"from": "2024-10-04", "to": "2024-10-08"}


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    found = GatewayWorld(tmp_path, nodes=1)
    found.ledger.usage_rows = ROWS
    return found


async def test_json_and_csv(world: GatewayWorld) -> None:
    async with world.run() as client:
        answer = await client.get(URL, params=RANGE)
        assert answer.status_code == 200
        content = answer.json()
        assert (content["from"], content["to"]) == ("2024-10-04", "2024-10-08")
        assert [record["date"] for record in content["data"]] == [
            f"2024-10-0{number}" for number in range(4, 9)
        ]
        assert content["data"][0]["credits"] == "0.000450"
        assert content["totals"] == {
            "requests": 15,
            "failed": 5,
            "input_tokens": 500,
            "output_tokens": 250,
            "charged_microcredits": 2_250,
            "credited_microcredits": 0,
        }
        answer = await client.get(URL, params={**RANGE, "format": "csv"})
        assert answer.headers["content-type"].startswith("text/csv")
        assert "usage-" in answer.headers["content-disposition"]
        lines = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert [line["requests"] for line in lines] == ["3"] * 5
        part = await client.get(URL, params={"from": "2024-10-06", "to": "2024-10-06"})
        assert len(part.json()["data"]) == 1


async def test_without_days_it_is_the_last_month(world: GatewayWorld) -> None:
    today = day_of(system_clock_ms())
    world.ledger.usage_rows = (replace(FIRST, day=today - 40), replace(FIRST, day=today - 5))
    async with world.run() as client:
        content = (await client.get(URL)).json()
        assert len(content["data"]) == 1


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-02-30"}, "to"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "from"),
        ({"format": "xml"}, "format"),
    ],
)
async def test_bad_questions(world: GatewayWorld, query: dict[str, str], param: str) -> None:
    async with world.run() as client:
        answer = await client.get(URL, params=query)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param)


async def test_too_many_rows(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "USAGE_ROWS_MAX", 4)
    async with world.run() as client:
        answer = await client.get(URL, params=RANGE)
        assert answer.status_code == 400
        assert "fewer days" in answer.json()["error"]["message"]


async def test_a_key_is_needed(world: GatewayWorld) -> None:
    async with world.run(), world.client(api_key("stranger").text) as stranger:
        assert (await stranger.get(URL)).status_code == 401
        del stranger.headers["authorization"]
        assert (await stranger.get(URL)).status_code == 401


async def test_jobs_say_how_they_ended(world: GatewayWorld) -> None:
    async with world.run() as client:
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        await world.ledger.settled(1)
        assert list(world.ledger.outcomes.values()) == ["complete"]
        script_next(world, Script(refuse="bad_request"))
        answer = await client.post("/v1/chat/completions", json=chat())
        assert answer.status_code == 400
        await world.ledger.settled(2)
        assert list(world.ledger.outcomes.values()) == ["complete", "failed"]
