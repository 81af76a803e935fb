#!/usr/bin/env python3
"""Owns a stand-in for `systemctl --user` that runs the ExecStart= of a unit, for machines without.

It does what is needed to start and stop one unit: systemd's quoting, NOTIFY_SOCKET, SIGTERM. Unlike
systemd it waits for READY=1 even with --no-block, so that a script can go on when the unit serves.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

UNITS = Path(os.environ["XDG_CONFIG_HOME"]) / "systemd" / "user"
START_TIMEOUT_S = 50.0


def settings(unit: str) -> dict[str, str]:
    lines = (UNITS / unit).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] not in "#[")


def words(line: str) -> list[str]:
    """systemd.syntax(7): shell-like quotes, `%%` and `$$` for the characters themselves."""
    return [re.sub(r"([%$])\1", r"\1", word) for word in shlex.split(line)]


def pid_of(unit: str) -> int:
    try:
        pid = int((UNITS / f"{unit}.pid").read_text())
        os.kill(pid, 0)
        return (
            0 if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z" else pid
        )
    except (OSError, ValueError):
        return 0


def start(unit: str) -> None:
    found = settings(unit)
    assert found["Type"] == "notify"
    address = str(UNITS / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        Path(address).unlink(missing_ok=True)
        manager.bind(address)
        environment = os.environ | {"NOTIFY_SOCKET": address}
        environment |= dict(word.split("=", 1) for word in words(found.get("Environment", "")))
        with (UNITS / "journal").open("ab") as journal:
            child = subprocess.Popen(
                words(found["ExecStart"]),
                cwd=found["WorkingDirectory"].replace("%%", "%"),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                start_new_session=True,
            )
        (UNITS / f"{unit}.pid").write_text(str(child.pid))
        manager.settimeout(0.1)
        deadline = time.monotonic() + START_TIMEOUT_S
        while child.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in manager.recv(1000):
                    return
    raise SystemExit((UNITS / "journal").read_text(errors="replace")[-2000:])


def main(arguments: list[str]) -> None:
    assert arguments[0] == "--user"
    verb, *rest = arguments[1:]
    units = [word for word in rest if not word.startswith("-")]
    match verb:
        case "show" if units:
            pid = pid_of(units[0])
            print(f"ActiveState={'active' if pid else 'inactive'}\nMainPID={pid}")
            print("SubState=running\nUnitFileState=enabled\nNRestarts=0")
        case "show":
            print("Version=stand-in")
        case "start":
            if not pid_of(units[0]):
                start(units[0])
        case "stop":
            if pid := pid_of(units[0]):
                os.kill(pid, signal.SIGTERM)
        case "daemon-reload" | "enable" | "disable":
            pass
        case _:
            raise SystemExit(f"no such verb here: {verb}")


if __name__ == "__main__":
    main(sys.argv[1:])
