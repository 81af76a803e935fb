"""kill -9 at random points, of a writing process and of its PostgreSQL: what was acknowledged is
there, and no hold is left after its expiry and one sweep."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from sqlalchemy import text

from ledger.ledger import Ledger
from ledger.store.database import open_engine
from ledger.store.integrity import check_integrity
from tests.fakes.ledger_databases import PostgresServer
from tests.fakes.ledger_world import NETWORK, START_MS
from tests.fakes.local_network import eventually

ROOT = Path(__file__).parents[2]
SOAK = os.environ.get("RESULTITY_SOAK") == "1"
POINTS = 200 if SOAK else 10
SERVER_POINTS = 200 if SOAK else 3
HOUR_MS = 3_600_000


class Writers:
    """The process that forks writing processes, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.ledger_crash_writer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    @contextmanager
    def writing(self, url: str, run: int) -> Iterator[Writer]:
        """A writer that is ready inside the block, and killed at its end."""
        self._lives += 1
        writer = Writer(self._folder / f"{self._lives}.out")
        self.tell("start", url, str(run), str(writer.output))
        try:
            eventually(lambda: writer.lines() > 0, "the writer is ready")
            yield writer
        finally:
            self.tell("kill")
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "gone\n"

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()


@dataclass(frozen=True)
class Writer:
    """A writing process, by the file into which it prints."""

    output: Path

    def lines(self) -> int:
        return self.output.read_bytes().count(b"\n") if self.output.exists() else 0

    def acknowledged(self) -> set[str]:
        # The last line may be cut off in the middle.
        lines = self.output.read_text().splitlines()
        assert lines[0] == "ready", lines
        pairs = (line.split() for line in lines)
        return {pair[0] for pair in pairs if len(pair) == 2 and len(pair[0]) == 32}


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writers]:
    found = Writers(tmp_path_factory.mktemp("writers"))
    yield found
    found.close()


@pytest.mark.timeout(3_600 if SOAK else 180)
async def test_acknowledged_means_present_when_the_writer_is_killed(
    writers: Writers, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    acknowledged: set[str] = set()
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    for run in range(POINTS):
        with writers.writing(url, run) as writer:
            time.sleep(moments.uniform(0.0, 0.4))  # noqa: ASYNC251 - a point meant to be random
        acknowledged |= writer.acknowledged()
        missing = acknowledged - stored(url)
        assert not missing, f"seed {seed}: {len(missing)} of {len(acknowledged)} are lost"
    assert len(acknowledged) > POINTS
    await nothing_is_held_after_a_sweep(url)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of its own, which waits for the disk."""
    found = PostgresServer()
    yield found
    found.stop()


@pytest.mark.timeout(7_200 if SOAK else 180)
async def test_acknowledged_means_present_when_postgresql_is_killed(
    server: PostgresServer, writers: Writers
) -> None:
    url = server.new_database()
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    with writers.writing(url, 0) as writer:
        for _ in range(SERVER_POINTS):
            before = writer.lines()
            eventually(lambda before=before: writer.lines() > before, "it writes (again)")
            time.sleep(moments.uniform(0.0, 0.4))  # noqa: ASYNC251 - a point meant to be random
            server.kill_and_restart()
        before = writer.lines()
        eventually(lambda: writer.lines() > before, "it writes again")
    acknowledged = writer.acknowledged()
    missing = acknowledged - stored(url)
    assert not missing, f"seed {seed}: {len(missing)} of {len(acknowledged)} are lost"
    assert len(acknowledged) > SERVER_POINTS
    await nothing_is_held_after_a_sweep(url)


def stored(url: str) -> set[str]:
    engine = open_engine(url, writer=False)
    try:
        with engine.begin() as connection:
            check_integrity(connection)
            rows = connection.execute(text("SELECT transfer_id FROM ledger_transfers"))
            return {row.transfer_id.hex() for row in rows}
    finally:
        engine.dispose()


async def nothing_is_held_after_a_sweep(url: str) -> None:
    """What the killed writers left open ends when its time is over."""
    left = "SELECT COUNT(*) FROM ledger_holds WHERE state = 'open'"
    held = "SELECT SUM(held) FROM ledger_namespaces"
    ledger = Ledger(url, NETWORK, clock_ms=lambda: START_MS + HOUR_MS)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        await ledger.expire_holds(START_MS + HOUR_MS)
        for question in (left, held):
            count = await ledger.read(lambda c, q=question: c.execute(text(q)).scalar_one())
            assert count == 0, question
        await ledger.check_integrity()
        nursery.cancel_scope.cancel()
