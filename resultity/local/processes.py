"""Owns starting, awaiting and ending one network's processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import trio

import resultity
from resultity.errors import ProcessError
from resultity.local.folders import LocalFolders
from resultity.local.state import ProcessRecord, find_process, record_of

START_TIMEOUT_S = 300.0
"""A model of many gigabytes is hashed and loaded before a node serves; a stuck start ends here."""
POLL_INTERVAL_S = 0.05
STOP_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 5.0
LOG_TAIL_LINES = 8
LOG_TAIL_BYTES = 16_384


def spawn(folders: LocalFolders, name: str, role: str, arguments: Sequence[str]) -> ProcessRecord:
    """Start `resultity <role> run` in a session of its own, so that it outlives this process.

    Args:
        arguments: the role's options; log and ready file are added here.
    Raises: ProcessError.
    """
    folders.ready_file(name).unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "resultity", role, "run", *arguments]
    command += ["--log-file", str(folders.log_file(name)), "--quiet"]
    command += ["--ready-file", str(folders.ready_file(name))]
    environment = dict(os.environ)
    source = str(Path(resultity.__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(
        part for part in (source, environment.get("PYTHONPATH", "")) if part
    )
    try:
        with folders.stderr_file(name).open("wb") as stderr:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=folders.root,
                env=environment,
                start_new_session=True,
            )
        # Not waited for by this object: `find_process` collects it, or init when we are gone.
        child.returncode = 0
        return record_of(name, role, child.pid)
    except (OSError, psutil.Error) as error:
        raise ProcessError(f"cannot start {name}: {error}") from error


async def wait_ready(
    folders: LocalFolders, record: ProcessRecord, timeout_s: float = START_TIMEOUT_S
) -> dict[str, Any]:
    """Wait until a process serves, and give the facts of its ready file.

    Raises: ProcessError with the last lines of its log if it ended or did not serve in time.
    """
    path = folders.ready_file(record.name)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            facts = None
        if facts is not None:
            assert isinstance(facts, dict)
            return facts
        if find_process(record) is None:
            raise ProcessError(f"{record.name} did not start: {log_tail(folders, record.name)}")
        await trio.sleep(POLL_INTERVAL_S)
    raise ProcessError(
        f"{record.name} did not serve within {timeout_s:g} s: {log_tail(folders, record.name)}"
    )


def log_tail(folders: LocalFolders, name: str) -> str:
    """Give the last words of a process: its last line on stderr, or the end of its log."""
    stderr = _last_lines(folders.stderr_file(name))
    errors = [line.removeprefix("Error: ") for line in stderr if line.startswith("Error: ")]
    if errors:
        return errors[-1]
    lines = stderr or _last_lines(folders.log_file(name))
    different = list(dict.fromkeys(line.partition(" ")[2] for line in lines))
    text = " / ".join(different[-LOG_TAIL_LINES:]) or "it logged nothing"
    return f"{text} (log: {folders.log_file(name)})"


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def stop_processes(
    records: Sequence[ProcessRecord],
    say: Callable[[str], None],
    timeout_s: float = STOP_TIMEOUT_S,
) -> list[str]:
    """End processes with what they started: SIGTERM, then SIGKILL after `timeout_s`.

    Each is only signalled if it is the recorded one. Gateways end before nodes and nodes before
    bootstraps, so that what was delivered is settled.

    Returns: the names of those that ran.
    """
    stopped = []
    for role in ("gateway", "node", "bootstrap"):
        found = [(record, find_process(record)) for record in records if record.role == role]
        running = [(record, process) for record, process in found if process is not None]
        families = [process for _, process in running for process in _family(process)]
        for record, process in running:
            stopped.append(record.name)
            _signal(process, kill=False)
            # A stopped (SIGSTOP) process gets its SIGTERM only when it goes on.
            _resume(process)
            say(f"stopping {record.name} (pid {record.pid})")
        for process in wait_gone([process for _, process in running], timeout_s):
            say(f"pid {process.pid} did not end within {timeout_s:g} s: killed")
            _signal(process, kill=True)
        # A runtime ends by itself when its agent is gone.
        orphans = wait_gone(families, KILL_TIMEOUT_S)
        for process in orphans:
            _signal(process, kill=True)
        wait_gone(orphans, KILL_TIMEOUT_S)
    return stopped


def wait_gone(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until processes have ended, and give those that have not.

    A zombie has ended: its parent (init, for a detached network) may take seconds to notice.
    """
    deadline = time.monotonic() + timeout_s
    left = [process for process in processes if _works(process)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
        left = [process for process in left if _works(process)]
    return left


def _works(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return


def _resume(process: psutil.Process) -> None:
    try:
        if process.status() == psutil.STATUS_STOPPED:
            process.resume()
    except psutil.NoSuchProcess:
        return
