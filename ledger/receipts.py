"""Owns what a capture is worth: from receipts and delivery counts to a charge. Pure.

Theory of operation. A leg is one node's attempt: the node signed what it did (NodeReceipt), the
gateway signed how much of it is chargeable (DeliveryCount). The ledger trusts neither alone: what
is charged is what the gateway countersigned, at most what the node signed, both for the same job,
hold, offer and attempt. The charge is computed here from the hold's price terms, once for the whole
job, and never above the hold.

Input is charged once, to the first attempt with chargeable output, or to a complete answer that is
empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.errors import ChargeError, ReceiptError
from ledger.operations import Leg
from ledger.records import Hold
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.prices import PriceTerms, Split, charge, exact_price, split_charge

COMPLETE_REASONS = ("stop", "length")
"""Finish reasons of a complete answer: with them, input is chargeable even if no token came out."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a capture charges (microcredits) and its parts; `split.nodes` in order of legs."""

    input_tokens: int
    output_tokens: int
    charge: int
    split: Split


def settle(hold: Hold, legs: Sequence[Leg], now_ms: int) -> Settlement:
    """Check the legs of a capture against their hold and compute what they are worth.

    Raises: ReceiptError (a leg that cannot be paid on, with the reason), ChargeError (above the
    hold).
    """
    if not legs:
        raise ReceiptError("a capture needs at least one leg")
    for leg in legs:
        _check_binding(hold, leg)
        _check_counts(leg, now_ms)
    _check_together(legs)
    input_tokens = sum(leg.delivery.input_tokens for leg in legs)
    output_tokens = sum(leg.delivery.output_tokens for leg in legs)
    cached_tokens = sum(leg.delivery.cached_input_tokens for leg in legs)
    total = charge(hold.terms, input_tokens, output_tokens, cached_tokens)
    if total > hold.maximum:
        raise ChargeError(total, hold.maximum)
    weights = tuple(_weight(hold.terms, leg) for leg in legs)
    return Settlement(input_tokens, output_tokens, total, split_charge(total, weights, hold.fees))


def _weight(terms: PriceTerms, leg: Leg) -> int:
    delivery = leg.delivery
    return exact_price(
        terms, delivery.input_tokens, delivery.output_tokens, delivery.cached_input_tokens
    )


def _check_binding(hold: Hold, leg: Leg) -> None:
    receipt, delivery = leg.receipt, leg.delivery
    if receipt.hold_id != hold.hold_id or delivery.hold_id != hold.hold_id:
        raise ReceiptError("a leg belongs to another hold")
    if receipt.job_id != hold.job_id or delivery.job_id != hold.job_id:
        raise ReceiptError("a leg belongs to another job")
    if receipt.gateway_id != hold.gateway_id:
        raise ReceiptError("a receipt was made for another gateway")
    if delivery.node_id != leg.node_id:
        raise ReceiptError("a delivery count names another node than its receipt")
    if receipt.attempt != delivery.attempt:
        raise ReceiptError("receipt and delivery count are of different attempts")
    if receipt.offer_hash != delivery.offer_hash:
        raise ReceiptError("receipt and delivery count are of different offers")
    if receipt.model_digest != hold.model_digest:
        raise ReceiptError("a receipt is for another model than the hold")


def _check_counts(leg: Leg, now_ms: int) -> None:
    receipt, delivery = leg.receipt, leg.delivery
    if delivery.output_tokens > receipt.output_tokens:
        raise ReceiptError(
            f"{delivery.output_tokens} output tokens are counted, "
            f"the node signed {receipt.output_tokens}"
        )
    if delivery.input_tokens > receipt.input_tokens:
        raise ReceiptError(
            f"{delivery.input_tokens} input tokens are counted, "
            f"the node signed {receipt.input_tokens}"
        )
    # What the node says was cached is what the consumer pays less for: no more, and no less.
    cached_tokens = receipt.cached_input_tokens if delivery.input_tokens else 0
    if delivery.cached_input_tokens != min(cached_tokens, delivery.input_tokens):
        raise ReceiptError(
            f"{delivery.cached_input_tokens} input tokens are counted as cached, "
            f"the node signed {receipt.cached_input_tokens}"
        )
    if receipt.at_ms < receipt.started_ms:
        raise ReceiptError("a receipt ends before it starts")
    if receipt.at_ms > now_ms + CLOCK_SKEW_MS_MAX:
        raise ReceiptError("a receipt comes from the future: check the node's clock")
    if delivery.input_tokens and not delivery.output_tokens:
        complete = receipt.final and receipt.finish_reason in COMPLETE_REASONS
        if not (complete and delivery.final and not receipt.output_tokens):
            raise ReceiptError("input is counted without output, and the answer is not complete")


def _check_together(legs: Sequence[Leg]) -> None:
    if len({leg.receipt.attempt for leg in legs}) != len(legs):
        raise ReceiptError("an attempt comes twice")
    if len({leg.receipt.request_hash for leg in legs}) != 1:
        raise ReceiptError("the legs answer different requests")
    charged_input = [leg for leg in legs if leg.delivery.input_tokens]
    if len(charged_input) > 1:
        raise ReceiptError("input is counted more than once")
    for payer in charged_input:
        for leg in legs:
            if leg.delivery.output_tokens and leg.receipt.attempt < payer.receipt.attempt:
                raise ReceiptError("input is not counted at the first attempt with output")
