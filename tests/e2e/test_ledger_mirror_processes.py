"""A primary and a mirror as real processes: a witnessed bill, an export, a fork that is seen."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from p2p.identity import load_or_create_key
from tests.fakes.local_network import (
    CAPITAL,
    HANG_S,
    MODEL,
    REPOSITORY,
    LocalFacts,
    eventually,
    local_network,
    logs_of,
    resultity_command,
    run_resultity,
    start_network,
)

WITNESS = "mirror.test"


def done(*words: str) -> str:
    result = run_resultity(*words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def job(network: LocalFacts, words: str = CAPITAL) -> str:
    """One paid answer; gives its receipt."""
    answer = network.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": words}], max_tokens=8
    )
    assert answer.model_extra is not None
    return str(answer.model_extra["resultity"]["receipt"])


def admit(network: LocalFacts, folder: Path) -> None:
    """Certify the mirror, name it and its witness key, and the primary's log key."""
    root = Path(network.data_dir)
    founder = ("--data-dir", str(root / "network"))
    folder.mkdir()
    for name in ("identity.key", "witness.key"):
        load_or_create_key(folder / name)
    identity = ("--identity", str(folder / "identity.key"))
    account = ("--account-file", str(root / "accounts" / "operator.account"))
    role = ("--role", "bootstrap", "--output", str(folder / "certificate"))
    log_key = ("--log-key", str(root / "bootstrap" / "log.key"))
    done("network", "certify", *founder, *role, *identity, *account, *log_key)
    witness = ("--witness", WITNESS, "--witness-key", str(folder / "witness.key"), "--quorum", "1")
    done("network", "admit-mirror", *founder, *identity, *witness)


@contextlib.contextmanager
def mirror_process(network: LocalFacts, folder: Path) -> Iterator[None]:
    configuration = Path(network.data_dir, "network", "configuration.signed")
    ready = folder / "ready.json"
    words = {
        "--network": network.network,
        "--data-dir": folder,
        "--mirror-of": network.bootstrap,
        "--certificate": folder / "certificate",
        "--configuration": configuration,
        "--ready-file": ready,
    }
    command = resultity_command("bootstrap", "run", "--quiet")
    command += [str(part) for pair in words.items() for part in pair]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: ready.exists() or process.poll() is not None, "the mirror serves")
        assert process.poll() is None, logs_of(folder)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) == 0


def until(what: str, attempt: Callable[[], Any]) -> Any:
    """Try until it gives something."""
    found: list[Any] = []

    def look() -> bool:
        result = attempt()
        found.append(result)
        return bool(result)

    eventually(look, what, 1.0)
    return found[-1]


def witnessed(network: LocalFacts, receipt: Path, proof: Path) -> dict[str, Any] | None:
    """Prove and verify, as a consumer does; None while it is too early."""
    made = network.run("ledger", "prove", "--receipt", str(receipt), "--out", str(proof))
    if made.returncode:
        assert "not in the log yet" in made.stderr or "among what is proved" in made.stderr
        return None
    verified = network.run("ledger", "verify", str(proof), "--receipt", str(receipt), "--json")
    if verified.returncode:
        assert "witnesses cosigned" in verified.stderr, verified.stderr
        return None
    return json.loads(verified.stdout)  # type: ignore[no-any-return]


@pytest.mark.timeout(300)
def test_a_witnessed_bill_and_a_fork(tmp_path: Path) -> None:
    receipt, proof, mirror = tmp_path / "receipt", tmp_path / "proof", tmp_path / "mirror"
    with local_network(tmp_path / "net", nodes=1) as network:
        admit(network, mirror)
        with mirror_process(network, mirror):
            receipt.write_text(job(network))
            facts = until("a witnessed proof", lambda: witnessed(network, receipt, proof))
            assert [witness["name"] for witness in facts["witnesses"]] == [WITNESS]
            assert [leaf["leaf"] for leaf in facts["leaves"]][-1] == "charge"
            _audits(network, mirror, tmp_path / "export", facts["log_size"])

            backup = str(tmp_path / "backup")
            done("ledger", "backup", backup, "--data-dir", f"{network.data_dir}/bootstrap")
            size = facts["log_size"]
            for number in range(3):
                receipt.write_text(job(network, f"{CAPITAL} {number}"))
            until(
                "the mirror has it all",
                lambda: (
                    (found := witnessed(network, receipt, proof)) and found["log_size"] > size + 10
                ),
            )
            again = _put_older(network, backup)
            job(again, "Who are you?")
            shown = until("the alarm", lambda: _forks(again))
            assert shown[0]["proven"]
            told = again.run("explore", "log")
            assert told.returncode == 1
            assert "ALARM: the ledger's log (fork, proven" in told.stdout


def _audits(network: LocalFacts, mirror: Path, export: Path, size: int) -> None:
    """The mirror's folder and an export pass the audit; a changed export does not."""
    where = ("--network", network.network)
    bootstrap = str(Path(network.data_dir, "bootstrap"))
    configuration = str(Path(network.data_dir, "network", "configuration.signed"))
    done("ledger", "export", str(export), "--data-dir", bootstrap, *where)
    words = ("ledger", "audit", "--configuration", configuration, *where, "--json")
    for what in (("--data-dir", str(mirror)), (str(export),)):
        report = json.loads(done(*words, *what))
        assert report["ok"]
        assert report["checked"]["leaves"] >= size
    data = bytearray(export.read_bytes())
    data[len(data) // 2] ^= 1
    export.write_bytes(data)
    changed = run_resultity(*words, str(export))
    assert changed.returncode == 1, changed.stderr


def _put_older(network: LocalFacts, backup: str) -> LocalFacts:
    """Kill the primary, give it back an older ledger, and start it again."""
    bootstrap = next(entry for entry in network.processes if entry["role"] == "bootstrap")
    process = psutil.Process(bootstrap["pid"])
    process.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        process.wait(HANG_S)
    folder = Path(network.data_dir, "bootstrap")
    for path in folder.glob("ledger.sqlite*"):
        path.unlink()
    restored = run_resultity("ledger", "restore", backup, "--data-dir", str(folder))
    assert restored.returncode == 0, restored.stderr
    return start_network(Path(network.data_dir), "--nodes", "1")


def _forks(network: LocalFacts) -> list[dict[str, Any]]:
    root = network.base_url.removesuffix("/v1")
    with urllib.request.urlopen(f"{root}/status/log", timeout=HANG_S) as answer:
        alarms = json.load(answer)["alarms"]
    return [alarm for alarm in alarms if alarm["kind"] == "fork"]
