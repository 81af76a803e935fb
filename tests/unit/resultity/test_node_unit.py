"""The text of a node's systemd unit, as systemd reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultity.errors import SettingsError
from resultity.node_unit import (
    MARK,
    Unit,
    command_words,
    folder_of,
    is_ours,
    quoted,
    unit_text,
)

COMMAND = ("/usr/bin/python3", "-P", "-m", "resultity", "node", "run", "--data-dir", "/srv/my node")
FORBIDDEN = (
    "RestrictNamespaces",
    "PrivateUsers",
    "SystemCallFilter",
    "ProtectKernelTunables",
    "MemoryDenyWriteExecute",
    "PrivateDevices",
    "DevicePolicy",
)
"""What would keep the runtime from namespaces of its own, or from a GPU."""


def parsed(text: str) -> dict[str, dict[str, str]]:
    """Read a unit file; no setting may be there twice."""
    sections: dict[str, dict[str, str]] = {}
    section = ""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            sections[section] = {}
            continue
        name, _, value = line.partition("=")
        assert name not in sections[section], name
        sections[section][name] = value
    return sections


def unquoted(word: str) -> str:
    """Undo the quoting as systemd.syntax(7) and systemd.service(5) do."""
    if word.startswith('"'):
        assert word.endswith('"')
        word = word[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return word.replace("%%", "%")


@pytest.mark.parametrize("run_as", [None, "resultity"])
def test_a_unit_runs_the_node_and_lets_it_drain(run_as: str | None) -> None:
    text = unit_text(Unit(COMMAND, Path("/srv/my node"), 45.0, "/src", run_as))
    sections = parsed(text)
    service = sections["Service"]
    assert service["ExecStart"] == (
        '/usr/bin/python3 -P -m resultity node run --data-dir "/srv/my node"'
    )
    assert service["WorkingDirectory"] == "/srv/my node"
    assert service["Environment"] == "PYTHONPATH=/src"
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert (service["KillMode"], service["KillSignal"]) == ("mixed", "SIGTERM")
    assert int(service["TimeoutStopSec"]) > 45
    assert service["TimeoutStartSec"] == "infinity"
    assert int(service["WatchdogSec"]) > 0
    assert int(service["LimitNOFILE"]) >= 65_536
    assert service["NoNewPrivileges"] == "yes"
    assert not set(FORBIDDEN) & set(service)
    assert sections["Unit"]["StartLimitIntervalSec"] == "0"
    assert ("User" in service) == ("ProtectSystem" in service) == (run_as is not None)
    target = "default.target" if run_as is None else "multi-user.target"
    assert sections["Install"] == {"WantedBy": target}
    assert is_ours(text)
    assert text.startswith(MARK)
    assert folder_of(text) == Path("/srv/my node")
    assert folder_of("[Unit]\n") is None


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1))
def test_every_word_is_quoted_so_that_systemd_reads_it_back(word: str) -> None:
    if not word.isprintable():
        with pytest.raises(SettingsError):
            quoted(word)
        return
    found = quoted(word)
    assert found[0] == '"' or not set(found) & set("\"'\\ ;$")
    assert unquoted(found) == word
    (_, argument) = command_words(("/bin/x", word))
    assert unquoted(argument.replace("$$", "$")) == word
    assert "$" not in argument.replace("$$", "")


@pytest.mark.parametrize("folder", ["/srv/a\nExecStartPre=/bin/evil", "/srv/\x1b[2J", "/srv/\x00"])
def test_a_path_cannot_add_lines(folder: str) -> None:
    with pytest.raises(SettingsError, match="not printable"):
        unit_text(Unit((*COMMAND[:-1], folder), Path(folder), 30.0))


@pytest.mark.parametrize("folder", ["/srv/node\\", "/srv/node "])
def test_a_path_that_systemd_would_read_otherwise_is_refused(folder: str) -> None:
    """A backslash at the end of WorkingDirectory= swallows the next line, a space is cut off."""
    with pytest.raises(SettingsError, match="ends in a space or backslash"):
        unit_text(Unit((*COMMAND[:-1], folder), Path(folder), 30.0))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("run_as", [None, "daemon"])
def test_systemd_itself_finds_nothing_wrong(tmp_path: Path, run_as: str | None) -> None:
    folder = tmp_path / 'a %n "folder" $HOME'
    folder.mkdir()
    python = shutil.which("python3")
    assert python is not None
    unit = tmp_path / "resultity-node.service"
    unit.write_text(unit_text(Unit((python, "--data-dir", str(folder)), folder, 30.0, "", run_as)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "resultity-node" in line]
    assert ours == [], done.stderr
