"""kill -9 of a writing process at random points: what was acknowledged is there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from ledger.store.database import open_engine
from ledger.store.integrity import check_integrity

ROOT = Path(__file__).parents[2]
POINTS = 200 if os.environ.get("RESULTITY_SOAK") == "1" else 10


@pytest.mark.timeout(1_800 if POINTS > 10 else 180)
def test_acknowledged_means_present(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "ledger.db", {}
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    for run in range(POINTS):
        acknowledged |= _write_until_killed(path, run, moments.uniform(0.0, 0.6))
        stored = _stored(path)
        missing = acknowledged.keys() - stored
        assert not missing, f"seed {seed}: {len(missing)} of {len(acknowledged)} are lost"
    assert len(acknowledged) > POINTS


def _write_until_killed(path: Path, run: int, after_s: float) -> dict[str, int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.ledger_crash_writer", str(path), str(run)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stdout, process.stderr:
        first = process.stdout.readline()
        if first != "ready\n":
            process.kill()
            pytest.fail(f"the writer did not start: {first}{process.stderr.read()}")
        time.sleep(after_s)  # the point of the kill is meant to be random
        process.kill()
        lines = process.stdout.read().splitlines()
    # The last line may be cut off in the middle.
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and len(pair[0]) == 32}


def _stored(path: Path) -> set[str]:
    engine = open_engine(f"sqlite:///{path}", writer=False)
    try:
        with engine.begin() as connection:
            check_integrity(connection)
            rows = connection.execute(text("SELECT transfer_id FROM ledger_transfers"))
            return {row.transfer_id.hex() for row in rows}
    finally:
        engine.dispose()
