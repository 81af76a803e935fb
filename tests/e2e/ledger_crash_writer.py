"""Processes that write to a ledger until they are killed, and print each ID that is acknowledged.

Importing everything takes longer than a life of theirs, so one process does it once and forks them.
It reads commands from standard input: `start URL RUN FILE` forks a writer whose output is FILE and
whose IDs are those of RUN; `kill` ends it by SIGKILL and answers when it is gone. A database that
is away for a while is asked again, with the same IDs.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys

import trio

from ledger.errors import RequestError, StorageError
from ledger.ledger import Ledger
from ledger.operations import Operation
from tests.fakes.lease_world import charge_leased, give_back, lease
from tests.fakes.ledger_world import NETWORK, World

TASKS = 20
LEASE_TASKS = 4
AGAIN_S = 0.05


async def main(url: str, run: int) -> None:
    logging.disable()
    world = World()
    world._ids = itertools.count(1 + run * 10**9)
    tenant = world.tenant()
    ledger = Ledger(url, NETWORK, clock_ms=world.clock_ms)

    async def work() -> None:
        while True:
            hold = world.hold(tenant, 100)
            await submit(hold)
            legs = [world.leg(hold, input_tokens=10, output_tokens=4)]
            await submit(world.capture(hold, legs))

    async def work_from_leases() -> None:
        while True:
            opened = lease(world, tenant, 1_000)
            await submit(opened)
            for _ in range(8):
                await submit(charge_leased(world, opened, tenant, 20))
            await submit(give_back(world, opened, final=True))

    async def submit(operation: Operation) -> None:
        while True:
            try:
                result = await ledger.submit(operation)
            except RequestError as error:
                sys.exit(f"refused: {error}")
            except StorageError:
                await trio.sleep(AGAIN_S)
                continue
            sys.stdout.write(f"{result.transfer_id.hex()} {result.amount}\n")
            sys.stdout.flush()
            return

    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        for operation in world.setup(tenant, 10**12 if run == 0 else 0):
            await ledger.submit(operation)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for _ in range(TASKS):
            nursery.start_soon(work)
        for _ in range(LEASE_TASKS):
            nursery.start_soon(work_from_leases)


def start(url: str, run: str, output: str) -> int:
    child = os.fork()
    if not child:
        with open(output, "w") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
            trio.run(main, url, int(run))
    return child


child = 0
for command, *arguments in map(str.split, sys.stdin):
    if command == "start":
        child = start(*arguments)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sys.stdout.write("gone\n")
        sys.stdout.flush()
