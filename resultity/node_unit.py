"""Owns the text of a node's systemd unit. Pure.

What is hardened and what is not: the runtime is kept from the network by `unshare` in user and
network namespaces of its own (`node.sandbox`). Nothing here may keep a process from making those:
no RestrictNamespaces=, no SystemCallFilter=, no PrivateUsers=, no ProtectKernelTunables= (it covers
parts of /proc). NoNewPrivileges= does not (tried: `setpriv --no-new-privs unshare ...`). No device
policy and no MemoryDenyWriteExecute=: GPUs need both free. A user's manager cannot give a unit file
systems of its own everywhere, so ProtectSystem= and its like are in units of the system only.

systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.syntax(7).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from resultity.errors import SettingsError

MARK = "# Written by `resultity node service install`; installing again replaces it."
_FOLDER_MARK = "# Folder: "
STOP_BEYOND_DRAIN_S = 30
"""Beyond what the node itself waits for running jobs: settling, closing, ending the runtime."""
WATCHDOG_S = 60
"""The node says that it lives three times in it; beyond that it hangs, and is started again."""
RESTART_S = 10
OPEN_FILES_MAX = 65_536
EXIT_BAD_ARGUMENTS = 2
"""Settings that are wrong do not become right by starting again."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit says. `run_as`: the user of a unit of the system; None: a unit of the user."""

    command: tuple[str, ...]
    folder: Path
    drain_s: float
    python_path: str = ""
    run_as: str | None = None


def unit_text(unit: Unit) -> str:
    """Give the unit file. Raises: SettingsError: a path that no unit can have."""
    stop_s = int(unit.drain_s) + STOP_BEYOND_DRAIN_S
    lines = [
        MARK,
        _FOLDER_MARK + json.dumps(str(unit.folder)),
        "[Unit]",
        "Description=Resultity node",
        "Documentation=https://resultity.com",
    ]
    if unit.run_as is not None:
        lines += ["Wants=network-online.target", "After=network-online.target"]
    lines += [
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={' '.join(command_words(unit.command))}",
    ]
    if unit.python_path:
        lines.append(f"Environment={quoted(f'PYTHONPATH={unit.python_path}')}")
    lines += [
        f"WorkingDirectory={plain(str(unit.folder))}",
        "Restart=on-failure",
        f"RestartSec={RESTART_S}",
        f"RestartPreventExitStatus={EXIT_BAD_ARGUMENTS}",
        "# A large model is hashed and loaded, and a bootstrap may be away for hours.",
        "TimeoutStartSec=infinity",
        "# SIGTERM drains: no new jobs, the running ones finish.",
        "KillSignal=SIGTERM",
        "KillMode=mixed",
        f"TimeoutStopSec={stop_s}",
        f"WatchdogSec={WATCHDOG_S}",
        "# The runtime may die of its memory; the node starts it again.",
        "OOMPolicy=continue",
        f"LimitNOFILE={OPEN_FILES_MAX}",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    ]
    if unit.run_as is not None:
        lines += [
            f"User={plain(unit.run_as)}",
            "CapabilityBoundingSet=",
            "ProtectSystem=strict",
            "ProtectHome=read-only",
            f"ReadWritePaths={quoted(str(unit.folder))}",
            "PrivateTmp=yes",
            "ProtectControlGroups=yes",
            "ProtectKernelModules=yes",
            "ProtectKernelLogs=yes",
            "ProtectHostname=yes",
        ]
    target = "default.target" if unit.run_as is None else "multi-user.target"
    return "\n".join([*lines, "", "[Install]", f"WantedBy={target}", ""])


def is_ours(text: str) -> bool:
    """Tell whether a unit file was written by us."""
    return text.startswith(MARK)


def folder_of(text: str) -> Path | None:
    """Give the folder of a node that a unit of ours runs."""
    lines = text.splitlines()
    if not is_ours(text) or len(lines) < 2 or not lines[1].startswith(_FOLDER_MARK):
        return None
    try:
        return Path(json.loads(lines[1].removeprefix(_FOLDER_MARK)))
    except (ValueError, TypeError):
        return None


def command_words(command: tuple[str, ...]) -> list[str]:
    """Quote a command for ExecStart=, where `$` stands for variables, too."""
    first, *rest = command
    return [quoted(first), *(quoted(word).replace("$", "$$") for word in rest)]


def quoted(text: str) -> str:
    """Quote one word for a unit file, if it needs that: systemd's C-style escapes, no specifiers.

    Raises: SettingsError: a control character.
    """
    text = _without_specifiers(text)
    if text and all(c.isalnum() or c in "-_./:=+,@%" for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def plain(text: str) -> str:
    """Give a value for a unit file that takes all of its line, as it is: spaces at its ends are cut
    off there, and a backslash at its end continues the line.

    Raises: SettingsError: a control character, or such an end.
    """
    if text != text.strip() or text.endswith("\\"):
        raise SettingsError(f"a systemd unit cannot name {text!r}: it ends in a space or backslash")
    return _without_specifiers(text)


def _without_specifiers(text: str) -> str:
    if not text.isprintable():
        raise SettingsError(f"a systemd unit cannot name {text!r}: it is not printable")
    return text.replace("%", "%%")
