"""A process that writes to a ledger until it is killed; it prints each ID once it is acknowledged.

Arguments: the database's path, and a number that makes this run's IDs its own.
"""

from __future__ import annotations

import itertools
import sys

import trio

from ledger.errors import RequestError
from ledger.ledger import Ledger
from tests.fakes.ledger_world import NETWORK, World

TASKS = 24


async def main(path: str, run: int) -> None:
    world = World()
    world._ids = itertools.count(1 + run * 10**9)
    tenant = world.tenant()
    ledger = Ledger(f"sqlite:///{path}", NETWORK, clock_ms=world.clock_ms)

    async def work() -> None:
        while True:
            hold = world.hold(tenant, 100)
            await submit(hold)
            legs = [world.leg(hold, input_tokens=10, output_tokens=4)]
            await submit(world.capture(hold, legs))

    async def submit(operation: object) -> None:
        try:
            result = await ledger.submit(operation)  # type: ignore[arg-type]
        except RequestError as error:
            sys.exit(f"refused: {error}")
        sys.stdout.write(f"{result.transfer_id.hex()} {result.amount}\n")
        sys.stdout.flush()

    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for operation in world.setup(tenant, 10**12 if run == 0 else 0):
            await ledger.submit(operation)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for _ in range(TASKS):
            nursery.start_soon(work)


trio.run(main, sys.argv[1], int(sys.argv[2]))
