"""The command `usage`: days, pages as the owner, what an answer must look like."""

from __future__ import annotations

import csv
import datetime
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ledger.usage_export import as_record
from p2p.account_file import create_account
from p2p.signing import Signed, open_signed
from p2p.usage_messages import UsageReport, UsageRequest, UsageRow
from resultity.__main__ import main
from resultity.errors import GatewayCallError, SettingsError
from resultity.targets import Target
from resultity.usage import Days, parse_days, records_of_key, usage_as_owner
from tests.fakes.ledger_world import NETWORK, START_MS

TODAY = datetime.date(2026, 11, 21)
ROW = UsageRow(20_000, "a" * 16, "tiny-chat", 3, 2, 0, 1, 100, 50, 1_000_450, 2_500)
ROWS = [replace(ROW, day=20_000 + number) for number in range(5)]
KEYS, _ = create_account(NETWORK, lambda: START_MS, bytes(16))


class FakeCarrier:
    """Answers from ROWS, two at a time."""

    def __init__(self, rows: list[UsageRow] = ROWS) -> None:
        self.rows = rows
        self.asked: list[UsageRequest] = []

    def send(self, what: str, document: Signed, answer: Any) -> Any:
        assert (what, answer) == ("usage", UsageReport)
        request = open_signed(document, UsageRequest, NETWORK, KEYS.signing.public_key)
        self.asked.append(request)
        rest = [row for row in self.rows if row.day > request.after_day]
        return UsageReport(tuple(rest[:2]), len(rest) > 2)


def ask(carrier: FakeCarrier, first: int = 20_000, last: int = 20_009) -> list[UsageRow]:
    days = Days(first, last)
    return usage_as_owner(carrier, KEYS, NETWORK, "dev", days, lambda: START_MS)


def test_days() -> None:
    assert parse_days("1970-01-01", "1970-01-03", TODAY) == Days(0, 2)
    found = parse_days(None, None, TODAY)
    assert found.last - found.first == 29
    for first, last in (("x", None), (None, "2026-02-30"), ("2026-02-02", "2026-02-01")):
        with pytest.raises(SettingsError):
            parse_days(first, last, TODAY)


def test_pages_are_put_together() -> None:
    carrier = FakeCarrier()
    assert ask(carrier) == ROWS
    assert [request.after_day for request in carrier.asked] == [0, 20_001, 20_003]
    assert len({request.nonce for request in carrier.asked}) == 3


def test_an_answer_that_was_not_asked_for() -> None:
    with pytest.raises(GatewayCallError, match="nobody asked for"):
        ask(FakeCarrier(), last=20_000)


def test_too_much() -> None:
    many = [replace(ROW, day=20_000 + number) for number in range(100)]
    with pytest.raises(GatewayCallError, match="fewer days"):
        ask(FakeCarrier(many), last=21_000)


def test_what_a_gateway_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("http://127.0.0.1:1/v1", "key")
    asked = []

    def answer(content: Any) -> None:
        def get(url: str, *, api_key: str) -> Any:
            asked.append((url, api_key))
            return content

        monkeypatch.setattr("resultity.usage.get_json", get)

    answer({"data": [as_record("dev", ROW)]})
    assert records_of_key(target, Days(20_000, 20_001)) == [as_record("dev", ROW)]
    assert asked == [("http://127.0.0.1:1/v1/account/usage?from=2024-10-04&to=2024-10-05", "key")]
    for bad in ({}, [], {"data": [1]}, {"data": None}):
        answer(bad)
        with pytest.raises(GatewayCallError, match="no usage"):
            records_of_key(target, Days(0, 1))


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"data": [{**as_record("dev", row), "of a later release": 1} for row in ROWS]}
    monkeypatch.setattr("resultity.usage.get_json", lambda url, *, api_key: content)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "key")


@pytest.mark.usefixtures("answered")
def test_export_and_show(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["usage", "export"])
    assert done.exit_code == 0, done.output
    lines = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert [line["credits"] for line in lines] == ["1.000450"] * 5
    assert "of a later release" not in lines[0]
    done = CliRunner().invoke(main, ["usage", "export", "--format", "json"])
    assert len(json.loads(done.stdout)) == 5
    path = tmp_path / "usage.csv"
    done = CliRunner().invoke(main, ["usage", "export", "--output", str(path)])
    assert (done.exit_code, path.stat().st_mode & 0o777) == (0, 0o600)
    assert path.read_bytes().count(b"\r\n") == 6
    done = CliRunner().invoke(main, ["usage", "export", "--output", str(path)])
    assert done.exit_code == 1
    assert "exists already" in done.output
    done = CliRunner().invoke(main, ["usage", "show"])
    assert done.stdout.splitlines()[1].split() == [
        "2024-10-04",
        "tiny-chat",
        "3",
        "1",
        "100",
        "50",
        "1.000450",
    ]
