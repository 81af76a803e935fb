"""Owns what a finished or running job owes: legs for the ledger and the consumer's receipt. Pure
but for its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.jobs import ReceiptNote
from gateway.peer.attempt import Attempt
from gateway.peer.charging import Charged, JobOutcome, Produced, chargeable
from gateway.peer.receipts import SALT_BYTES, commitment, sign_receipt
from p2p.job_messages import DeliveryCount
from p2p.ledger_messages import CaptureLeg, ConsumerReceipt, KeyRecord
from p2p.prices import PriceTerms, charge
from p2p.signing import KeyPair, Signed
from p2p.types import NetworkId


@dataclass(frozen=True, slots=True)
class Bill:
    """What is charged for a job, with the node receipts behind it (one for each charged
    attempt)."""

    parts: tuple[Charged, ...]
    receipts: tuple[Signed, ...]
    input_tokens: int
    output_tokens: int
    amount: int
    cached_input_tokens: int


def make_bill(
    attempts: Sequence[Attempt],
    terms: PriceTerms,
    network: NetworkId,
    outcome: JobOutcome,
    *,
    streaming: bool,
    written_tokens: int,
) -> Bill:
    """Apply the charging table; an attempt whose receipt does not verify is paid nothing."""
    produced = [
        Produced(
            attempt.offer.attempt,
            attempt.input_tokens,
            attempt.output_tokens,
            attempt.cached_input_tokens,
        )
        for attempt in attempts
        if attempt.latest_receipt is not None
    ]
    parts = chargeable(
        outcome, streaming=streaming, produced=produced, written_tokens=written_tokens
    )
    by_number = {attempt.offer.attempt: attempt for attempt in attempts}
    good: list[Charged] = []
    receipts: list[Signed] = []
    for part in parts:
        receipt = by_number[part.attempt].verified_receipt(network)
        if receipt is not None:
            good.append(part)
            receipts.append(receipt)
    input_tokens = sum(part.input_tokens for part in good)
    output_tokens = sum(part.output_tokens for part in good)
    cached_tokens = sum(part.cached_input_tokens for part in good)
    amount = charge(terms, input_tokens, output_tokens, cached_tokens)
    return Bill(tuple(good), tuple(receipts), input_tokens, output_tokens, amount, cached_tokens)


def delivery_count(attempt: Attempt, part: Charged, *, final: bool, at_ms: int) -> DeliveryCount:
    """State what of an attempt is chargeable so far."""
    offer = attempt.offer
    return DeliveryCount(
        job_id=offer.job_id,
        attempt=offer.attempt,
        offer_hash=attempt.offer_hash,
        hold_id=offer.hold_id,
        node_id=offer.node_id,
        input_tokens=part.input_tokens,
        output_tokens=part.output_tokens,
        final=final,
        at_ms=at_ms,
        cached_input_tokens=part.cached_input_tokens,
    )


def make_legs(
    bill: Bill,
    attempts: Sequence[Attempt],
    key_pair: KeyPair,
    network: NetworkId,
    *,
    final: bool,
    at_ms: int,
) -> tuple[CaptureLeg, ...]:
    """Sign a delivery count for each charged attempt and pair it with the node's receipt."""
    by_number = {attempt.offer.attempt: attempt for attempt in attempts}
    legs = []
    for part, receipt in zip(bill.parts, bill.receipts, strict=True):
        count = delivery_count(by_number[part.attempt], part, final=final, at_ms=at_ms)
        legs.append(CaptureLeg(receipt, key_pair.sign(network, count)))
    return tuple(legs)


def make_receipt(
    bill: Bill,
    *,
    key_pair: KeyPair,
    network: NetworkId,
    job_id: bytes,
    hold_id: bytes,
    record: KeyRecord,
    request_hash: bytes,
    output_hash: bytes,
    terms: PriceTerms,
    outcome: JobOutcome,
    at_ms: int,
    random_bytes: Callable[[int], bytes],
) -> ReceiptNote:
    """Sign the consumer's receipt."""
    salt = random_bytes(SALT_BYTES)
    receipt = ConsumerReceipt(
        receipt_id=job_id,
        account_id=record.account_id,
        namespace=record.namespace,
        key_id=record.key_id,
        request_hash=request_hash,
        output_hash=output_hash,
        terms=terms,
        input_tokens=bill.input_tokens,
        output_tokens=bill.output_tokens,
        charged=bill.amount,
        outcome=outcome.value,
        commitment=commitment(salt, bill.receipts),
        at_ms=at_ms,
        hold_id=hold_id,
        cached_input_tokens=bill.cached_input_tokens,
    )
    return sign_receipt(key_pair, network, receipt, salt)
