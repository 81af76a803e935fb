"""`subcloud usage`, `stake`, `unstake`: what they sign, what they show, what they refuse."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2p.account_file import load_or_create_account
from p2p.ledger_messages import TransferResult
from p2p.signing import Signed, open_signed
from p2p.stake_messages import SubcloudStake, SubcloudUnstake
from p2p.subcloud_usage_messages import (
    BY_MEMBER,
    SubcloudUsageReport,
    SubcloudUsageRequest,
    SubcloudUsageRow,
)
from p2p.subclouds.identity import subcloud_id
from p2p.types import AccountId
from resultity.__main__ import main
from resultity.commands import subcloud_stake, subcloud_usage
from resultity.errors import GatewayCallError
from resultity.subclouds.usage import COLUMNS, as_csv, as_json_lines
from resultity.subclouds.usage import subcloud_usage as fetch
from tests.fakes.ledger_world import NETWORK
from tests.fakes.subcloud_ledger import DELEGATE, SUBCLOUD, a_known, a_policy

DAY = 20_000
ROW = SubcloudUsageRow(DAY, "tiny-chat", "", 4, 3, 1, 0, 10, 20, 500, 900, 0, 75, 0, 2)


class Ledger:
    """Answers in pages of two rows, and keeps what was asked."""

    def __init__(self, rows: list[SubcloudUsageRow] | None = None) -> None:
        self.rows = rows if rows is not None else [ROW]
        self.asked: list[SubcloudUsageRequest] = []
        self.documents: list[Signed] = []

    def courier(self, _url: str) -> Ledger:
        return self

    def send(self, what: str, document: Any, answer: Any) -> Any:
        assert (what, answer) == ("subcloud_usage", SubcloudUsageReport)
        request = open_signed(document, SubcloudUsageRequest, NETWORK)
        self.asked.append(request)
        page = tuple(self.rows[request.after : request.after + 2])
        return SubcloudUsageReport(page, request.after + 2 < len(self.rows), 2)

    def operation(self, document: Signed) -> TransferResult:
        self.documents.append(document)
        return TransferResult(bytes(16), 5_000_000, 1_500_000, False)


def rows_of(ledger: Ledger, last: int = DAY + 9) -> list[SubcloudUsageRow]:
    return fetch(ledger, NETWORK, DELEGATE, SUBCLOUD, DAY, last, by=BY_MEMBER, clock_ms=lambda: 7)


def test_pages_are_put_together() -> None:
    many = [replace(ROW, day=DAY + number) for number in range(5)]
    ledger = Ledger(many)
    assert rows_of(ledger) == many
    assert [request.after for request in ledger.asked] == [0, 2, 4]
    assert {(one.subcloud_id, one.by, one.issued_ms) for one in ledger.asked} == {
        (SUBCLOUD, BY_MEMBER, 7)
    }
    assert len({request.nonce for request in ledger.asked}) == 3


def test_an_answer_that_was_not_asked_for() -> None:
    with pytest.raises(GatewayCallError, match="nobody asked for"):
        rows_of(Ledger([replace(ROW, day=DAY + 5)]), last=DAY)


def test_exports_have_the_documented_columns() -> None:
    (record,) = csv.DictReader(io.StringIO(as_csv([ROW])))
    assert tuple(record) == COLUMNS
    assert (record["date"], record["income"], record["consumers"]) == ("2024-10-04", "75", "2")
    lines = as_json_lines([ROW, ROW]).splitlines()
    assert [json.loads(line)["charged"] for line in lines] == [500, 500]
    documented = Path(__file__).parents[3] / "docs" / "reference" / "usage.md"
    section = documented.read_text().split("## Of a subcloud")[1]
    assert all(f"`{name}`" in section for name in COLUMNS)


# --- the commands -------------------------------------------------------------------------------
class Client:
    def get(self, name: str) -> Any:
        return a_known(a_policy())


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    found = Ledger()
    monkeypatch.setattr("resultity.subclouds.delegate_target.Where.client", lambda _: Client())
    for module in (subcloud_usage, subcloud_stake):
        monkeypatch.setattr(module, "Courier", found.courier)
    monkeypatch.setenv("RESULTITY_NETWORK", NETWORK)
    monkeypatch.setenv("RESULTITY_GATEWAY_URL", "http://127.0.0.1:9/v1")
    monkeypatch.chdir(tmp_path)
    Path("delegate.key").write_text(DELEGATE.seed.hex() + "\n")
    Path("delegate.key").chmod(0o600)
    return found


def run(*arguments: str, code: int = 0) -> Result:
    where = ("--network", NETWORK, "--gateway", "http://127.0.0.1:9/v1")
    result = CliRunner().invoke(main, ["subcloud", *arguments, *where])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


ASKING = ("usage", "team", "--delegate-key", "delegate.key", "--from", "2024-10-01")


def test_usage_as_a_table_and_as_files(ledger: Ledger) -> None:
    shown = run(*ASKING).stdout.splitlines()
    assert shown[0].split() == [
        *("date", "model", "jobs", "failed", "input_tokens", "output_tokens", "charged", "income")
    ]
    assert shown[1].split() == ["2024-10-04", "tiny-chat", "4", "0", "10", "20", "500", "75"]
    run(*ASKING, "--export", "usage.csv")
    assert Path("usage.csv").read_bytes().decode() == as_csv([ROW])
    assert Path("usage.csv").stat().st_mode & 0o077 == 0
    run(*ASKING, "--export", "usage.csv", code=1)
    lines = run(*ASKING, "--export", "-", "--format", "jsonl").stdout
    assert json.loads(lines)["income"] == 75
    ledger.rows = [SubcloudUsageRow(DAY, member="node", jobs=1, earned=9, consumers=1)]
    members = run(*ASKING, "--by", "member").stdout.splitlines()
    assert members[1].split() == ["2024-10-04", "node", "1", "9", "1"]
    assert ledger.asked[-1].by == BY_MEMBER
    ledger.rows = []
    assert "nothing happened" in run(*ASKING).stdout


def test_usage_needs_somebody_who_asks(ledger: Ledger) -> None:
    assert "--delegate-key" in run("usage", "team", code=1).stderr
    assert ledger.asked == []


def test_stake_and_unstake_sign_for_the_founders_own_subcloud(ledger: Ledger) -> None:
    keys = load_or_create_account(Path("founder.json"), NETWORK, lambda: 1)
    account = ("--account-file", "founder.json", "--namespace", "dev")
    shown = run("stake", "team", "--credits", "5", *account).stdout
    identity = subcloud_id(NETWORK, AccountId(keys.account_id), "team")
    assert f"5.000000 credits are set aside for {identity}; 1.500000 are left in dev" in shown
    assert "5.000000 credits are back in dev" in run("unstake", identity, *account).stdout
    staked = open_signed(ledger.documents[0], SubcloudStake, NETWORK, keys.signing.public_key)
    back = open_signed(ledger.documents[1], SubcloudUnstake, NETWORK, keys.signing.public_key)
    assert (staked.subcloud_id, staked.amount, staked.namespace) == (identity, 5_000_000, "dev")
    assert (back.subcloud_id, back.namespace) == (identity, "dev")
    run("stake", "team", "--credits", "a lot", *account, code=1)
    assert len(ledger.documents) == 2
