"""Disputes through the service: who may see what, and what evidence is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
import trio

from ledger import methods
from ledger.ledger import Ledger
from p2p.codec import decode_message, encode_message
from p2p.dispute_messages import (
    Attachment,
    DisputeAnswer,
    DisputeEvidence,
    DisputeList,
    DisputeResolution,
    DisputeSubmission,
    DisputeView,
)
from p2p.errors import RefusedError
from p2p.ledger_messages import ConsumerReceipt, EarningsRequest, EarningsStatement, TransferResult
from p2p.signing import KeyPair, Signed
from p2p.types import Role
from resultity import disputes as desk_work
from resultity.errors import ReceiptError
from tests.fakes.dispute_world import DECIDER
from tests.fakes.ledger_desk import ACCOUNT, KEY, TERMS, Desk, caller, open_hold_id
from tests.fakes.ledger_world import GATEWAY, MINT, NETWORK, NODES, START_MS, key_pair

OPERATOR = key_pair(60)
STRANGER = key_pair(61)


class Court(Desk):
    """A desk whose network has a decider, an operator with a charge, and its payer."""

    async def set_up(self) -> None:
        await super().set_up()
        self.decide_by(DECIDER)
        self.operator_id = await self.client(OPERATOR).found_account(key_pair(62).public_key)
        self.stranger_id = await self.client(STRANGER).found_account(key_pair(63).public_key)
        await self.ledger.bind_node(NODES[0].peer_id, self.operator_id)
        result = await self.hold()
        self.hold_id = open_hold_id(result)
        leg = self.leg(result, input_tokens=10, output_tokens=100)
        charge = await self.gateway.capture(
            capture_id=self.world.new_id(), hold_id=self.hold_id, legs=[leg]
        )
        self.charged = charge.amount

    def decide_by(self, *deciders: KeyPair) -> None:
        """Put another configuration in force."""
        keys = tuple(pair.public_key.hex() for pair in deciders)
        changed = {"dispute_keys": keys, "version": self.configuration.version + 1}
        self.configuration = self.configuration.model_copy(update=changed)

    def receipt(self) -> Signed:
        bill = ConsumerReceipt(
            bytes(16),
            self.account_id,
            "dev",
            KEY.key_id,
            bytes([9]) * 32,
            bytes([8]) * 32,
            TERMS,
            10,
            100,
            self.charged,
            "complete",
            bytes(32),
            self.world.now_ms,
            self.hold_id,
        )
        return GATEWAY.sign(NETWORK, bill)

    def submission(self, **changes: object) -> DisputeSubmission:
        evidence = DisputeEvidence(self.receipt(), b"", b"", (Attachment("answer", b"42"),))
        found = desk_work.submission(
            ACCOUNT,
            self.account_id,
            NETWORK,
            self.configuration,
            evidence,
            reason="wrong",
            claimed=self.charged,
            now_ms=self.world.now_ms,
        )
        return DisputeSubmission(
            changes.get("opening", found.opening),  # type: ignore[arg-type]
            changes.get("evidence", found.evidence),  # type: ignore[arg-type]
        )

    async def open(self, document: DisputeSubmission) -> TransferResult:
        call = self.call_as(caller(GATEWAY))
        body = await call(methods.DISPUTE_OPEN, encode_message(document))
        return decode_message(body, TransferResult)

    async def ask(
        self, signer: KeyPair, account_id: str = "", *, operator: bool = False, one: bool = True
    ) -> DisputeList:
        question = desk_work.question(
            signer,
            NETWORK,
            self.world.now_ms,
            account_id=account_id,
            hold_id=self.hold_id if one else b"",
            operator=operator,
        )
        call = self.call_as(caller(GATEWAY))
        return decode_message(await call(methods.DISPUTES, encode_message(question)), DisputeList)

    async def see(self, *who: object, **options: bool) -> DisputeView:
        (view,) = (await self.ask(*who, **options)).disputes  # type: ignore[arg-type]
        return view

    async def earnings(self) -> EarningsStatement:
        document = EarningsRequest(self.operator_id, bytes(16), self.world.now_ms)
        call = self.call_as(caller(NODES[0], Role.NODE))
        body = encode_message(OPERATOR.sign(NETWORK, document))
        return decode_message(await call(methods.EARNINGS, body), EarningsStatement)


@pytest.fixture
async def court(tmp_path: Path) -> AsyncIterator[Court]:
    made: list[Court] = []
    ledger = Ledger(
        f"sqlite:///{tmp_path / 'ledger.db'}",
        NETWORK,
        clock_ms=lambda: made[0].clock_ms() if made else START_MS,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        made.append(Court(ledger))
        await made[0].set_up()
        yield made[0]
        nursery.cancel_scope.cancel()


async def refused(code: str, wait: Awaitable[object]) -> None:
    with pytest.raises(RefusedError) as caught:
        await wait
    assert caught.value.code == code, caught.value


async def test_each_side_sees_its_part(court: Court) -> None:
    assert not (await court.open(court.submission())).exists
    payer = await court.see(ACCOUNT, court.account_id)
    assert (payer.side, payer.charged, payer.shares, payer.evidence) == (
        "payer", court.charged, (), b"",
    )  # fmt: skip
    assert payer.opening is not None
    operator = await court.see(OPERATOR, court.operator_id, operator=True)
    assert operator.opening is None
    assert operator.capture == operator.evidence == b""
    assert [share.account for share in operator.shares] == [f"earnings:{court.operator_id}"]
    assert court.account_id.encode() not in encode_message(operator)
    decider = await court.see(DECIDER)
    assert sum(share.paid for share in decider.shares) == court.charged
    evidence = desk_work.open_evidence(decider, DECIDER)
    assert evidence is not None
    assert evidence.attachments == (Attachment("answer", b"42"),)
    findings = {one.text: one.holds for one in desk_work.examine(decider, evidence, NETWORK)}
    assert findings["the receipt is about this charge"]
    assert findings["the gateway that was paid signed the receipt"]
    assert not findings["the answer's text is attached"]
    with pytest.raises(ReceiptError, match="not sealed to this key"):
        desk_work.open_evidence(decider, STRANGER)


async def test_an_operator_sees_its_part_of_a_decision_and_not_the_whole(court: Court) -> None:
    await court.open(court.submission())
    refund = desk_work.resolution(
        DECIDER, NETWORK, court.hold_id, 100, "between us", court.world.now_ms
    )
    await court.client(DECIDER).send(refund)
    operator = await court.see(OPERATOR, court.operator_id, operator=True)
    assert (operator.resolution, operator.refunded) == (None, 0)
    assert operator.resolved_ms == court.world.now_ms
    (share,) = operator.shares
    assert 0 < share.taken_back <= 100
    assert b"between us" not in encode_message(operator)
    facts = desk_work.facts_of(operator) | desk_work.documents_of(operator, NETWORK)
    assert facts["state"] == "resolved"
    assert "note" not in facts
    for view in (await court.see(ACCOUNT, court.account_id), await court.see(DECIDER)):
        assert (view.resolution, view.refunded) == (refund, 100)


async def test_nobody_else_sees_anything(court: Court) -> None:
    await court.open(court.submission())
    stranger = court.stranger_id
    await refused("dispute_unknown", court.ask(STRANGER, stranger))
    await refused("dispute_unknown", court.ask(STRANGER, stranger, operator=True))
    await refused("dispute_unknown", court.ask(OPERATOR, court.operator_id))
    await refused("not_authorized", court.ask(STRANGER, court.account_id))
    await refused("not_authorized", court.ask(STRANGER))
    assert (await court.ask(STRANGER, stranger, one=False)).disputes == ()
    assert len((await court.ask(DECIDER, one=False)).disputes) == 1


async def test_evidence_must_be_what_was_signed_and_for_the_deciders(court: Court) -> None:
    found = court.submission()
    other = court.submission()
    mixed = DisputeSubmission(found.opening, other.evidence)
    await refused("value_refused", court.open(mixed))
    court.decide_by(STRANGER)
    await refused("value_refused", court.open(found))
    court.decide_by()
    await refused("disputes_off", court.open(found))
    court.decide_by(DECIDER)
    await court.open(found)


async def test_what_is_disputed_does_not_mature_until_it_is_decided(court: Court) -> None:
    before = await court.earnings()
    assert before.unmatured_earned == before.earned > 0
    assert before.disputed_earned == 0
    await court.open(court.submission())
    court.world.now_ms += 30 * 86_400_000
    during = await court.earnings()
    assert during.unmatured_earned == during.disputed_earned == before.earned
    refund = desk_work.resolution(
        DECIDER, NETWORK, court.hold_id, 100, "in part", court.world.now_ms
    )
    await refused("not_authorized", court.client(STRANGER).send(
        STRANGER.sign(NETWORK, decode_message(refund.body, DisputeResolution))
    ))  # fmt: skip
    assert (await court.client(DECIDER).send(refund)).amount == 100
    after = await court.earnings()
    assert after.unmatured_earned == after.disputed_earned == 0
    taken = before.earned - after.earned
    assert 0 < taken <= 100
    assert after.legs == 1
    statement = await court.client(ACCOUNT).statement(
        court.account_id, "dev", mint_keys=[MINT.public_key]
    )
    assert (statement.spent, statement.credited) == (court.charged - 100, 100)
    assert statement.available + statement.held + statement.spent == statement.granted


async def test_a_correction_within_the_time_counts_where_it_was_paid(court: Court) -> None:
    before = await court.earnings()
    await court.open(court.submission())
    document = desk_work.resolution(
        DECIDER, NETWORK, court.hold_id, court.charged, "all of it", court.world.now_ms
    )
    await court.client(DECIDER).send(document)
    after = await court.earnings()
    assert before.earned > after.earned == after.unmatured_earned == 0


async def test_an_answer_reaches_the_decider_and_not_the_payer(court: Court) -> None:
    await court.open(court.submission())
    keys = OPERATOR
    said = keys.sign(
        NETWORK, DisputeAnswer(court.operator_id, court.hold_id, "done", court.world.now_ms)
    )
    await court.client(keys).send(said)
    assert (await court.see(DECIDER)).answers == (said,)
    assert (await court.see(OPERATOR, court.operator_id, operator=True)).answers == (said,)
    assert (await court.see(ACCOUNT, court.account_id)).answers == ()
    facts = desk_work.documents_of(await court.see(DECIDER), NETWORK)
    assert facts["answers"] == [{"account": court.operator_id, "text": "done"}]
