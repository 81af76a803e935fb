"""Owns a local network of real processes with the real demo model, for end-to-end tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
HANG_S = 120.0
"""Nothing that a test waits for takes this long unless it hangs."""
MODEL = "tiny-chat"
CAPITAL = "What is the capital of France?"


def resultity_command(*words: str) -> list[str]:
    """The command line as a child process runs it."""
    return [sys.executable, "-m", "resultity", *words]


def run_resultity(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `resultity` to its end."""
    return subprocess.run(
        resultity_command(*words),
        cwd=REPOSITORY,
        # A lease counts as held for half a minute after its last job.
        env={**os.environ, "RESULTITY_GATEWAY_USE_LEASES": "false", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """What `up --detach --json` printed."""

    base_url: str
    api_key: str
    data_dir: str
    network: str
    bootstrap: str
    processes: list[dict[str, Any]]

    def client(self) -> openai.OpenAI:
        """The OpenAI client as a consumer makes it."""
        return openai.OpenAI(
            base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=HANG_S
        )

    def families(self) -> list[psutil.Process]:
        """Every process of the network and what it started."""
        roots = [psutil.Process(entry["pid"]) for entry in self.processes]
        return [process for root in roots for process in (root, *root.children(recursive=True))]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this network."""
        return run_resultity(*words, "--data-dir", self.data_dir)


def start_network(data_dir: Path, *words: str) -> LocalFacts:
    """Run `up --detach --json` and read what it printed."""
    done = run_resultity("up", "--detach", "--json", "--data-dir", str(data_dir), *words)
    assert done.returncode == 0, done.stderr + logs_of(data_dir)
    assert done.stdout.count("\n") == 1
    return LocalFacts(**json.loads(done.stdout))


@contextlib.contextmanager
def local_network(data_dir: Path, nodes: int = 2) -> Iterator[LocalFacts]:
    """A network that runs inside the block and is gone after it."""
    try:
        yield start_network(data_dir, "--port", "0", "--nodes", str(nodes))
    finally:
        done = run_resultity("down", "--data-dir", str(data_dir))
        assert done.returncode == 0, done.stderr


def logs_of(data_dir: Path) -> str:
    """The end of every log, for messages of failed tests."""
    return "".join(
        f"\n--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
        for path in sorted((data_dir / "logs").glob("*.log"))
    )


def runs(process: psutil.Process) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], bool], what: str, pause_s: float = 0.05) -> None:
    """Wait until a condition holds; fail if it never does. Looks again after a pause (longer ones
    for conditions that start a process, which would keep the others from their work)."""
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(pause_s)
