"""Every role ends at once, and well, when it is asked to.

The last of the tests of faults, by its name: it leaves little running that another could use.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.fakes.real_network import REPOSITORY, Part, RealNetwork, eventually, runs


def test_every_role_ends_at_once_when_it_is_asked_to(network: RealNetwork, tmp_path: Path) -> None:
    roles = ("gateway", "node", "bootstrap")
    commands = {role: psutil.Process(network.part(role).pid).cmdline() for role in roles}
    for role in roles:
        ended_s = terminated(network.part(role))
        print(f"{role} ended {ended_s:.2f} s after SIGTERM")
        assert ended_s < 10
    # Once more as children of this test, which sees their exit codes.
    with contextlib.ExitStack() as stack:
        children = {}
        for role in reversed(roles):
            ready = tmp_path / f"{role}.json"
            children[role] = stack.enter_context(started(commands[role], ready))
            assert json.loads(ready.read_text())["peer_id"] == network.part(role).peer_id
        for role in roles:
            children[role].send_signal(signal.SIGTERM)
            _, said = children[role].communicate(timeout=30)
            assert children[role].returncode == 0, f"{role}: {said}"
            assert "Traceback" not in said


@contextlib.contextmanager
def started(command: list[str], ready: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a role by its command line with another ready file, and wait until it serves."""
    command[command.index("--ready-file") + 1] = str(ready)
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as child:
        try:
            eventually(lambda: ready.exists() or child.poll() is not None, f"{command} serves")
            assert child.poll() is None, child.communicate()[1]
            yield child
        finally:
            child.kill()


def terminated(part: Part) -> float:
    """Send SIGTERM and give the seconds until the process is gone."""
    process = psutil.Process(part.pid)
    started_s = time.monotonic()
    part.signal(signal.SIGTERM)
    eventually(lambda: not runs(process), f"{part.role} is gone")
    return time.monotonic() - started_s
