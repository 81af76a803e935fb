"""One test for each cell of the charging table (DOMAIN.md): what is captured, and whom it pays."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from p2p.prices import charge
from tests.fakes.ledger_world import (
    GATEWAY_ACCOUNT,
    NODE_ACCOUNTS,
    NODES,
    TERMS,
    MemoryLedger,
    World,
)

GRANTED = 1_000_000
MAXIMUM = 10_000


@dataclass(frozen=True)
class Part:
    """One attempt: the node, the tokens that are chargeable, and those that the node signed."""

    node: int
    input_tokens: int
    output_tokens: int
    generated: int


@dataclass(frozen=True)
class Cell:
    """A cell: its parts (none: the hold is released), and what each node is paid (microcredits)."""

    name: str
    parts: tuple[Part, ...]
    input_tokens: int
    output_tokens: int
    paid: dict[int, int] = field(default_factory=dict)


# 2 microcredits an input token, 5 an output token; 5 % to the gateway, 5 % to the network,
# both rounded down, the rest to the nodes.
CELLS = (
    # complete: input + output, in both modes
    Cell("complete, streaming", (Part(0, 100, 50, 50),), 100, 50, {0: 406}),
    Cell("complete, not streaming", (Part(0, 100, 50, 50),), 100, 50, {0: 406}),
    Cell("complete and empty", (Part(0, 100, 0, 0),), 100, 0, {0: 180}),
    # client leaves or cancels
    Cell("client leaves, streaming: what was written", (Part(0, 100, 20, 50),), 100, 20, {0: 270}),
    Cell(
        "client cancels, not streaming: what was generated",
        (Part(0, 100, 30, 30),),
        100,
        30,
        {0: 316},
    ),
    Cell("cancelled after it failed, not streaming", (), 0, 0),
    Cell("client leaves before output", (), 0, 0),
    # node lost, continued elsewhere: input once, each node its own part
    Cell(
        "continued elsewhere, streaming",
        (Part(0, 100, 20, 25), Part(1, 0, 30, 30)),
        100,
        50,
        {0: 270, 1: 136},
    ),
    Cell(
        "continued elsewhere, not streaming, complete",
        (Part(0, 100, 20, 20), Part(1, 0, 30, 30)),
        100,
        50,
        {0: 270, 1: 136},
    ),
    Cell(
        "continued twice, one node comes back",
        (Part(0, 100, 10, 10), Part(1, 0, 10, 10), Part(0, 0, 10, 10)),
        100,
        30,
        {0: 271, 1: 45},
    ),
    # failed after output began
    Cell(
        "failed after output, streaming: what was written", (Part(0, 100, 7, 9),), 100, 7, {0: 213}
    ),
    Cell("failed after output, not streaming: nothing", (Part(0, 0, 0, 9),), 0, 0),
    # failed or refused before output
    Cell("failed before output, streaming", (), 0, 0),
    Cell("failed before output, not streaming", (), 0, 0),
    # hedges and repeated prefill are paid nothing
    Cell("hedge loser", (Part(0, 0, 0, 12), Part(1, 100, 50, 50)), 100, 50, {1: 406}),
)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_cell(cell: Cell) -> None:
    world = World()
    ledger, tenant = MemoryLedger(world), world.tenant()
    ledger.do(*world.setup(tenant, GRANTED))
    hold = world.hold(tenant, MAXIMUM)
    ledger.do(hold)
    legs = [
        world.leg(
            hold,
            node=NODES[part.node],
            attempt=attempt,
            input_tokens=part.input_tokens,
            output_tokens=part.output_tokens,
            receipt={"output_tokens": part.generated, "input_tokens": 100},
        )
        for attempt, part in enumerate(cell.parts)
    ]
    ledger.do(world.capture(hold, legs) if legs else world.release(hold))

    expected = charge(TERMS, cell.input_tokens, cell.output_tokens)
    fee = expected * 500 // 10_000
    balances = ledger.balances()
    assert balances[f"namespace:{tenant.path}"] == GRANTED - expected
    assert f"held:{tenant.path}" not in balances
    paid = {
        node: balances[f"earnings:{account}"]
        for node, account in enumerate(NODE_ACCOUNTS)
        if f"earnings:{account}" in balances
    }
    assert paid == cell.paid
    assert balances.get(f"fees:{GATEWAY_ACCOUNT}", 0) == fee
    assert balances.get("treasury", 0) == fee
    assert sum(paid.values()) + 2 * fee == expected
    assert ledger.book.usage[tenant.api_key.key_id].spent == expected
    assert ledger.book.usage[tenant.api_key.key_id].held == 0
