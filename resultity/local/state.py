"""Owns the record of a local network's processes, and whether a process is still the one recorded.

A process ID may be given to somebody else after its process ended, so that a record holds the start
time too; nothing is ever signalled unless both fit.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

import psutil

from p2p.files import write_atomically
from resultity.errors import DataFolderError
from resultity.local.folders import LocalFolders

START_TIME_TOLERANCE_S = 1.0
"""The system's clock ticks in hundredths and the boot time is rounded: equal to within a second."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process: its name in the network, its ID, its start (seconds since 1970), its facts."""

    name: str
    role: str
    pid: int
    started_s: float
    peer_id: str = ""
    address: str = ""
    base_url: str = ""


@dataclass(frozen=True, slots=True)
class LocalState:
    """What runs now, and what was chosen before, for the next start.

    Attributes:
        supervisor: the `up` that is at work now (starting, or watching in the foreground).
    """

    http_port: int | None = None
    nodes: int | None = None
    model: str | None = None
    processes: tuple[ProcessRecord, ...] = ()
    supervisor: ProcessRecord | None = None

    def process(self, name: str) -> ProcessRecord | None:
        """Find a process by name."""
        return next((record for record in self.processes if record.name == name), None)

    def alive(self) -> tuple[ProcessRecord, ...]:
        """The processes that still run."""
        return tuple(record for record in self.processes if find_process(record) is not None)

    def with_process(self, record: ProcessRecord) -> LocalState:
        """Add a process, or replace the one with its name."""
        others = tuple(known for known in self.processes if known.name != record.name)
        return dataclasses.replace(self, processes=(*others, record))

    def working_supervisor(self) -> ProcessRecord | None:
        """The `up` that is at work now, if it still runs."""
        if self.supervisor is None or find_process(self.supervisor) is None:
            return None
        return self.supervisor


def record_of(name: str, role: str, pid: int) -> ProcessRecord:
    """Record a process that was just started. Raises: psutil.NoSuchProcess."""
    return ProcessRecord(name, role, pid, psutil.Process(pid).create_time())


def find_process(record: ProcessRecord) -> psutil.Process | None:
    """Find a recorded process if it still runs and is the same one."""
    try:
        process = psutil.Process(record.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            _collect(record.pid)
            return None
        same = abs(process.create_time() - record.started_s) <= START_TIME_TOLERANCE_S
    except psutil.Error:
        return None
    return process if same else None


def _collect(pid: int) -> None:
    # A child of ours that has ended stays in the process table until somebody asks for its end.
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def read_state(folders: LocalFolders) -> LocalState:
    """Read what runs; an empty state if nothing was ever started. Raises: DataFolderError."""
    try:
        content = json.loads(folders.state_path.read_text(encoding="utf-8"))
        supervisor = content["supervisor"]
        return LocalState(
            http_port=content["http_port"],
            nodes=content["nodes"],
            model=content["model"],
            processes=tuple(ProcessRecord(**record) for record in content["processes"]),
            supervisor=ProcessRecord(**supervisor) if supervisor else None,
        )
    except FileNotFoundError:
        return LocalState()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFolderError(
            f"{folders.state_path} is damaged: end what runs by hand and remove the file"
        ) from error


def write_state(folders: LocalFolders, state: LocalState) -> None:
    """Keep what runs, at once and whole."""
    content: dict[str, Any] = dataclasses.asdict(state)
    write_atomically(folders.state_path, json.dumps(content, indent=1).encode() + b"\n")
