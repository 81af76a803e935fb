"""Refused captures are kept against the gateway that sent them, and shown to the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from ledger import refusals as refusals_module
from ledger.errors import (
    ChargeError,
    HoldEndedError,
    HoldExpiredError,
    LedgerError,
    ReceiptError,
    StorageError,
)
from ledger.ledger import Ledger
from ledger.limits import REFUSAL_EVIDENCE_BYTES_MAX, REFUSALS_WAITING_MAX
from ledger.refusals import Refusal, Refusals, is_suspicious
from ledger.store.refusal_store import read_refusals
from p2p.codec import decode_message
from p2p.errors import RefusedError
from p2p.ledger_messages import CaptureRequest
from p2p.signing import Signed, open_signed
from p2p.types import PeerId
from resultity.__main__ import main
from tests.fakes.ledger_desk import Desk, open_hold_id
from tests.fakes.ledger_world import GATEWAY, NETWORK, NODES, World

PEER = PeerId("a-gateway")


@asynccontextmanager
async def desk_on(url: str) -> AsyncIterator[Desk]:
    world = World()
    ledger = Ledger(url, NETWORK, clock_ms=world.clock_ms)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        desk = Desk(ledger)
        await desk.set_up()
        yield desk
        nursery.cancel_scope.cancel()


async def refused(desk: Desk, hold_id: bytes, legs: list) -> str:
    with pytest.raises(RefusedError) as caught:
        await desk.gateway.capture(capture_id=desk.world.new_id(), hold_id=hold_id, legs=legs)
    return caught.value.code


async def misbehave(desk: Desk) -> None:
    hold, other = await desk.hold(100), await desk.hold(100)
    hold_id, good = open_hold_id(hold), desk.leg(hold, output_tokens=4)
    forged = replace(good, receipt=replace(good.receipt, signer=NODES[1].public_key))
    assert await refused(desk, hold_id, [forged]) == "receipt_invalid"
    above_receipt = desk.leg(hold, output_tokens=4, delivery={"output_tokens": 5})
    assert await refused(desk, hold_id, [above_receipt]) == "receipt_invalid"
    assert await refused(desk, open_hold_id(other), [good]) == "receipt_invalid"  # foreign job
    too_much = desk.leg(hold, output_tokens=40)
    assert await refused(desk, hold_id, [too_much]) == "charge_above_hold"
    capture_id = desk.world.new_id()
    for _ in range(2):  # a repetition is no offence
        await desk.gateway.capture(capture_id=capture_id, hold_id=hold_id, legs=[good])
    assert await refused(desk, hold_id, [good]) == "hold_ended"
    released = open_hold_id(await desk.hold(100))
    await desk.gateway.release(release_id=desk.world.new_id(), hold_id=released)


async def test_each_offence_is_kept_with_its_proof(url: str) -> None:
    async with desk_on(url) as desk:
        await misbehave(desk)
    # Written at the end, read by whoever comes later.
    ledger = Ledger(url, NETWORK, clock_ms=World().clock_ms)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        found = {one.code: one for one in await ledger.read(read_refusals)}
        nursery.cancel_scope.cancel()
    assert {code: one.times for code, one in found.items()} == {
        "receipt_invalid": 3,
        "charge_above_hold": 1,
        "hold_ended": 1,
    }
    assert {one.peer_id for one in found.values()} == {GATEWAY.peer_id}
    signed = decode_message(found["charge_above_hold"].evidence, Signed)
    proof = open_signed(signed, CaptureRequest, NETWORK, signer=GATEWAY.public_key)
    assert len(proof.legs) == 1


async def test_counts_add_up_over_restarts(url: str) -> None:
    async with desk_on(url) as desk:
        hold = await desk.hold(100)
        leg = desk.leg(hold, output_tokens=40)
        assert await refused(desk, open_hold_id(hold), [leg]) == "charge_above_hold"
    for times in (1, 2):
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.ledger.run)
            (kept,) = await desk.ledger.read(read_refusals)
            assert kept.times == times
            assert await refused(desk, open_hold_id(hold), [leg]) == "charge_above_hold"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ReceiptError("x"), True),
        (ChargeError(2, 1), True),
        (HoldEndedError("captured"), True),
        (HoldEndedError("expired"), False),
        (HoldEndedError("released"), False),
        (HoldExpiredError("x"), False),
        (StorageError("x"), False),
    ],
)
def test_only_what_no_honest_peer_gets(error: LedgerError, kept: bool) -> None:
    assert is_suspicious(error) is kept


async def test_a_flood_stays_small() -> None:
    written: list[Refusal] = []

    async def write(refusals: list[Refusal]) -> None:
        written.extend(refusals)

    refusals = Refusals(write)
    for number in range(REFUSALS_WAITING_MAX + 5):
        refusals.note(PeerId(f"peer {number}"), ReceiptError("x" * 5_000), b"e", number)
    for now_ms in range(10):
        refusals.note(PeerId("peer 7"), ReceiptError("y"), bytes(10**6), 10_000 + now_ms)
    await refusals.write_now()
    assert len(written) == REFUSALS_WAITING_MAX
    assert max(len(one.reason) for one in written) == 300
    (seventh,) = [one for one in written if one.peer_id == "peer 7"]
    assert (seventh.times, seventh.first_ms, seventh.last_ms) == (11, 7, 10_009)
    assert (seventh.reason, seventh.evidence) == ("y", b"")
    assert REFUSAL_EVIDENCE_BYTES_MAX < 10**6


async def test_what_could_not_be_written_is_written_later() -> None:
    written: list[Refusal] = []
    works = False

    async def write(refusals: list[Refusal]) -> None:
        if not works:
            refusals_of_meanwhile.note(PEER, ReceiptError("second"), b"", 2)
            raise StorageError("the disk is full")
        written.extend(refusals)

    refusals = refusals_of_meanwhile = Refusals(write)
    refusals.note(PEER, ReceiptError("first"), b"", 1)
    await refusals.write_now()
    works = True
    await refusals.write_now()
    (one,) = written
    assert (one.times, one.first_ms, one.last_ms, one.reason) == (2, 1, 2, "second")


async def test_it_is_written_every_few_seconds(autojump_clock: trio.testing.MockClock) -> None:
    written: list[Refusal] = []

    async def write(refusals: list[Refusal]) -> None:
        written.extend(refusals)

    refusals = Refusals(write)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refusals.run)
        refusals.note(PEER, ReceiptError("x"), b"", 1)
        await trio.sleep(refusals_module.REFUSAL_WRITE_INTERVAL_S * 1.5)
        assert len(written) == 1
        refusals.note(PEER, ReceiptError("x"), b"", 1)
        nursery.cancel_scope.cancel()
    assert len(written) == 2


async def test_the_operator_sees_it(tmp_path: Path) -> None:
    words = ["ledger", "refusals", "--data-dir", str(tmp_path)]
    missing = CliRunner().invoke(main, words)
    assert missing.exit_code == 1
    assert not (tmp_path / "ledger.sqlite").exists()
    async with desk_on(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as desk:
        assert CliRunner().invoke(main, words).output == "no capture was refused\n"
        await misbehave(desk)
    shown = CliRunner().invoke(main, words).output.splitlines()
    assert len(shown) == 3
    assert any(f"{GATEWAY.peer_id} receipt_invalid 3 times" in line for line in shown)
    as_json = CliRunner().invoke(main, [*words, "--json"]).output
    assert as_json.count('"evidence"') == 3
