"""Owns the processes of a benchmark: the baseline, a local network, their CPU time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.fakes import scripted_runtime  # noqa: E402

UP_TIMEOUT_S = 120.0
DOWN_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
BENCH = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Network:
    """A running network and its processes by name: gateway, bootstrap, node, runtime."""

    base_url: str
    api_key: str
    processes: dict[str, psutil.Process]


class BenchError(Exception):
    """The benchmark cannot run; the message says why."""


def resultity(*words: str, timeout_s: float, **environment: str) -> str:
    """Run the command line and give what it printed. Raises: BenchError."""
    command = [sys.executable, "-m", "resultity", *words]
    result = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if result.returncode != 0:
        raise BenchError(f"resultity {words[0]} failed: {result.stderr.strip()[-2000:]}")
    return result.stdout


@contextlib.contextmanager
def running_network(data_dir: Path, tokens: int, **environment: str) -> Iterator[Network]:
    """Run bootstrap, one node whose engine answers at once, and a gateway. Raises: BenchError."""
    command = ",".join(scripted_runtime.command(tokens=tokens))
    where = ("--data-dir", str(data_dir))
    try:
        printed = resultity(
            "up", "--detach", "--json", "--nodes", "1", "--port", "0", *where,
            timeout_s=UP_TIMEOUT_S, RESULTITY_NODE_RUNTIME_COMMAND=command, **environment,
        )  # fmt: skip
        facts = json.loads(printed)
        processes = {entry["role"]: psutil.Process(entry["pid"]) for entry in facts["processes"]}
        children = processes["node"].children(recursive=True)
        if len(children) != 1:
            raise BenchError(f"the node has {len(children)} processes below it, not one runtime")
        processes["runtime"] = children[0]
        yield Network(facts["base_url"], facts["api_key"], processes)
    finally:
        resultity("down", *where, timeout_s=DOWN_TIMEOUT_S)


@contextlib.contextmanager
def running_baseline(key: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run the baseline; gives its base URL and its process. Raises: BenchError."""
    command = [sys.executable, str(BENCH / "baseline.py"), "--key", key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            url = child.stdout.readline().strip()
            if not url:
                raise BenchError("the baseline did not start")
            yield url, psutil.Process(child.pid)
        finally:
            child.terminate()
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()


def cpu_s(process: psutil.Process) -> float:
    """CPU time that a process has used, user and system, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


def memory_mb(process: psutil.Process) -> float:
    """Resident memory of a process in 10**6 bytes."""
    return float(process.memory_info().rss) / 1e6
