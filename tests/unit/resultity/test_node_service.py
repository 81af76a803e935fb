"""`node service`: what it writes and asks of systemd (a stand-in for systemctl notes the calls)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.settings_file import change_settings_file
from resultity.__main__ import main
from resultity.folder_lock import locked_folder
from resultity.node_service import Service, services_of
from resultity.node_unit import MARK

SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$SYSTEMCTL_CALLS"
case "$*" in
*Version*) [ -z "$SYSTEMCTL_DEAD" ] || { echo "Failed to connect to bus" >&2; exit 1; } ;;
*ActiveState*) printf 'ActiveState=%s\\nSubState=running\\nUnitFileState=enabled\\n' "$ACTIVE"
               printf 'MainPID=42\\nNRestarts=3\\n' ;;
esac
"""
NETWORK = "test-" + "0" * 32


class Machine:
    """A user's folders, a node that joined, and a systemctl that only notes."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls_file = root / "calls"
        self.folder = root / "my node"
        self.folder.mkdir()
        change_settings_file(self.folder, {"network": NETWORK, "drain_s": 90})
        programs = root / "bin"
        programs.mkdir()
        (programs / "systemctl").write_text(SYSTEMCTL)
        (programs / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(root / "config"))
        monkeypatch.setenv("SYSTEMCTL_CALLS", str(self.calls_file))
        monkeypatch.setenv("ACTIVE", "active")
        self.unit = Service(self.folder).path
        assert self.unit.parent == root / "config" / "systemd" / "user"

    def run(self, *words: str) -> Result:
        arguments = ["node", "service", *words, "--data-dir", str(self.folder)]
        return CliRunner().invoke(main, arguments)

    def calls(self) -> list[str]:
        found = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_install_look_and_remove(machine: Machine) -> None:
    name = machine.unit.name
    done = machine.run("install")
    assert done.exit_code == 0, done.output
    text = machine.unit.read_text()
    assert done.stdout == text
    assert f'--data-dir "{machine.folder}"' in text
    assert "TimeoutStopSec=120" in text  # 90 to drain
    assert "enable-linger" in done.stderr
    assert machine.calls() == [
        "--user show --property=Version",
        "--user daemon-reload",
        f"--user enable {name}",
        f"--user start --no-block {name}",
    ]
    assert machine.run("install").exit_code == 0
    assert machine.calls()[-1] == f"--user start --no-block {name}"
    change_settings_file(machine.folder, {"drain_s": 10})
    assert machine.run("install").exit_code == 0
    assert machine.calls()[-1] == f"--user restart --no-block {name}"

    shown = machine.run("status")
    assert shown.exit_code == 0
    for words in (f"{name}: active (running)", "at boot   enabled", "42, restarted 3 times"):
        assert words in shown.stdout
    facts = json.loads(machine.run("status", "--json").stdout)
    assert (facts["unit"], facts["ours"], facts["ActiveState"]) == (name, True, "active")
    machine.calls()

    assert machine.run("remove").exit_code == 0
    assert machine.calls() == [
        f"--user disable {name}",
        f"--user stop --no-block {name}",
        "--user daemon-reload",
    ]
    assert not machine.unit.exists()
    assert "there is no" in machine.run("remove").stdout
    assert machine.calls() == []


def test_status_of_a_unit_that_does_not_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "node service install" in machine.run("status").output
    machine.run("install")
    monkeypatch.setenv("ACTIVE", "failed")
    shown = machine.run("status")
    assert (shown.exit_code, "failed" in shown.stdout) == (1, True)


def test_units_of_others_are_left_alone(machine: Machine) -> None:
    machine.unit.parent.mkdir(parents=True)
    machine.unit.write_text("[Unit]\nDescription=mine\n")
    for words in ("install", "remove"):
        done = machine.run(words)
        assert (done.exit_code, "is not ours" in done.output) == (1, True)
    assert machine.unit.read_text() == "[Unit]\nDescription=mine\n"
    assert services_of(machine.folder) == []
    assert machine.calls() == []


def test_leaving_finds_only_the_units_of_that_folder(machine: Machine, tmp_path: Path) -> None:
    machine.run("install")
    other = tmp_path / "x" / "my node"
    assert services_of(other) == []
    machine.unit.rename(Service(other).path)
    assert services_of(other) == []  # it runs another folder
    Service(other).path.rename(machine.unit)
    assert [service.path for service in services_of(machine.folder)] == [machine.unit]


def test_two_folders_with_the_same_last_words_have_two_units(
    machine: Machine, tmp_path: Path
) -> None:
    """Installing one must not replace, stop or remove the other's."""
    other = tmp_path / "elsewhere" / machine.folder.parent.name / machine.folder.name
    other.mkdir(parents=True)
    change_settings_file(other, {"network": NETWORK})
    assert machine.run("install").exit_code == 0
    words = ("node", "service", "install", "--data-dir", str(other))
    assert CliRunner().invoke(main, words).exit_code == 0
    assert [one.path for one in services_of(machine.folder)] == [machine.unit]
    assert len(services_of(other)) == 1
    assert len(list(machine.unit.parent.glob("*.service"))) == 2
    assert len(Service(Path("/" + "x" * 250) / ("y" * 250)).name) < 200


def test_a_setting_that_no_unit_can_have_is_told(machine: Machine) -> None:
    for wrong in ("soon", float("nan"), -1):
        change_settings_file(machine.folder, {"drain_s": wrong})
        assert "drain_s must be from 0 to 3600" in machine.run("install").output
    assert not machine.unit.exists()


def test_without_systemd_it_says_what_to_do(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSTEMCTL_DEAD", "1")
    done = machine.run("install")
    assert done.exit_code == 1
    assert "systemd does not answer here (Failed to connect to bus)" in done.output
    assert f"resultity node run --data-dir {machine.folder}" in done.output
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no systemctl" in machine.run("install").output
    assert not machine.unit.exists()


def test_what_cannot_be_a_service(machine: Machine, tmp_path: Path) -> None:
    with locked_folder(machine.folder):
        assert "runs in" in machine.run("install").output
    elsewhere = CliRunner().invoke(
        main, ["node", "service", "install", "--data-dir", str(tmp_path)]
    )
    assert "join a network first" in elsewhere.output
    assert not machine.unit.exists()


def test_a_unit_of_the_system_never_runs_as_root(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "installed by root" in machine.run("install", "--system").output
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.delenv("SUDO_USER", raising=False)
    for words in ((), ("--run-as", "root"), ("--run-as", "0"), ("--run-as", "")):
        assert "as which user" in machine.run("install", "--system", *words).output
    monkeypatch.setattr("resultity.node_service.SYSTEM_UNITS", machine.unit.parent / "system")
    machine.calls()
    monkeypatch.setenv("SUDO_USER", "ada")
    done = machine.run("install", "--system")
    assert done.exit_code == 0, done.output
    text = Service(machine.folder, of_system=True).path.read_text()
    assert text.startswith(MARK)
    assert "\nUser=ada\n" in text
    assert f'\nReadWritePaths="{machine.folder}"\n' in text
    assert machine.calls()[-1].startswith("start --no-block")
