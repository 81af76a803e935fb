"""Every call sent two to five times, in any order, across restarts of the ledger: one effect."""

from __future__ import annotations

import functools
import os
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from sqlalchemy import text

from ledger.ledger import Ledger
from ledger.store.database import open_engine, prepare
from p2p.calls import Caller
from p2p.codec import decode_any_message
from p2p.errors import P2PError
from p2p.ledger_messages import HoldResult, TransferResult
from tests.fakes.ledger_desk import Desk, open_hold_id
from tests.fakes.ledger_world import NETWORK, NODE_ACCOUNTS, NODES, START_MS

RUNS = 100 if os.environ.get("RESULTITY_SOAK") == "1" else 8
TOGETHER_MAX = 6
"""Calls under way at the same time."""

_EFFECTS = (
    "SELECT transfer_id, kind, namespace, content FROM ledger_transfers ORDER BY transfer_id",
    "SELECT t.transfer_id, e.account, e.amount FROM ledger_entries e "
    "JOIN ledger_transfers t ON t.number = e.transfer ORDER BY 1, 2, 3",
    "SELECT path, available, held, grants, keys FROM ledger_namespaces ORDER BY path",
    "SELECT key_id, spent, held, day_used, generation FROM ledger_api_keys ORDER BY key_id",
    "SELECT namespace, day, key_id, requests, captured, failed, charged FROM ledger_usage",
    "SELECT node_id, legs, earned FROM ledger_work ORDER BY node_id",
    "SELECT digest, purpose, subject FROM ledger_records ORDER BY digest",
    "SELECT peer_id, account_id FROM ledger_node_bindings ORDER BY peer_id",
)
"""What calls have done; not when, and not the balances on the way."""


@functools.cache
def empty_ledger() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        engine = open_engine(f"sqlite:///{path}", writer=True)
        prepare(engine, NETWORK)
        engine.dispose()
        return path.read_bytes()


def put_empty_ledger(path: Path) -> None:
    if not path.exists():
        path.write_bytes(empty_ledger())


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Desk]:
    put_empty_ledger(path)
    ledger = Ledger(f"sqlite:///{path}", NETWORK, clock_ms=lambda: START_MS)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        yield Desk(ledger)
        nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class Sent:
    """A call as it goes over the wire."""

    who: Caller
    method: str
    body: bytes

    async def to(self, desk: Desk) -> bytes:
        return await desk.handlers[self.method](self.who, self.body)


class RecordingDesk(Desk):
    """Remembers each call that its clients make."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.sent: list[Sent] = []

    def call_as(self, who: Caller) -> Callable[[str, bytes], Awaitable[bytes]]:
        async def call(method: str, body: bytes) -> bytes:
            sent = Sent(who, method, body)
            self.sent.append(sent)
            return await sent.to(self)

        return call


async def one_of_everything(ledger: Ledger) -> list[Sent]:
    """Accounts, keys, a grant, a capture of two legs, one of none, a release, an open hold."""
    desk = RecordingDesk(ledger)
    await desk.set_up()
    first, second, third, _ = [await desk.hold(maximum) for maximum in (1_000, 700, 0, 40)]
    legs = [
        desk.leg(first, input_tokens=10, output_tokens=20),
        desk.leg(first, node=NODES[1], attempt=1, output_tokens=30),
    ]
    gateway = desk.gateway
    await gateway.capture(capture_id=desk.world.new_id(), hold_id=open_hold_id(first), legs=legs)
    await gateway.release(release_id=desk.world.new_id(), hold_id=open_hold_id(second))
    nothing = [desk.leg(third)]
    await gateway.capture(capture_id=desk.world.new_id(), hold_id=open_hold_id(third), legs=nothing)
    return desk.sent


def effects(path: Path) -> list[list[tuple[Any, ...]]]:
    engine = open_engine(f"sqlite:///{path}", writer=False)
    try:
        with engine.begin() as connection:
            return [[tuple(row) for row in connection.execute(text(query))] for query in _EFFECTS]
    finally:
        engine.dispose()


def same_answer(answer: bytes) -> object:
    """An answer without what it says of repetition, or of the balance if it moved nothing."""
    message = decode_any_message(answer)
    if isinstance(message, TransferResult):
        available = message.available if message.amount else 0
        return replace(message, available=available, exists=False)
    if isinstance(message, HoldResult):
        return replace(message, exists=False)
    return message


async def send_all(path: Path, groups: list[list[Sent]], answers: dict[Sent, set[object]]) -> None:
    """Send groups of calls to one life of the ledger; those of a group at once."""

    async def send(desk: Desk, call: Sent) -> None:
        try:
            answers.setdefault(call, set()).add(same_answer(await call.to(desk)))
        except P2PError:
            pass  # too early: what it builds on is not there yet

    async with running(path) as desk:
        for group in groups:
            async with trio.open_nursery() as nursery:
                for call in group:
                    nursery.start_soon(send, desk, call)


@pytest.mark.timeout(600 if RUNS > 10 else 120)
async def test_every_call_has_one_effect(tmp_path: Path) -> None:
    once = tmp_path / "once.db"
    async with running(once) as desk:
        calls = await one_of_everything(desk.ledger)
    wanted = effects(once)
    for seed in range(RUNS):
        path, source = tmp_path / f"{seed}.db", random.Random(seed)
        answers: dict[Sent, set[object]] = {}
        shuffled = [call for call in calls for _ in range(source.randint(1, 4))]
        source.shuffle(shuffled)
        # A client asks until it is answered: at the end each call comes once more, in order.
        rest, groups = shuffled, []
        while rest:
            count = source.randint(1, TOGETHER_MAX)
            groups.append(rest[:count])
            rest = rest[count:]
        lives = source.randint(2, 4)
        for life in range(lives):
            part = groups[life::lives]
            await send_all(path, [*part, []], answers)
            async with running(path) as desk:
                await bind_all(desk)
        await send_all(path, [[call] for call in calls], answers)
        for found, expected in zip(effects(path), wanted, strict=True):
            assert found == expected, f"seed {seed}"
        different = [found for found in answers.values() if len(found) > 1]
        assert different == [], f"seed {seed}"
        assert answers.keys() == set(calls)


async def bind_all(desk: Desk) -> None:
    for node, account in zip(NODES, NODE_ACCOUNTS, strict=True):
        await desk.ledger.bind_node(node.peer_id, account)
