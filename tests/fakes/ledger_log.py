"""Owns a log signer for tests, and a ledger in a database with one of everything in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ledger.ledger import Ledger
from ledger.log.appending import LogSigner
from ledger.log.notes import log_origin
from ledger.log.sequencer import Sequencer
from ledger.operations import CaptureHold, PlaceHold
from p2p.certificates import issue_certificate
from p2p.log_messages import LogKey
from p2p.types import Role
from tests.fakes.ledger_world import (
    AUTHORITY,
    GATEWAY_ACCOUNT,
    NETWORK,
    NODES,
    START_MS,
    Tenant,
    World,
    key_pair,
)

BOOTSTRAP, LOG_KEY = key_pair(5), key_pair(51)
DAY_S = 86_400.0


def bootstrap_chain(role: Role = Role.BOOTSTRAP) -> tuple:  # type: ignore[type-arg]
    signed = issue_certificate(
        AUTHORITY,
        NETWORK,
        BOOTSTRAP.peer_id,
        role,
        GATEWAY_ACCOUNT,
        issued_ms=START_MS,
        lifetime_s=30 * DAY_S,
    )
    return (signed,)


def signer(log_key: int = 51) -> LogSigner:
    pair, origin = key_pair(log_key), log_origin(NETWORK)
    statement = BOOTSTRAP.sign(NETWORK, LogKey(origin, pair.public_key, START_MS))
    return LogSigner(origin, pair, statement, bootstrap_chain())


@asynccontextmanager
async def running_ledger(url: str, world: World) -> AsyncIterator[Ledger]:
    ledger = Ledger(url, NETWORK, clock_ms=world.clock_ms)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        yield ledger
        nursery.cancel_scope.cancel()


def sequencer(ledger: Ledger, log_key: int = 51, sources_max: int = 1000) -> Sequencer:
    return Sequencer(ledger, signer(log_key), sources_max=sources_max)


async def paid_job(
    ledger: Ledger, world: World, tenant: Tenant, *, nodes: int = 2, output_tokens: int = 7
) -> tuple[PlaceHold, CaptureHold]:
    """A hold of 1,000 and its capture, with a leg for each node."""
    hold = world.hold(tenant, 1_000)
    await ledger.submit(hold)
    legs = [
        world.leg(
            hold,
            node=NODES[number],
            attempt=number,
            input_tokens=0 if number else 10,
            output_tokens=output_tokens,
        )
        for number in range(nodes)
    ]
    capture = world.capture(hold, legs)
    await ledger.submit(capture)
    return hold, capture


async def use(ledger: Ledger, world: World, tenant: Tenant, jobs: int = 3) -> None:
    """One of everything: accounts, keys, a grant, captures, a release, an expiry, an open hold."""
    for operation in world.setup(tenant, 100_000):
        await ledger.submit(operation)
    for _ in range(jobs):
        world.now_ms += 10
        await paid_job(ledger, world, tenant)
    released, expired = world.hold(tenant, 50), world.hold(tenant, 60, lifetime_ms=1_000)
    for operation in (released, expired, world.release(released)):
        await ledger.submit(operation)
    world.now_ms += 1_000
    await ledger.submit(world.expire(expired))
    await ledger.submit(world.hold(tenant, 70))
