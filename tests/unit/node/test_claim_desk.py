"""A node sees to its pay: it asks, claims what is not settled, and remembers it over a restart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from node.agent.attempt import AttemptState
from node.claims import journal as journal_module
from node.claims.desk import ClaimDesk
from node.claims.journal import OwedJournal
from node.limits import (
    CLAIM_AFTER_END_S,
    CLAIM_AFTER_LOSS_S,
    CLAIM_BEFORE_EXPIRY_S,
    CLAIM_PAID_WAIT_S,
    CLAIM_RETRY_S,
    SETTLE_UP_S,
)
from p2p.claim_messages import CLAIM, Claim, ClaimResult, HoldQuery, HoldStandings
from p2p.codec import decode_message, encode_message
from p2p.errors import PeerUnavailableError, RefusedError
from p2p.job_messages import DeliveryCount, VoucherFrame
from p2p.lease_messages import Lease, LeasedHold, LeaseVoucherFrame
from p2p.ledger_messages import Voucher
from p2p.signing import Signed, open_signed
from tests.fakes.ledger_world import GATEWAY, NETWORK, NODES, TERMS, World, key_pair

BOOTSTRAP = key_pair(5)
NODE = NODES[0]


@dataclass
class Ledger:
    """A bootstrap's answers: how each hold stands, and the claims that came."""

    states: dict[bytes, tuple[str, int, int]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    error: Exception | None = None

    async def call(self, method: str, body: bytes, timeout_s: float = 1.0, /) -> bytes:
        if self.error is not None:
            raise self.error
        if method == CLAIM:
            signed = decode_message(body, Signed)
            self.claims.append(open_signed(signed, Claim, NETWORK, signer=NODE.public_key))
            return encode_message(ClaimResult(False, 100))
        query = decode_message(body, HoldQuery)
        self.asked.append(len(query.holds))
        found = [self.states.get(hold, ("open", 0, 0)) for hold in query.holds]
        return encode_message(HoldStandings(*map(tuple, zip(*found, strict=True))))


class Scene:
    """A desk over a journal in a folder."""

    def __init__(self, folder: Path) -> None:
        self.world, self.ledger = World(), Ledger()
        self.path = folder / "owed.journal"
        self.restart()

    def restart(self) -> None:
        self.journal = OwedJournal(self.path)
        self.desk = ClaimDesk(
            self.journal, NODE, NETWORK, self.ledger.call, clock_ms=self.world.clock_ms
        )

    def attempt(self, output_tokens: int = 20, *, leased: bool = False, life_s: int = 900) -> Any:
        """An attempt for which the gateway has signed, still running."""
        hold = self.world.hold(self.world.tenant(), 1_000, lifetime_ms=life_s * 1000)
        leg = self.world.leg(hold, input_tokens=10, output_tokens=output_tokens)[1]
        document, now_ms = hold.document, self.world.now_ms
        hold_id, expires_ms = document.hold_id, document.expires_ms
        ids = (hold_id, document.job_id, GATEWAY.peer_id, 1_000, TERMS)
        voucher = BOOTSTRAP.sign(NETWORK, Voucher(*ids, now_ms, expires_ms))
        payment: Any = VoucherFrame(1, voucher)
        lease = None
        if leased:
            lease = Lease(bytes(16), GATEWAY.peer_id, 5_000, TERMS, now_ms, expires_ms)
            part = LeasedHold(bytes(16), hold_id, document.job_id, 1_000, now_ms, expires_ms)
            payment = LeaseVoucherFrame(1, GATEWAY.sign(NETWORK, part))
        return SimpleNamespace(
            hold_id=hold_id,
            payment=payment,
            lease=lease,
            receipt=leg.receipt,
            delivery=leg.delivery,
            state=AttemptState.RUNNING,
            offer=SimpleNamespace(deadline_ms=now_ms + 600_000),
        )

    def note(self, attempt: Any, *, final: bool = False) -> None:
        count = decode_message(attempt.delivery.body, DeliveryCount)
        self.desk.note(attempt, replace(count, final=final))

    async def after(self, seconds: float) -> None:
        self.world.now_ms += int(seconds * 1000)
        await self.desk.look()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_what_the_gateway_settles_is_not_claimed(scene: Scene) -> None:
    attempts = [scene.attempt() for _ in range(300)]
    for attempt in attempts:
        scene.note(attempt, final=True)
        scene.ledger.states[attempt.hold_id] = ("captured", 10, 20)
    await scene.after(1)
    assert scene.ledger.asked == []
    await scene.after(CLAIM_AFTER_END_S)
    assert scene.ledger.asked == [256, 44]
    assert scene.ledger.claims == []
    assert len(scene.journal) == 0


async def test_a_lost_gateways_jobs_are_claimed_and_followed_to_the_end(scene: Scene) -> None:
    running, leased = scene.attempt(), scene.attempt(leased=True)
    for attempt in (running, leased):
        scene.note(attempt)
    scene.desk.session_ended(GATEWAY.peer_id)
    await scene.after(CLAIM_AFTER_LOSS_S - 1)
    assert scene.ledger.asked == []
    await scene.after(1)
    own, out_of_lease = scene.ledger.claims
    assert (own.receipt, own.delivery, own.leased_hold) == (
        running.receipt,
        running.delivery,
        None,
    )
    assert out_of_lease.leased_hold == leased.payment.hold
    await scene.after(CLAIM_RETRY_S)
    assert len(scene.ledger.claims) == 2  # once is enough
    for attempt in (running, leased):
        scene.ledger.states[attempt.hold_id] = ("claimed", 10, 20)
    await scene.after(900 + CLAIM_PAID_WAIT_S)
    assert len(scene.journal) == 0


async def test_an_answer_without_output_tokens_is_claimed_for_its_input(scene: Scene) -> None:
    attempt, paid = scene.attempt(0), scene.attempt(0)
    scene.note(attempt, final=True)
    scene.note(paid, final=True)
    scene.ledger.states[paid.hold_id] = ("captured", 10, 0)
    await scene.after(CLAIM_AFTER_END_S)
    assert [item.hold_id for item in scene.ledger.claims] == [attempt.hold_id]


async def test_a_running_job_is_not_asked_about_until_its_deadline_is_long_over(
    scene: Scene,
) -> None:
    scene.note(scene.attempt())
    await scene.after(600 + CLAIM_AFTER_END_S - 1)
    assert scene.ledger.asked == []
    await scene.after(1)
    assert len(scene.ledger.claims) == 1


async def test_a_short_hold_is_claimed_before_it_ends(scene: Scene) -> None:
    scene.note(scene.attempt(life_s=45), final=True)
    await scene.after(45 - CLAIM_BEFORE_EXPIRY_S)
    assert len(scene.ledger.claims) == 1


@pytest.mark.parametrize("error", [PeerUnavailableError("away"), RefusedError("ledger_busy", "x")])
async def test_a_bootstrap_that_does_not_answer_is_asked_again(
    scene: Scene, error: Exception
) -> None:
    scene.note(scene.attempt(), final=True)
    scene.ledger.error = error
    await scene.after(CLAIM_AFTER_END_S)
    scene.ledger.error = None
    await scene.after(CLAIM_RETRY_S)
    assert len(scene.ledger.claims) == 1


async def test_a_refused_claim_is_given_up(scene: Scene) -> None:
    attempt = scene.attempt()
    scene.note(attempt, final=True)
    ask = scene.ledger.call

    async def call(method: str, body: bytes, timeout_s: float = 1.0, /) -> bytes:
        if method == CLAIM:
            raise RefusedError("hold_expired", "too late")
        return await ask(method, body)

    scene.desk._call = call
    await scene.after(CLAIM_AFTER_END_S)
    assert len(scene.journal) == 0


@pytest.mark.parametrize("standing", [("captured", 10, 5), ("captured", 0, 20), ("released", 0, 0)])
async def test_a_gateway_that_underpays_meets_the_proof(
    scene: Scene, standing: tuple[str, int, int]
) -> None:
    attempt = scene.attempt()
    scene.note(attempt, final=True)
    scene.ledger.states[attempt.hold_id] = standing
    await scene.after(CLAIM_AFTER_END_S)
    (proof,) = scene.ledger.claims
    assert proof.delivery == attempt.delivery
    await scene.after(1_000)
    assert len(scene.ledger.claims) == 1
    assert len(scene.journal) == 0


async def test_what_is_past_help_is_forgotten(scene: Scene) -> None:
    for state in ("expired", "unknown"):
        attempt = scene.attempt()
        scene.note(attempt, final=True)
        scene.ledger.states[attempt.hold_id] = (state, 0, 0)
    await scene.after(CLAIM_AFTER_END_S)
    assert scene.ledger.claims == []
    # A bootstrap that lags does not know the hold yet: the proof is kept for the hold's time.
    assert len(scene.journal) == 1
    await scene.after(900)
    assert len(scene.journal) == 0


@pytest.mark.parametrize("code", ["ledger_integrity", "mirror_reads_only", "not_entitled"])
async def test_a_ledger_that_is_halted_loses_no_proof(scene: Scene, code: str) -> None:
    scene.note(scene.attempt(), final=True)
    ask = scene.ledger.call

    async def call(method: str, body: bytes, timeout_s: float = 1.0, /) -> bytes:
        if method == CLAIM:
            raise RefusedError(code, "not now")
        return await ask(method, body)

    scene.desk._call = call
    await scene.after(CLAIM_AFTER_END_S)
    assert len(scene.journal) == 1
    scene.desk._call = ask
    await scene.after(CLAIM_RETRY_S)
    assert len(scene.ledger.claims) == 1


async def test_a_restart_forgets_nothing(scene: Scene) -> None:
    first, second, settled = (scene.attempt() for _ in range(3))
    for attempt in (first, second, settled):
        scene.note(attempt)
    scene.ledger.states[settled.hold_id] = ("captured", 10, 20)
    scene.desk.session_ended(GATEWAY.peer_id)
    await scene.after(CLAIM_AFTER_LOSS_S)
    assert len(scene.ledger.claims) == 2
    third = scene.attempt(30)
    scene.note(third)
    scene.journal.flush()  # and then it is killed, in the middle of a line
    with scene.path.open("ab") as file:
        file.write(b"O 17 aGVs")
    scene.restart()
    assert set(scene.journal.owed()) == {(a.hold_id, 0) for a in (first, second, third)}
    await scene.after(CLAIM_AFTER_LOSS_S)
    assert len(scene.ledger.claims) == 3
    assert scene.ledger.claims[-1].receipt == third.receipt


async def test_a_new_count_replaces_the_old_one_until_it_is_claimed(scene: Scene) -> None:
    attempt = scene.attempt(5)
    scene.note(attempt)
    more = scene.world.leg(
        scene.world.hold(scene.world.tenant(), 1_000, hold_id=attempt.hold_id),
        input_tokens=10,
        output_tokens=9,
    )[1]
    attempt.receipt, attempt.delivery = more.receipt, more.delivery
    scene.note(attempt)
    scene.desk.session_ended(GATEWAY.peer_id)
    await scene.after(CLAIM_AFTER_LOSS_S)
    assert scene.ledger.claims[0].delivery == more.delivery
    scene.note(scene_with(attempt, 12))
    assert scene.journal.get((attempt.hold_id, 0)).claim.delivery == more.delivery


def scene_with(attempt: Any, output_tokens: int) -> Any:
    world = World()
    hold = world.hold(world.tenant(), 1_000, hold_id=attempt.hold_id)
    later = world.leg(hold, input_tokens=10, output_tokens=output_tokens)[1]
    return SimpleNamespace(**vars(attempt) | {"receipt": later.receipt, "delivery": later.delivery})


async def test_the_journal_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "OWED_ATTEMPTS_MAX", 3)
    monkeypatch.setattr(journal_module, "OWED_JOURNAL_BYTES_MAX", 4_000)
    scene.restart()
    attempts = [scene.attempt() for _ in range(20)]
    for attempt in attempts:
        scene.note(attempt)
        scene.journal.flush()
    assert set(scene.journal.owed()) == {(a.hold_id, 0) for a in attempts[-3:]}
    assert scene.path.stat().st_size < 20_000
    await scene.after(1)
    assert len(scene.desk._due_ms) == 3


async def test_before_it_ends_a_node_learns_what_was_settled(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    paid, late, gone = scene.attempt(), scene.attempt(), scene.attempt()
    for attempt in (paid, late, gone):
        scene.note(attempt, final=True)
    scene.ledger.states[paid.hold_id] = ("captured", 10, 20)

    async def settle_late() -> None:
        await trio.sleep(1)
        scene.ledger.states[late.hold_id] = ("captured", 10, 20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle_late)
        with trio.fail_after(4):
            gateway = GATEWAY.peer_id
            await scene.desk.settle_up(lambda peer: peer == gateway and not _only(scene, gone))
    assert _only(scene, gone)
    # Nothing was claimed: the gateway may still settle. One that is away is not waited for.
    assert scene.ledger.claims == []
    asked = len(scene.ledger.asked)
    await scene.desk.settle_up(lambda peer: False)
    assert len(scene.ledger.asked) == asked
    before = trio.current_time()
    await scene.desk.settle_up(lambda peer: True)
    assert trio.current_time() - before == SETTLE_UP_S
    scene.ledger.error = PeerUnavailableError("away")
    await scene.desk.settle_up(lambda peer: True)
    assert _only(scene, gone)
    # Paid less than it countersigned: that is for the next run to prove.
    scene.ledger.error = None
    scene.ledger.states[gone.hold_id] = ("captured", 10, 19)
    await scene.desk.settle_up(lambda peer: True)
    assert _only(scene, gone)


def _only(scene: Scene, attempt: Any) -> bool:
    return [key[0] for key in scene.journal.owed()] == [attempt.hold_id]
