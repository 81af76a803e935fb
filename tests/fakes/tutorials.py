"""Runs a tutorial's commands word by word, as a reader types them after the installation."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.local_network import HANG_S, REPOSITORY

FORKING = REPOSITORY / "tests/fakes/forking_commands.py"
SHELL = """
set -eu
resultity() {
    # A free port: this machine may have a network of its own.
    if [ "$1" = up ]; then set -- "$@" --port 0; fi
    "$PYTHON" -I -S "$FORKING" run "$COMMANDS_SOCKET" "$@"
}
trap 'resultity down > /dev/null' EXIT
"""


def commands_of(tutorial: Path) -> list[str]:
    """Every command of a tutorial after the installation."""
    lines = [line[4:] for line in tutorial.read_text().splitlines() if line.startswith("    ")]
    assert lines[:2] == ["make", ". .venv/bin/activate"]
    return lines[2:]


def follow(tutorial: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Type a tutorial into a shell, in a folder."""
    place = folder / "commands"  # short: a socket's path has 108 bytes
    socket = place if len(str(place)) < 100 else Path(f"/tmp/resultity-{os.getpid()}.commands")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(REPOSITORY),
        "FORKING": str(FORKING),
        "COMMANDS_SOCKET": str(socket),
        **environment,
    }
    words = [sys.executable, "-P", str(FORKING), "serve", str(socket)]
    with subprocess.Popen(words, cwd=REPOSITORY, env=environment) as server:
        try:
            deadline = time.monotonic() + HANG_S
            while not socket.exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            return subprocess.run(
                ["bash", "-c", SHELL + "\n".join(commands_of(tutorial))],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=2.5 * HANG_S,
                check=False,
            )
        finally:
            server.kill()
            socket.unlink(missing_ok=True)
