"""What a gateway tells the ledger of nodes: times, failures with proof, nobody else's faults."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from bootstrap.failure_proofs import failed_nodes
from ledger.operations import Leg
from p2p.codec import decode_any_message, decode_message
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.lease_messages import LeasedCapture
from p2p.ledger_messages import CaptureRequest
from tests.fakes.gateway_world import GatewayWorld, chat, script_next
from tests.fakes.leased_gateway import prime
from tests.fakes.nodes import Script
from tests.fakes.trust import NETWORK

CHAT = "/v1/chat/completions"


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    return GatewayWorld(tmp_path)


def captures(world: GatewayWorld) -> list[CaptureRequest | LeasedCapture]:
    found = [decode_any_message(signed.body) for signed, _, _ in world.ledger.captured.values()]
    assert all(isinstance(one, CaptureRequest | LeasedCapture) for one in found)
    return found  # type: ignore[return-value]


def proven(capture: CaptureRequest | LeasedCapture) -> dict[str, bool]:
    """What the ledger would make of the failures."""
    legs = [
        Leg(
            leg.receipt.peer_id,
            decode_message(leg.receipt.body, NodeReceipt),
            decode_message(leg.delivery.body, DeliveryCount),
        )
        for leg in capture.legs
    ]
    return dict(failed_nodes(NETWORK, capture, legs))


async def run_one(world: GatewayWorld, script: Script, **options: object) -> CaptureRequest:
    script_next(world, script)
    async with world.run() as client:
        assert (await client.post(CHAT, json=chat(**options))).status_code == 200
        await world.ledger.settled(1)
    (found,) = captures(world)
    assert isinstance(found, CaptureRequest)
    return found


@pytest.mark.parametrize("streaming", [False, True])
async def test_times_of_an_answer(world: GatewayWorld, streaming: bool) -> None:
    found = await run_one(world, Script(pause_s=0.02), stream=streaming)
    (seen,) = found.observed
    assert seen.first_token_ms >= 1
    assert seen.output_ms >= 20  # five frames, four pauses
    assert not seen.failed
    assert found.failures == ()


async def test_times_of_a_job_out_of_a_lease(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, lease_usable_s=300)
    async with world.run() as client:
        await prime(world, client)
        assert (await client.post(CHAT, json=chat())).status_code == 200
        with trio.fail_after(10):
            while not world.ledger.leased_captures:
                await trio.sleep(0.01)
    leased = [one for one in captures(world) if isinstance(one, LeasedCapture)]
    assert all(len(one.observed) == 1 for one in leased)


@pytest.mark.parametrize("then", ["drop", "fail"])
async def test_a_node_that_broke_off_is_said_to_have_failed(world: GatewayWorld, then: str) -> None:
    found = await run_one(world, Script(stop_after=8, then=then))
    assert [seen.failed for seen in found.observed] == [True, False]
    assert found.failures == ()


@pytest.mark.parametrize(
    ("script", "code", "is_proven"),
    [
        (Script(stop_after=0, then="drop"), "lost", True),
        (Script(stop_after=0, then="fail"), "failed", True),
        (Script(refuse="runtime"), "runtime", False),
    ],
    ids=["drop", "fail", "runtime"],
)
async def test_failures_before_output_carry_the_accept(
    world: GatewayWorld, script: Script, code: str, is_proven: bool
) -> None:
    found = await run_one(world, script)
    (failure,) = found.failures
    first = min((j for n in world.nodes for j in n.jobs), key=lambda j: j.offer.attempt)
    assert (failure.node_id, failure.code) == (first.offer.node_id, code)
    assert proven(found) == {failure.node_id: is_proven}
    assert len(found.observed) == len(found.legs) == 1


@pytest.mark.parametrize("code", ["busy", "not_entitled", "price", "draining"])
async def test_a_refusal_by_a_rule_is_no_failure(world: GatewayWorld, code: str) -> None:
    found = await run_one(world, Script(refuse=code))
    assert found.failures == ()


async def test_a_client_that_leaves_is_nobodys_failure(world: GatewayWorld) -> None:
    script_next(world, Script(batch=1, pause_s=0.05))
    async with world.run():
        async with await world.raw_post(CHAT, chat(stream=True)) as stream:
            text = b""
            while b"word3" not in text:
                text += await stream.receive_some()
        await world.ledger.settled(1)
    (found,) = captures(world)
    assert found.outcome == "client_left"
    assert [seen.failed for seen in found.observed] == [False]
    assert found.failures == ()
