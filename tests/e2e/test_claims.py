"""A gateway that is killed in the middle of an answer and never comes back: the node is paid."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fakes.real_network import MODEL, RealNetwork, StreamSeen, eventually, read_stream

TOKENS = 200
SHORT_HOLDS = Path(__file__).parents[1] / "fakes" / "short_holds"


@pytest.fixture
def short_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealNetwork]:
    """One node with a long answer, in a network whose holds end soon."""
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(SHORT_HOLDS), inherited))))
    network = RealNetwork(tmp_path, nodes=1, tokens=TOKENS, delay_ms=50)
    try:
        network.up()
        yield network
    finally:
        network.down()


def long_answer(client: openai.OpenAI) -> openai.Stream[Any]:
    """An answer that takes longer than its job may: nobody settles it in the meantime."""
    return client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Count."}],
        max_tokens=TOKENS,
        stream=True,
    )


def rows(network: RealNetwork, statement: str) -> list[tuple[object, ...]]:
    path = network.data_dir / "bootstrap" / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(statement).fetchall()


def test_the_nodes_claim_is_paid_at_the_holds_end(short_network: RealNetwork) -> None:
    network, seen = short_network, StreamSeen()
    journal = next(network.data_dir.glob("node*/owed.journal"))
    with network.client() as client, long_answer(client) as stream:
        read_stream(stream, seen, until_characters=20)
        eventually(lambda: b"O " in journal.read_bytes(), "the node noted what was delivered")
        network.part("gateway").kill()
    (job,) = rows(network, "SELECT maximum FROM ledger_holds WHERE state = 'open'")

    def claimed() -> list[tuple[object, ...]]:
        return rows(network, "SELECT charged FROM ledger_holds WHERE state = 'claimed'")

    ((charged,),) = eventually(claimed, "the claim is paid", timeout_s=40)
    earned = rows(
        network, "SELECT account, amount FROM ledger_entries WHERE account LIKE 'earnings:%'"
    )
    assert len(earned) == 1
    assert 0 < int(str(earned[0][1])) <= int(str(charged)) <= int(str(job[0]))
    assert rows(network, "SELECT state FROM ledger_claims") == [("paid",)]
    assert network.ledger_sum() == 0
    log_text = network.logs()
    assert "did not settle; claimed" in log_text
    audit = network.run("ledger", "audit", "--json", "--data-dir", str(network.data_dir))
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert json.loads(audit.stdout)["checked"]["claims"] == 1
