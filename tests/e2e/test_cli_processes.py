"""Single processes of the command line: what is imported, what is refused, how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.clock import system_clock_ms
from resultity.local.folders import LocalFolders
from resultity.local.founding import found_local_network
from resultity.model_approval import demo_model_path
from tests.fakes.local_network import HANG_S, REPOSITORY, eventually, resultity_command

HEAVY = ("trio", "pydantic", "rich", "openai", "fastapi", "libp2p", "sqlalchemy", "llama_cpp")
WRONG_NETWORK = "other-" + "0" * 32


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_help_imports_nothing_heavy() -> None:
    found = modules_after("import resultity.__main__")
    assert not found & {*HEAVY, "p2p", "node", "gateway", "bootstrap", "ledger"}


def test_a_role_imports_only_itself() -> None:
    found = modules_after("import resultity.commands.roles, node.app")
    assert "node" in found
    assert not found & {"gateway", "bootstrap", "ledger", "fastapi", "openai", "sqlalchemy"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> LocalFolders:
    made = LocalFolders(tmp_path_factory.mktemp("cli_processes") / "data")
    found_local_network(made, demo_model_path(), system_clock_ms)
    return made


def bootstrap_words(folders: LocalFolders, ready: Path) -> list[str]:
    network, files = folders.network.network(), folders.network
    return [
        "bootstrap", "run", "--network", network, "--data-dir", str(folders.role("bootstrap")),
        "--certificate", str(folders.role("bootstrap") / "certificate.chain"),
        "--configuration", str(files.configuration_path), "--ready-file", str(ready),
    ]  # fmt: skip


def said(started: Started) -> str:
    """What a role logged after its first line, which shows its settings."""
    return started.errors().partition("\n")[2]


class Started:
    """A role that runs as a child of the test, with its stderr in a file."""

    def __init__(self, words: list[str], errors: Path) -> None:
        self._errors = errors
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                resultity_command(*words), cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=file
            )

    def errors(self) -> str:
        return self._errors.read_text()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANG_S)


@pytest.fixture(scope="module")
def bootstrap(
    folders: LocalFolders, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Started]]:
    folder = tmp_path_factory.mktemp("bootstrap")
    ready = folder / "ready.json"
    started = Started(bootstrap_words(folders, ready), folder / "errors")
    eventually(ready.exists, f"the bootstrap serves: {started.errors()}")
    address = json.loads(ready.read_text())["addresses"][0]
    assert f"at {address}" in said(started), "its log names the address that others need"
    try:
        yield address, started
    finally:
        assert started.end() == 0, started.errors()


def node_words(folders: LocalFolders, tmp_path: Path, address: str, *more: str) -> list[str]:
    return [
        "node", "run", "--network", folders.network.network(), "--data-dir", str(tmp_path / "node"),
        "--bootstrap", address, "--model", str(demo_model_path()), *more,
    ]  # fmt: skip


def refused(words: list[str]) -> str:
    """Run a command that must fail with one line."""
    done = subprocess.run(
        resultity_command(*words, "--quiet"),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_data_folder_is_used_once(
    folders: LocalFolders, bootstrap: tuple[str, Started], tmp_path: Path
) -> None:
    said = refused(bootstrap_words(folders, tmp_path / "ready"))
    assert "is in use by process" in said
    assert "--data-dir" in said


def test_a_wrong_network_is_refused(
    folders: LocalFolders, bootstrap: tuple[str, Started], tmp_path: Path
) -> None:
    words = node_words(folders, tmp_path, bootstrap[0])
    words[words.index("--network") + 1] = WRONG_NETWORK
    assert "network" in refused(words)


def test_a_missing_model(
    folders: LocalFolders, bootstrap: tuple[str, Started], tmp_path: Path
) -> None:
    words = node_words(folders, tmp_path, bootstrap[0])
    words[words.index("--model") + 1] = str(tmp_path / "none.gguf")
    assert "none.gguf" in refused(words)


def test_a_damaged_model(
    folders: LocalFolders, bootstrap: tuple[str, Started], tmp_path: Path
) -> None:
    model = tmp_path / "half.gguf"
    model.write_bytes(demo_model_path().read_bytes()[:500_000])
    words = node_words(folders, tmp_path, bootstrap[0])
    words[words.index("--model") + 1] = str(model)
    refused(words)


def test_a_model_that_is_not_approved(
    folders: LocalFolders, bootstrap: tuple[str, Started], tmp_path: Path
) -> None:
    model = tmp_path / "other.gguf"
    data = bytearray(demo_model_path().read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    words = node_words(folders, tmp_path, bootstrap[0])
    words[words.index("--model") + 1] = str(model)
    started = Started(words, tmp_path / "errors")
    try:
        eventually(lambda: "approved" in started.errors(), "it says that it is not approved")
    finally:
        started.process.terminate()
        started.process.wait(HANG_S)


def test_readable_keys_are_refused(
    folders: LocalFolders, bootstrap: tuple[str, Started], tmp_path: Path
) -> None:
    (tmp_path / "node").mkdir()
    key = tmp_path / "node" / "identity.key"
    key.write_text("00" * 32)
    key.chmod(0o644)
    assert "chmod 600" in refused(node_words(folders, tmp_path, bootstrap[0]))


def test_an_unreachable_bootstrap_is_tried_again(folders: LocalFolders, tmp_path: Path) -> None:
    nobody = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWJwjTNpLCKMuGyFWbP4F4vjGnZqvDyGPb1rTs5pXUSt2Y"
    started = Started(node_words(folders, tmp_path, nobody), tmp_path / "errors")
    try:
        eventually(
            lambda: "bootstrap" in said(started) or started.process.poll() is not None,
            "it says that it cannot reach the bootstrap",
        )
        assert started.process.poll() is None, started.errors()
    finally:
        assert started.end() == 0, started.errors()
