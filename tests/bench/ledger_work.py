"""Owns the work of the ledger's benchmark: operations made ahead, and a store that takes them.

What is measured is the store's port, `ledger.store.group.Store.apply`: groups of operations with
all their rules, rows, entries and log records, each group durable when it returns. Signatures are
made and verified elsewhere (`bootstrap.ledger_checks`) and measured beside it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
from processes import BenchError

from ledger.limits import GROUP_OPERATIONS_MAX
from ledger.operations import CaptureHold, Operation, PlaceHold
from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from p2p.ledger_messages import TransferResult
from resultity.role_process import GARBAGE_THRESHOLDS
from tests.fakes.ledger_world import NETWORK, NODES, Tenant, World

CREDIT = 10**12
NODES_USED = 3


@dataclass(frozen=True, slots=True)
class Rate:
    """What one run gave."""

    transfers: int
    duration_s: float
    cpu_s: float
    """Of the writing process."""
    server_cpu_s: float = 0.0
    """Of PostgreSQL."""

    @property
    def per_s(self) -> float:
        """Transfers a second."""
        return self.transfers / self.duration_s

    @property
    def beside(self) -> str:
        """CPU time for each transfer, in words."""
        text = f"{self.cpu_s / self.transfers * 1e6:.0f} CPU-µs each"
        if self.server_cpu_s:
            text += f", {self.server_cpu_s / self.transfers * 1e6:.0f} in the server"
        return text


class Work:
    """Accounts with credit in a new database, and jobs of theirs."""

    def __init__(self, url: str, tenants: int) -> None:
        self.world = World()
        self.tenants: list[Tenant] = [self.world.tenant(number) for number in range(tenants)]
        self._random = random.Random(1)
        self._engine = open_engine(url, writer=True)
        prepare(self._engine, NETWORK)
        self.store = Store(self._engine)
        for tenant in self.tenants:
            self.apply(self.world.setup(tenant, CREDIT, nodes=NODES_USED))

    def close(self) -> None:
        """Give the database up."""
        self.store.close()
        self._engine.dispose()

    def apply(self, operations: list[Operation]) -> None:
        """Apply a group. Raises: BenchError if one of them is refused."""
        for outcome in self.store.apply(operations, self.world.now_ms):
            if not isinstance(outcome, TransferResult):
                raise BenchError(f"the ledger refused: {outcome}")

    def jobs(self, count: int) -> Iterator[tuple[PlaceHold, CaptureHold]]:
        """Make jobs: a hold, and a capture of one leg for a part of it, both signed."""
        for number in range(count):
            tokens = self._random.randint(1, 400)
            hold = self.world.hold(self.tenants[number % len(self.tenants)], 2_000 + tokens)
            leg = self.world.leg(
                hold,
                node=NODES[number % NODES_USED],
                input_tokens=self._random.randint(1, 400),
                output_tokens=self._random.randint(1, 200),
            )
            yield hold, self.world.capture(hold, [leg])

    def groups(self, jobs: int) -> list[list[Operation]]:
        """Make full groups: holds, and the captures of what the group before has held."""
        half = GROUP_OPERATIONS_MAX // 2
        found: list[list[Operation]] = []
        before: list[CaptureHold] = []
        pairs = list(self.jobs(jobs))
        for first in range(0, jobs, half):
            part = pairs[first : first + half]
            found.append([*(hold for hold, _ in part), *before])
            before = [capture for _, capture in part]
        return [*found, [*before]]

    def measure(self, jobs: int, server: psutil.Process | None = None) -> Rate:
        """Apply jobs in full groups. Raises: BenchError."""
        groups = self.groups(jobs)
        # As every role does after its start: the collector need not look at what is made ahead.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        server_before_s = _family_cpu_s(server)
        started_s, cpu_before_s = time.perf_counter(), time.process_time()
        for group in groups:
            self.apply(group)
        rate = Rate(
            sum(len(group) for group in groups),
            time.perf_counter() - started_s,
            time.process_time() - cpu_before_s,
            _family_cpu_s(server) - server_before_s,
        )
        gc.unfreeze()
        return rate


def _family_cpu_s(server: psutil.Process | None) -> float:
    if server is None:
        return 0.0
    times = [process.cpu_times() for process in (server, *server.children())]
    return float(sum(one.user + one.system for one in times))


def timed(work: Callable[[], Any]) -> float:
    """Give the seconds that something takes."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s
