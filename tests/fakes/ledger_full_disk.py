"""A process that writes to a ledger until its files may grow no more; prints what was acknowledged.

Argument: the database's path. The limit is the system's on the size of a file (RLIMIT_FSIZE): a
write beyond it fails as on a full disk. Python ignores the signal that comes with it.
"""

from __future__ import annotations

import json
import logging
import resource
import sys

from ledger.store.database import open_engine, prepare
from ledger.store.group import Store
from p2p.ledger_messages import TransferResult
from tests.fakes.ledger_world import NETWORK, World

ROOM_BYTES = 300_000
"""What the write-ahead log may take, beyond what making the tables took."""
FAILURES, GROUP = 3, 4


def main(path: str) -> None:
    logging.disable()
    world = World()
    tenant = world.tenant()
    engine = open_engine(f"sqlite:///{path}", writer=True)
    prepare(engine, NETWORK)
    engine.dispose()  # the log is folded into the file: what follows starts a new one
    engine = open_engine(f"sqlite:///{path}", writer=True)
    store = Store(engine)
    store.apply(world.setup(tenant, 10**9), world.now_ms)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, hard))
    acknowledged: list[str] = []
    failed: list[str] = []
    failures = 0
    while failures < FAILURES:
        holds = [world.hold(tenant, 1) for _ in range(GROUP)]
        outcomes = store.apply(holds, world.now_ms)
        for hold, outcome in zip(holds, outcomes, strict=True):
            good = isinstance(outcome, TransferResult)
            (acknowledged if good else failed).append(hold.document.hold_id.hex())
        failures += not any(isinstance(outcome, TransferResult) for outcome in outcomes)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    sys.stdout.write(json.dumps({"acknowledged": acknowledged, "failed": failed}))


main(sys.argv[1])
