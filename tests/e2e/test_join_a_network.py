"""The how-to "join a network", word by word, with real processes; and the errors that it lists."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.observation.status import NodeStatus, read_status
from p2p.clock import system_clock_ms
from resultity.folder_lock import is_locked, lock_holder
from resultity.model_approval import demo_model_path
from resultity.network_files import NetworkFiles, found_network
from resultity.node_invites import make_node_invite
from tests.fakes.real_network import HANG_S, REPOSITORY, RealNetwork, eventually

pytestmark = pytest.mark.e2e
HOW_TO = REPOSITORY / "docs" / "how-to" / "join-a-network.md"
STAND_IN = REPOSITORY / "tests" / "fakes" / "systemctl_stand_in.py"


class Operator:
    """A computer of somebody else: folders of its own, and a systemctl that only knows how."""

    def __init__(self, root: Path, network: RealNetwork) -> None:
        self.home = root
        self.data = root / "data"
        self.folder = self.data / "node"
        programs = root / "bin"
        programs.mkdir()
        python = sys.executable
        for name, line in (
            ("resultity", f'exec "{python}" -P -m resultity "$@"'),
            ("systemctl", f'exec "{python}" "{STAND_IN}" "$@"'),
        ):
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)
        self.environment = network._environment | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RESULTITY_DATA_DIR": str(self.data),
            "XDG_CONFIG_HOME": str(root / "config"),
        }

    def type(self, line: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run one line of a shell, with a pipe for standard input."""
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.home,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )

    def error(self, line: str, text: str = "") -> str:
        """The one line that a command fails with."""
        done = self.type(line, text)
        assert done.returncode == 1, done.stdout + done.stderr
        (found,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert done.stderr.endswith(f"{found}\n")
        return found

    def status(self) -> NodeStatus:
        return read_status(self.folder / "status.json")


@pytest.fixture
def operator(tmp_path: Path, network: RealNetwork) -> Iterator[Operator]:
    found = Operator(tmp_path, network)
    yield found
    if (pid := lock_holder(found.folder)) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def invite_of(network: RealNetwork) -> str:
    done = network.run("network", "invite-node", RESULTITY_DATA_DIR=str(network.data_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


def made_by(founder: Path, bootstrap: str) -> str:
    files = NetworkFiles(founder)
    issuer, now_ms = files.authority(), system_clock_ms()
    return make_node_invite(issuer, files.network(), (bootstrap,), 1, 3600, now_ms).text()


def commands() -> list[str]:
    lines = HOW_TO.read_text().splitlines()
    return [line[4:] for line in lines if line.startswith("    ")]


def test_join_again_and_serve_in_one_command(network: RealNetwork, operator: Operator) -> None:
    invite = invite_of(network)
    join = "resultity node join --timeout 20"
    first = operator.type(f"{join} --json", invite)
    assert first.returncode == 0, first.stderr
    facts = json.loads(first.stdout)
    assert facts["approved_models"][0]["name"] == "tiny-chat"
    assert not facts["serves"]
    assert invite.strip() not in first.stdout + first.stderr

    other = f"{join} --data-dir other"
    assert "is used up" in operator.error(other, invite)
    nobody = network.bootstrap.replace(network.bootstrap.split("/")[4], "1")
    unreachable = made_by(network.data_dir / "network", nobody)
    assert "no bootstrap let this node in" in operator.error(f"{other} --timeout 2", unreachable)
    found_network(operator.home / "founder", "elsewhere", [], system_clock_ms)
    elsewhere = made_by(operator.home / "founder", network.bootstrap)
    third = f"{join} --data-dir third"
    assert "belongs to another network" in operator.error(third, elsewhere)
    (operator.home / "wrong.gguf").write_bytes(demo_model_path().read_bytes()[:-1] + b"!")
    refused = operator.error(f"{join} --model wrong.gguf", invite)
    assert "the node joined, but this network does not approve wrong.gguf" in refused

    words = [*join.split()[1:], "--model", str(demo_model_path()), "--run"]
    serving = subprocess.Popen(
        [sys.executable, "-m", "resultity", *words],
        cwd=REPOSITORY,
        env=operator.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert serving.stdin is not None
        serving.stdin.write(invite)
        serving.stdin.close()
        eventually((operator.folder / "status.json").exists, "it serves")
        assert operator.status().peer_id == facts["peer_id"]
        assert operator.status().account_id == facts["account_id"]
        again = operator.type(join, invite)
        assert (again.returncode, "and it runs" in again.stderr) == (0, True)
        left = operator.type("resultity node leave --yes")
        assert left.returncode == 0, left.stderr
        assert serving.wait(HANG_S) == 0
    finally:
        serving.kill()


def test_the_how_to_word_by_word(network: RealNetwork, operator: Operator) -> None:
    (operator.home / "invite.txt").write_text(invite_of(network))
    shutil.copy(demo_model_path(), operator.home / "model.gguf")
    shown: dict[str, str] = {}
    for line in commands():
        done = operator.type(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        shown[line] = done.stdout
        if line == "resultity node status":
            serves_from_behind_a_router(network, operator)
    assert list(shown) == [
        "resultity node join --invite-file invite.txt",
        "resultity node models add model.gguf",
        "resultity node service install",
        "resultity node service status",
        "resultity node status",
        "resultity node drain",
        "resultity node leave --yes",
    ]
    join, _, install, service, status, drain, leave = shown.values()
    assert "tiny-chat" in join
    assert "ExecStart=" in install
    assert ": active (running)" in service
    assert "tiny-chat" in status
    assert "1 nodes have ended" in drain
    assert f"the node has left {network.network}" in leave
    assert not is_locked(operator.folder)
    left = {path.name for path in operator.folder.iterdir()}
    assert {"account.json", "identity.key", "owed.journal", "node.toml.left"} <= left
    assert not {"certificate.msgpack", "node.toml"} & left
    assert not list((operator.home / "config" / "systemd" / "user").glob("*.service"))


def serves_from_behind_a_router(network: RealNetwork, operator: Operator) -> None:
    """Gateways use the node, which listens nowhere. (It is paid: it could not leave otherwise.)"""
    toml = (operator.folder / "node.toml").read_text()
    assert "\nlisten = []\n" in toml
    assert (operator.folder / "node.toml").stat().st_mode & 0o777 == 0o600
    peer_id = operator.status().peer_id
    eventually(lambda: peer_id in network.loads(), "a gateway reaches the node")
    for number in range(2):
        network.part("node", number).kill()
    eventually(lambda: set(network.loads()) == {peer_id}, "the others are gone")
    assert network.ask(max_tokens=5)
    eventually(lambda: operator.status().jobs_done and True, "its jobs are done")
