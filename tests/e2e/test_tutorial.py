"""The tutorial "from zero to a verified bill", word by word, as a reader types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.local_network import HANG_S

pytestmark = pytest.mark.e2e
TUTORIAL = Path(__file__).resolve().parents[2] / "docs/tutorials/from-zero-to-a-verified-bill.md"
SHELL = """
set -eu
resultity() {
    # A free port: this machine may have a network of its own.
    if [ "$1" = up ]; then set -- "$@" --port 0; fi
    "$PYTHON" -m resultity "$@"
}
trap 'resultity down > /dev/null' EXIT
"""


def commands() -> list[str]:
    """Every command of the tutorial after the installation."""
    lines = [line[4:] for line in TUTORIAL.read_text().splitlines() if line.startswith("    ")]
    assert lines[:2] == ["make", ". .venv/bin/activate"]
    return lines[2:]


def test_from_zero_to_a_verified_bill(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", SHELL + "\n".join(commands())],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "PYTHONPATH": str(TUTORIAL.parents[2]),
            "RESULTITY_DATA_DIR": str(tmp_path / "data"),
        },
        capture_output=True,
        text=True,
        timeout=3 * HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    for words in (
        "granted 5.000000 credits",
        "1 grants, each signed by a mint key",
        "The capital of Italy is Rome.",
        "verified: 19 tokens in",
        "refused, as it should be",
        "verified: in the log of",
        "nothing is wrong",
    ):
        assert words in shown, f"{words!r} is not in:\n{shown}{done.stderr}"
