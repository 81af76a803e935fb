"""Owns a ledger service whose sweep comes when the test says so, and nodes that claim from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ledger import methods
from ledger.ledger import Ledger
from ledger.store.audit.whole import audit
from ledger.store.database import open_engine
from ledger.store.queries import balance
from p2p.claim_messages import Claim, ClaimResult, HoldQuery, HoldStandings
from p2p.codec import decode_message, encode_message
from p2p.job_messages import NodeReceipt
from p2p.lease_messages import LeasedHold
from p2p.ledger_messages import CaptureLeg
from p2p.signing import KeyPair
from p2p.types import Role
from tests.fakes.ledger_desk import Desk, caller
from tests.fakes.ledger_log import sequencer
from tests.fakes.ledger_world import GATEWAY, MINT, NETWORK, NODE_ACCOUNTS, NODES


@asynccontextmanager
async def desk_on(url: str) -> AsyncIterator[Desk]:
    async with trio.open_nursery() as nursery:
        # The sweep comes when the tests say so.
        clock: list[Desk] = []
        ledger = Ledger(
            url, NETWORK, clock_ms=lambda: clock[0].clock_ms() if clock else 0, sweep_interval_s=1e9
        )
        await nursery.start(ledger.run)
        desk = Desk(ledger)
        clock.append(desk)
        await desk.set_up()
        yield desk
        nursery.cancel_scope.cancel()


def signed_claim(
    desk: Desk, leg: CaptureLeg, node: KeyPair = NODES[0], part: LeasedHold | None = None
) -> bytes:
    hold_id = open_receipt_hold(leg)
    leased = GATEWAY.sign(NETWORK, part) if part is not None else None
    document = Claim(hold_id, leg.receipt, leg.delivery, desk.world.now_ms, leased)
    return encode_message(node.sign(NETWORK, document))


def open_receipt_hold(leg: CaptureLeg) -> bytes:
    return decode_message(leg.receipt.body, NodeReceipt).hold_id


async def ask(desk: Desk, method: str, body: bytes, node: KeyPair = NODES[0]) -> bytes:
    return await desk.handlers[method](caller(node, Role.NODE, NODE_ACCOUNTS[0]), body)


async def claim(
    desk: Desk, leg: CaptureLeg, node: KeyPair = NODES[0], part: LeasedHold | None = None
) -> ClaimResult:
    answer = await ask(desk, methods.CLAIM, signed_claim(desk, leg, node, part), node)
    return decode_message(answer, ClaimResult)


async def standings(
    desk: Desk, *holds: bytes, lease: bytes = b"", node: KeyPair = NODES[0]
) -> list[tuple[str, int, int]]:
    query = HoldQuery(holds, (lease,) * len(holds))
    answer = await ask(desk, methods.HOLD_STANDINGS, encode_message(query), node)
    found = decode_message(answer, HoldStandings)
    return list(zip(found.states, found.input_tokens, found.output_tokens, strict=True))


async def quiet(desk: Desk, url: str) -> None:
    """Nothing is wrong with this ledger, its log included."""
    await sequencer(desk.ledger).catch_up()
    await desk.ledger.check_integrity()
    engine = open_engine(url, writer=False)
    with engine.begin() as connection:
        report = audit(connection, NETWORK, (MINT.public_key,))
    engine.dispose()
    assert report.problems == []


async def earned(desk: Desk, node: int) -> int:
    return await desk.ledger.read(lambda c: balance(c, f"earnings:{NODE_ACCOUNTS[node]}"))
