"""Usage, points and disputes of a real network, at the command line.

What was paid for is in the export, for key and owner; what is disputed comes back.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner, Result

from resultity.__main__ import main
from tests.fakes.local_network import (
    CAPITAL,
    MODEL,
    LocalFacts,
    eventually,
    local_network,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFacts]:
    with local_network(tmp_path_factory.mktemp("usage_network")) as facts:
        yield facts


def balance(network: LocalFacts) -> dict[str, int]:
    done = network.run("account", "balance", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def exported(network: LocalFacts, *arguments: str) -> list[dict[str, str]]:
    done = network.run("usage", "export", *arguments)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_what_was_paid_for_is_in_the_export(network: LocalFacts) -> None:
    with network.client() as client:
        for _ in range(3):
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": CAPITAL}], temperature=0
            )

    def is_settled() -> bool:
        return sum(int(row["requests"]) for row in exported(network)) == 3

    eventually(is_settled, "three answers are paid")
    rows = exported(network)
    assert [row["model"] for row in rows] == [MODEL] * len(rows)
    assert sum(int(row["requests"]) for row in rows) == 3
    assert sum(int(row["completed"]) for row in rows) == 3
    spent = balance(network)["spent_microcredits"]
    assert sum(int(row["charged_microcredits"]) for row in rows) == spent
    assert all(int(row["duration_ms_mean"]) > 0 for row in rows)
    account_file = Path(network.data_dir) / "accounts" / "demo.account"
    assert exported(network, "--account-file", str(account_file)) == rows
    done = network.run("usage", "show")
    assert MODEL in done.stdout


def test_there_is_no_epoch_on_the_first_day(network: LocalFacts) -> None:
    done = network.run("rcp", "leaderboard")
    assert done.returncode != 0
    assert "no frozen epoch" in done.stderr


def run_here(network: LocalFacts, *words: str) -> Result:
    """Run a command in this process: starting Python a dozen times takes longer than all of it."""
    return CliRunner().invoke(main, [*words, "--data-dir", network.data_dir])


def in_json(network: LocalFacts, *words: str) -> Any:
    done = run_here(network, *words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def spent_by(network: LocalFacts) -> int:
    return int(in_json(network, "account", "balance")["spent_microcredits"])


def test_a_charge_is_disputed_answered_and_given_back(network: LocalFacts, tmp_path: Path) -> None:
    question = [{"role": "user", "content": CAPITAL}]
    before = spent_by(network)
    with network.client() as client:
        answer = client.chat.completions.create(model=MODEL, messages=question, temperature=0)
    assert answer.model_extra is not None
    note = answer.model_extra["resultity"]
    (tmp_path / "receipt").write_text(note["receipt"])
    (tmp_path / "answer").write_text(answer.choices[0].message.content or "")
    opening = ("dispute", "open", str(tmp_path), "--reason", "it is wrong", "--salt", note["salt"])

    def is_open() -> bool:
        done = run_here(network, *opening)
        assert done.exit_code == 0 or "charge_unknown" in done.stderr or "no charge" in done.stderr
        return done.exit_code == 0

    eventually(is_open, "the charge is settled and can be disputed")
    spent = spent_by(network)
    charged = spent - before
    assert charged == note["price_microcredits"] > 0
    (own,) = in_json(network, "dispute", "list")
    hold = own["hold_id"]
    assert (own["state"], own["claimed_microcredits"]) == ("open", charged)
    (seen,) = in_json(network, "dispute", "list", "--operator")
    payer = json.loads(Path(network.data_dir, "accounts", "demo.account").read_text())
    assert payer["account_id"] not in json.dumps(seen)
    assert "claimed_microcredits" not in seen
    earned = in_json(network, "account", "earnings")
    at_stake = earned["earned_disputed_microcredits"] + earned["fees_disputed_microcredits"]
    assert at_stake == sum(share["paid_microcredits"] for share in seen["shares"])
    said = run_here(network, "dispute", "answer", hold, "--text", "the model is that small")
    assert said.exit_code == 0, said.stderr
    key = str(Path(network.data_dir, "network", "dispute.key"))
    shown = in_json(network, "dispute", "show", hold, "--decider-key", key)
    assert [one["text"] for one in shown["answers"]] == ["the model is that small"]
    assert shown["attachments"] == ["answer"]
    wrong = [one["text"] for one in shown["findings"] if not one["holds"]]
    assert wrong == ["the request is attached"]
    done = run_here(
        network, "dispute", "resolve", hold, "--refund", "0.000001", "--note", "half right"
    )
    assert done.exit_code == 0, done.stderr
    again = run_here(
        network, "dispute", "resolve", hold, "--refund", "0", "--note", "changed my mind"
    )
    assert again.exit_code == 1
    assert "final" in again.stderr
    assert spent_by(network) == spent - 1
    rows = csv.DictReader(io.StringIO(run_here(network, "usage", "export").stdout))
    assert sum(int(row["credited_microcredits"]) for row in rows) == 1
    assert in_json(network, "dispute", "show", hold)["note"] == "half right"
    done = run_here(network, "ledger", "audit", "--network", network.network)
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "1 disputes" in done.stdout


def test_limits_of_a_key_in_use_are_changed(network: LocalFacts) -> None:
    key_id = network.api_key.split("_")[1]
    before = in_json(network, "key", "list")
    own = next(record for record in before if record["key_id"] == key_id)
    first = in_json(network, "key", "limit", key_id, "--tokens-per-minute", "5000000")
    assert first["limits"] == {**own["limits"], "tokens_per_minute": 5_000_000}
    second = in_json(network, "key", "limit", key_id, "--model", MODEL, "--credits-per-day", "1000")
    assert second["limits"]["models"] == [MODEL]
    assert second["limits"]["tokens_per_minute"] == 5_000_000
    last = in_json(
        network, "key", "limit", key_id, "--model", "another", "--tokens-per-minute", "0"
    )
    assert last["limits"]["tokens_per_minute"] is None
    with network.client() as client:

        def is_refused() -> bool:
            try:
                client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": CAPITAL}], max_tokens=1
                )
            except openai.PermissionDeniedError:
                return True
            return False

        eventually(is_refused, "the gateway follows")
    assert run_here(network, "key", "limit", "nosuchkey").exit_code == 1
    done = run_here(network, "key", "limit", key_id, "--model", "any", "--credits-per-day", "0")
    assert done.exit_code == 0, done.stderr


def test_a_subcloud_takes_a_stake_and_tells_its_income(network: LocalFacts, tmp_path: Path) -> None:
    accounts, authority = Path(network.data_dir, "accounts"), Path(network.data_dir, "network")
    owner = ("--account-file", str(accounts / "demo.account"))
    policy, changed = tmp_path / "team.yaml", tmp_path / "configuration.json"
    policy.write_text(
        "name: team\nexpires: 30d\ncallers: {anyone: true}\nprice: {owner_fee: 10%}\n"
    )
    runner = CliRunner()
    shown = json.loads(runner.invoke(main, ["network", "show", str(authority)]).stdout)
    shown["subclouds"] = {"creation": "stake", "stake_microcredits": 1_000_000}
    changed.write_text(json.dumps(shown))
    sign = ["network", "sign", str(changed), "--data-dir", str(authority)]
    assert runner.invoke(main, sign).exit_code == 0

    def subcloud(*words: str) -> Result:
        return run_here(network, "subcloud", *words, *owner)

    eventually(
        lambda: subcloud("stake", "team", "--credits", "1").exit_code == 0, "the rule is in force"
    )
    assert "already" in subcloud("stake", "team", "--credits", "1").stderr
    assert in_json(network, "account", "balance", *owner)["staked_microcredits"] == 1_000_000
    done = subcloud("publish", str(policy))
    assert done.exit_code == 0, done.stderr
    for number in (1, 2):
        node = str(Path(network.data_dir, f"node-{number}"))
        joined = runner.invoke(main, ["node", "subclouds", "join", "team", "--data-dir", node])
        assert joined.exit_code == 0, joined.stderr

    def income() -> list[int]:
        text = subcloud("usage", "team", "--export", "-", "--format", "jsonl").stdout
        return [json.loads(line)["income"] for line in text.splitlines()]

    def is_answered() -> bool:
        asked = run_here(network, "ask", CAPITAL, "--model", f"{MODEL}@team")
        return asked.exit_code == 0

    eventually(is_answered, "a member answers")
    eventually(lambda: income() != [], "the owner sees income")
    assert income()[0] >= 1
    assert "has not ended" in subcloud("unstake", "team").stderr
    assert subcloud("revoke", "team", "--yes").exit_code == 0
    assert subcloud("unstake", "team").exit_code == 0
    assert in_json(network, "account", "balance", *owner)["staked_microcredits"] == 0
