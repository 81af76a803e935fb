"""A real network's log at the command line: a bill and a node's pay are proved, damage is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from p2p.signing import KeyPair
from tests.fakes.local_network import (
    CAPITAL,
    HANG_S,
    MODEL,
    LocalFacts,
    local_network,
    run_resultity,
)

pytestmark = pytest.mark.e2e


def receipt_of(network: LocalFacts, path: Path) -> None:
    answer = network.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": CAPITAL}], max_tokens=20
    )
    assert answer.model_extra is not None
    path.write_text(answer.model_extra["resultity"]["receipt"])


def prove(network: LocalFacts, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Settlement and logging come after the answer: ask until it is there."""
    deadline = time.monotonic() + HANG_S
    while True:
        done = network.run("ledger", "prove", *words, "--out", str(out))
        early = "not in the log yet" in done.stderr or "among what is proved" in done.stderr
        if not early or time.monotonic() > deadline:
            return done
        time.sleep(0.2)


def test_a_bill_from_the_answer_to_the_log(tmp_path: Path) -> None:
    receipt, proof, pay = (tmp_path / name for name in ("receipt", "proof", "pay"))
    with local_network(tmp_path / "net") as network:
        receipt_of(network, receipt)
        done = prove(network, proof, "--receipt", str(receipt))
        assert done.returncode == 0, done.stderr
        leaves = verified(network, proof, "--receipt", str(receipt))
        assert [leaf["leaf"] for leaf in leaves] == ["hold", "charge"]
        hold_id = str(leaves[0]["hold_id"])
        paid = []
        for name in ("node-1", "node-2"):
            key = str(Path(network.data_dir, name, "identity.key"))
            done = prove(network, pay, hold_id, "--node-key", key)
            assert done.returncode == 0 or "no logged transfer" in done.stderr, done.stderr
            if not done.returncode:
                paid += verified(network, pay)
        assert [leaf["leaf"] for leaf in paid] == ["pay"]
        assert (
            0
            < int(str(paid[0]["amount_microcredits"]))
            <= int(str(leaves[1]["amount_microcredits"]))
        )
        stranger = tmp_path / "stranger.key"
        stranger.write_text(KeyPair.generate().seed.hex())
        stranger.chmod(0o600)
        done = prove(network, pay, hold_id, "--node-key", str(stranger))
        assert done.returncode == 1
        assert "no logged transfer" in done.stderr
        audit = run_resultity(
            "ledger",
            "audit",
            "--json",
            "--data-dir",
            network.data_dir,
            "--network",
            network.network,
        )
        assert audit.returncode == 0, audit.stdout + audit.stderr
        assert json.loads(audit.stdout)["ok"]
    another = run_resultity("ledger", "verify", str(proof), "--network", "local-" + "0" * 32)
    assert another.returncode == 1
    assert "does not verify" in another.stderr
    _damage_is_found(tmp_path, network)


def verified(network: LocalFacts, proof: Path, *words: str) -> list[dict[str, object]]:
    """Verify a proof with the network's ID alone."""
    done = run_resultity(
        "ledger", "verify", str(proof), "--network", network.network, "--json", *words
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["leaves"]  # type: ignore[no-any-return]


def _damage_is_found(tmp_path: Path, network: LocalFacts) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(Path(network.data_dir, "bootstrap"), folder)
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        connection.execute("DROP TRIGGER ledger_transfers_no_update")
        connection.execute("UPDATE ledger_transfers SET at_ms = at_ms + 1 WHERE number = 1")
    connection.close()
    audit = run_resultity(
        "ledger", "audit", "--data-dir", str(folder), "--network", network.network
    )
    assert audit.returncode == 1
    assert "wrong: " in audit.stdout
    empty = tmp_path / "empty"
    empty.mkdir()
    audit = run_resultity("ledger", "audit", "--data-dir", str(empty), "--network", network.network)
    assert audit.returncode == 1
    assert list(empty.iterdir()) == []
