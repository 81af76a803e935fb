"""Usage and points of a real network: what was paid for is in the export, for key and owner."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.local_network import CAPITAL, MODEL, LocalFacts, eventually, local_network

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
        found = balance(network)
        return found["held_microcredits"] == 0 and found["spent_microcredits"] > 0

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
