"""The agent's embeddings jobs: no output tokens, and paid all the same; and whose cache is used."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from node.agent.cache_sharing import scope_of
from p2p.embeddings import request_json
from p2p.job_messages import (
    AcceptFrame,
    DeliveryCount,
    EndFrame,
    NodeReceipt,
    OutputFrame,
    RefuseFrame,
)
from p2p.prices import charge
from p2p.signing import open_signed
from tests.fakes.job_desk import INPUT_TOKENS, Desk
from tests.fakes.trust import NETWORK, NODE

SCOPE = b"a" * 16


@dataclasses.dataclass
class Notes:
    """What the claims desk hears of."""

    counts: list[DeliveryCount] = dataclasses.field(default_factory=list)

    def note(self, attempt: Any, count: DeliveryCount) -> None:
        self.counts.append(count)


def embedding_desk() -> Desk:
    desk = Desk()
    desk.model.facts = dataclasses.replace(desk.model.facts, tasks=("chat", "embeddings"))
    return desk


async def test_an_embeddings_job_is_paid_its_input() -> None:
    desk = embedding_desk()
    notes = desk.agent.claims = Notes()
    async with desk.session():
        offer = await desk.start_job(task="embeddings", output_tokens_max=0)
        assert desk.runtime.asked == {1: ("embeddings", b"")}
        assert desk.runtime.prepared[1][1] == 0
        await desk.next(AcceptFrame)
        desk.runtime.sink.on_output((), "AAAA\n")
        assert (await desk.next(OutputFrame)).token_ids == ()
        desk.runtime.sink.on_end("stop", "")
        end = await desk.next(EndFrame)
        assert end.receipt is not None
        receipt = open_signed(end.receipt, NodeReceipt, NETWORK, NODE.public_key)
        assert (receipt.input_tokens, receipt.output_tokens) == (INPUT_TOKENS, 0)
        assert (receipt.final, receipt.finish_reason) == (True, "stop")
        # It ended without an output token, and yet its delivery count is waited for.
        desk.send_delivery(offer, 0, final=False)
        desk.send_delivery(offer, 0, final=True, input_tokens=0)  # what was signed, counts
        await desk.settle()
        assert [count.input_tokens for count in notes.counts] == [INPUT_TOKENS]
        assert desk.agent.jobs == 0
        await desk.start_job(2)  # the session goes on
        desk.runtime.sink.on_end("stop", "")


@pytest.mark.parametrize(("outcome", "pays"), [("stop", True), ("failed", False)])
async def test_what_it_can_earn(outcome: str, pays: bool) -> None:
    desk = embedding_desk()
    ended: list[int] = []
    async with desk.session():
        offer = await desk.start_job(task="embeddings", output_tokens_max=0)
        attempt = desk.runtime.sink
        attempt.on_end(outcome, "")
        ended.append(attempt.earned)  # type: ignore[attr-defined]
    assert ended == [charge(offer.terms, INPUT_TOKENS, 0) if pays else 0]


async def test_a_task_that_is_not_offered_is_refused() -> None:
    async with Desk().session() as desk:
        request = request_json(["a"], None)
        assert request == b'{"input":["a"]}'
        desk.send_offer(desk.offer(task="embeddings", output_tokens_max=0))
        refusal = await desk.next(RefuseFrame)
        assert refusal.code == "model_not_served"
        assert not desk.runtime.prepared


@pytest.mark.parametrize("shared", ["account", "all", "off"])
async def test_whose_cache_is_used(shared: str) -> None:
    desk = Desk()
    desk.agent.cache_shared = shared
    async with desk.session():
        for number, scope in enumerate((SCOPE, b"b" * 16, b""), 1):
            await desk.start_job(number, cache_scope=scope)
            desk.runtime.sink.on_end("stop", "")
    first, second, none = (desk.runtime.asked[number][1] for number in (1, 2, 3))
    assert none == b""
    assert (first == second) == (shared != "account")
    assert bool(first) == (shared != "off")


def test_the_scope_of_everybody_is_no_gateways() -> None:
    assert scope_of(SCOPE, "all") == scope_of(b"b" * 16, "all") != SCOPE
    assert scope_of(SCOPE, "account") == SCOPE
