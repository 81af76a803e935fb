"""Owns the figures of a large ledger: proofs, start, growth. Its folder is kept for the next time.

The ledger is filled through the store's port in full groups and logged by the sequencer's own
steps; then it is read as any other.
"""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import trio
from ledger_work import Work
from measuring import percentile, say
from report import Figure
from sqlalchemy import Connection, text

from ledger.ledger import Ledger
from ledger.limits import LOG_BATCH_SOURCES_MAX
from ledger.operations import AppendLog
from ledger.store.database import open_engine
from ledger.store.log.proofs import consistency, inclusion_reply
from ledger.store.log.sequencer import next_batch
from ledger.store.log.writing import log_size
from tests.fakes.ledger_log import signer
from tests.fakes.ledger_world import NETWORK, START_MS

ACCOUNTS = 1_000
STEP_JOBS = 20_000
PROOFS = 300
DAY_MS = 86_400_000


def large_figures(folder: Path, transfers: int) -> list[Figure]:
    """Fill a ledger, or take what is there of this size, and measure. Raises: BenchError."""
    folder.mkdir(parents=True, exist_ok=True)
    path, facts = folder / f"ledger-{transfers}.db", folder / f"ledger-{transfers}.json"
    url = f"sqlite:///{path}"
    if not facts.exists():
        path.unlink(missing_ok=True)
        facts.write_text(json.dumps(fill(url, path, transfers)))
    made = json.loads(facts.read_text())
    verified_s = trio.run(time_to_start, url, True)
    start_s = trio.run(time_to_start, url, False)
    own, grown = proof_times(url)
    name = f"{transfers:,} transfers"
    return [
        Figure(
            f"ledger of {name}: inclusion proof",
            percentile(own, 99),
            "ms",
            target=5.0,
            beside=f"p99 of {PROOFS}; median {statistics.median(own):.2f} ms",
        ),
        Figure(
            f"ledger of {name}: consistency proof",
            percentile(grown, 99),
            "ms",
            target=5.0,
            beside=f"p99 of {PROOFS}; median {statistics.median(grown):.2f} ms",
        ),
        Figure(
            f"ledger of {name}: start",
            start_s,
            "s",
            target=2.0,
            beside=f"with a check of everything, which a scrub does otherwise: {verified_s:.1f} s",
        ),
        Figure(
            f"ledger of {name}: growth",
            made["size_bytes"] / transfers,
            "bytes/transfer",
            beside=f"{made['size_bytes'] / 1e6:.0f} MB with {made['leaves']:,} leaves",
        ),
        Figure(
            f"ledger of {name}: transfers/s while it was filled",
            made["per_s"],
            "/s",
            beside=f"{ACCOUNTS} accounts, the last tenth {made['last_per_s']:.0f}/s; "
            f"logging {made['leaves_per_s']:.0f} leaves/s",
        ),
    ]


def fill(url: str, path: Path, transfers: int) -> dict[str, Any]:
    """Make a ledger with so many transfers, all logged; gives its size and what it took."""
    work = Work(url, ACCOUNTS)
    rates: list[float] = []
    logging_s = 0.0
    for first in range(0, transfers // 2, STEP_JOBS):
        say(f"filling: {2 * first:,} of {transfers:,} transfers")
        rates.append(work.measure(min(STEP_JOBS, transfers // 2 - first)).per_s)
        started_s = time.perf_counter()
        sequence(url, work)
        logging_s += time.perf_counter() - started_s
    work.close()
    engine = open_engine(url, writer=True)
    with engine.connect() as connection:
        leaves = log_size(connection)
    engine.dispose()
    bare = sqlite3.connect(path)
    bare.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    bare.close()
    return {
        "size_bytes": path.stat().st_size,
        "leaves": leaves,
        "per_s": statistics.mean(rates),
        "last_per_s": statistics.mean(rates[-max(1, len(rates) // 10) :]),
        "leaves_per_s": leaves / logging_s,
    }


def sequence(url: str, work: Work) -> None:
    """Log everything that waits."""
    engine = open_engine(url, writer=False)
    log_signer = signer()
    try:
        while True:
            with engine.begin() as connection:
                batch = next_batch(connection, log_signer, LOG_BATCH_SOURCES_MAX)
            if batch is None:
                return
            work.apply([AppendLog(batch)])
    finally:
        engine.dispose()


async def time_to_start(url: str, everything: bool) -> float:
    """Give the seconds until a ledger serves; `everything`: it verifies the whole database."""
    ledger = Ledger(url, NETWORK, clock_ms=lambda: START_MS + DAY_MS)
    started_s = time.perf_counter()
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        if everything:
            await ledger.scrub()
        took_s = time.perf_counter() - started_s
        nursery.cancel_scope.cancel()
    return took_s


def proof_times(url: str) -> tuple[list[float], list[float]]:
    """Give the milliseconds of proofs: of transfers by their IDs, and of growth from any size."""
    engine = open_engine(url, writer=False)
    source = random.Random(2)
    own: list[float] = []
    grown: list[float] = []
    try:
        with engine.begin() as connection:
            size = log_size(connection)
            identities = _some_transfers(connection, source)
        for transfer_id in identities:
            started_s = time.perf_counter()
            with engine.begin() as connection:
                inclusion_reply(connection, transfer_id, None)
            own.append((time.perf_counter() - started_s) * 1000)
            started_s = time.perf_counter()
            with engine.begin() as connection:
                consistency(connection, source.randint(1, size), size)
            grown.append((time.perf_counter() - started_s) * 1000)
    finally:
        engine.dispose()
    return own, grown


def _some_transfers(connection: Connection, source: random.Random) -> list[bytes]:
    last = connection.execute(text("SELECT MAX(number) FROM ledger_transfers")).scalar_one()
    question = text("SELECT transfer_id FROM ledger_transfers WHERE number = :number")
    return [
        bytes(connection.execute(question, {"number": source.randint(1, last)}).scalar_one())
        for _ in range(PROOFS)
    ]
