"""One attempt's protocol state: what is believed of a node, and what ends the attempt."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import ACCEPT_TIMEOUT_S, FIRST_TOKEN_TIMEOUT_S, STALL_TIMEOUT_S
from gateway.peer.attempt import Attempt, Ending, Phase
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.job_messages import (
    OUTPUT_HASH_START,
    Accept,
    AcceptFrame,
    EndFrame,
    NodeReceipt,
    Offer,
    OutputFrame,
    RefuseFrame,
    next_output_hash,
)
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.prices import PriceTerms
from p2p.signing import KeyPair, Signed
from tests.fakes.trust import GATEWAY, MODEL_DIGEST, MODEL_ID, NETWORK, NODE, OTHER_NODE

REQUEST = b'{"messages":[]}'
TERMS = PriceTerms(2_000_000, 5_000_000, 1, "tiny-chat")


def make_attempt(**changes: Any) -> Attempt:
    offer = Offer(
        job_id=bytes(16),
        attempt=0,
        gateway_id=GATEWAY.peer_id,
        node_id=NODE.peer_id,
        hold_id=bytes([1]) * 16,
        model_digest=MODEL_DIGEST,
        request_hash=hashlib.sha256(REQUEST).digest(),
        request=REQUEST,
        input_tokens_max=50,
        output_tokens_max=20,
        terms=TERMS,
        maximum=1000,
        issued_ms=1,
        deadline_ms=2,
        seed=3,
    )
    offer = replace(offer, **changes)
    return Attempt(offer, GATEWAY.sign(NETWORK, offer), 100.0)


class Node:
    """An honest node's side of one attempt, with a way to lie."""

    def __init__(self, attempt: Attempt, key_pair: KeyPair = NODE) -> None:
        self.attempt = attempt
        self.key_pair = key_pair
        self.hash = OUTPUT_HASH_START
        self.count = 0

    def accept(self, **changes: Any) -> AcceptFrame:
        offer = self.attempt.offer
        accept = Accept(offer.job_id, offer.attempt, self.attempt.offer_hash, 7, 20)
        return AcceptFrame(1, self.key_pair.sign(NETWORK, replace(accept, **changes)))

    def receipt(self, **changes: Any) -> Signed:
        offer = self.attempt.offer
        document = NodeReceipt(
            job_id=offer.job_id,
            attempt=offer.attempt,
            offer_hash=self.attempt.offer_hash,
            hold_id=offer.hold_id,
            gateway_id=offer.gateway_id,
            request_hash=offer.request_hash,
            model_digest=offer.model_digest,
            model_id=MODEL_ID,
            output_hash=self.hash,
            input_tokens=7,
            output_tokens=self.count,
            started_ms=0,
            at_ms=0,
            final=False,
            finish_reason="",
            seed=offer.seed,
        )
        return self.key_pair.sign(NETWORK, replace(document, **changes))

    def output(self, tokens: tuple[int, ...], text: str, **changes: Any) -> OutputFrame:
        self.hash = next_output_hash(self.hash, tokens, text)
        self.count += len(tokens)
        return OutputFrame(1, tokens, text, self.receipt(**changes))


def accepted(**changes: Any) -> tuple[Attempt, Node]:
    attempt = make_attempt(**changes)
    node = Node(attempt)
    attempt.accept(node.accept(), 101.0)
    return attempt, node


@given(st.lists(st.lists(st.integers(0, 2**31), min_size=1, max_size=5), min_size=1, max_size=4))
def test_honest_output_in_any_frames(frames: list[list[int]]) -> None:
    attempt, node = accepted()
    for tokens in frames:
        attempt.output(node.output(tuple(tokens), "x" * len(tokens)), 102.0)
    attempt.end(EndFrame(1, "stop", "", node.receipt(final=True, finish_reason="stop")), 102.0)
    assert attempt.ending is Ending.COMPLETE
    assert attempt.output_tokens == sum(map(len, frames))
    receipt = attempt.verified_receipt(NETWORK)
    assert receipt is not None
    assert attempt.verified_receipt(NETWORK) is receipt


@pytest.mark.parametrize(
    "lie",
    [
        {"output_hash": bytes(32)},
        {"output_tokens": 99},
        {"input_tokens": 8},
        {"offer_hash": bytes(32)},
        {"job_id": bytes([9]) * 16},
        {"attempt": 1},
        {"hold_id": bytes(16)},
        {"gateway_id": OTHER_NODE.peer_id},
        {"request_hash": bytes(32)},
        {"model_digest": bytes(32)},
        {"started_ms": 1, "at_ms": 0},
        {"at_ms": 3_003 + CLOCK_SKEW_MS_MAX},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_each_lie_in_a_receipt(lie: dict[str, Any]) -> None:
    attempt, node = accepted()
    attempt.output(node.output((1, 2), "ab"), 102.0)
    with pytest.raises(UntrustedError):
        attempt.output(node.output((3,), "c", **lie), 103.0)
    # What came before is still good, and is what would be settled on.
    assert attempt.output_tokens == 2
    assert attempt.verified_receipt(NETWORK) is not None


def test_receipt_signed_by_somebody_else() -> None:
    attempt, _ = accepted()
    stranger = Node(attempt, OTHER_NODE)
    attempt.output(stranger.output((1,), "a"), 102.0)
    assert attempt.verified_receipt(NETWORK) is None


def test_accept_of_another_offer() -> None:
    for lie in ({"offer_hash": bytes(32)}, {"attempt": 3}, {"input_tokens": 51}):
        attempt = make_attempt()
        with pytest.raises(UntrustedError):
            attempt.accept(Node(attempt).accept(**lie), 101.0)


def test_frames_out_of_order() -> None:
    attempt = make_attempt()
    node = Node(attempt)
    with pytest.raises(MalformedError):
        attempt.output(node.output((1,), "a"), 101.0)
    attempt, node = accepted()
    with pytest.raises(MalformedError):
        attempt.accept(node.accept(), 101.0)
    attempt.output(node.output((1,), "a"), 101.0)
    with pytest.raises(MalformedError):
        attempt.refuse(RefuseFrame(1, "busy", ""))
    attempt.end(EndFrame(1, "stop", "", node.receipt()), 102.0)
    with pytest.raises(MalformedError):
        attempt.output(node.output((1,), "a"), 101.0)


def test_too_much_output() -> None:
    attempt, node = accepted()
    with pytest.raises(UntrustedError, match="more output"):
        attempt.output(node.output(tuple(range(21)), "a"), 102.0)
    attempt, node = accepted(resume_tokens=tuple(range(15)))
    with pytest.raises(UntrustedError, match="more output"):
        attempt.output(node.output(tuple(range(6)), "a"), 102.0)
    attempt, node = accepted()
    with pytest.raises(UntrustedError, match="more text"):
        attempt.output(node.output((1,), "a" * 10_000), 102.0)
    attempt, node = accepted()
    frame = node.output((1,), "a")
    with pytest.raises(P2PError):
        attempt.output(replace(frame, token_ids=(-1,)), 102.0)


def test_complete_without_a_receipt() -> None:
    attempt, _ = accepted()
    with pytest.raises(UntrustedError):
        attempt.end(EndFrame(1, "stop", ""), 102.0)


@pytest.mark.parametrize(
    ("final", "reason", "believed"),
    [(True, "stop", True), (True, "length", True), (True, "tool_calls", False), (False, "", False)],
)
def test_an_empty_answer_needs_the_receipt_that_the_ledger_wants(
    final: bool, reason: str, believed: bool
) -> None:
    """Else the capture of its input would be refused, and the client's credit stay held."""
    attempt, node = accepted()
    end = EndFrame(1, "stop", "", node.receipt(final=final, finish_reason=reason))
    if believed:
        attempt.end(end, 102.0)
        assert attempt.ending is Ending.COMPLETE
    else:
        with pytest.raises(UntrustedError, match="final receipt"):
            attempt.end(end, 102.0)


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [
        ("stop", Ending.COMPLETE),
        ("length", Ending.COMPLETE),
        ("cancelled", Ending.CANCELLED),
        ("failed", Ending.FAILED),
        ("nonsense", Ending.FAILED),
    ],
)
def test_endings(outcome: str, ending: Ending) -> None:
    attempt, node = accepted()
    attempt.output(node.output((1,), "a"), 102.0)
    attempt.end(EndFrame(1, outcome, "", node.receipt()), 102.0)
    assert attempt.ending is ending
    assert attempt.phase is Phase.OVER
    attempt.fail(Ending.LOST, "later")  # too late: nothing changes
    attempt.end(EndFrame(1, "stop", ""), 102.0)
    assert attempt.ending is ending


def test_refusal() -> None:
    attempt = make_attempt()
    attempt.refuse(RefuseFrame(1, "busy", "full", 1500, 3, 4))
    assert attempt.ending is Ending.REFUSED
    assert attempt.refusal is not None
    assert attempt.refusal.retry_after_ms == 1500


def test_deadlines() -> None:
    attempt = make_attempt()
    node = Node(attempt)
    assert attempt.overdue(100 + ACCEPT_TIMEOUT_S) is None
    assert attempt.overdue(101 + ACCEPT_TIMEOUT_S) is not None
    attempt.accept(node.accept(), 200.0)
    assert attempt.overdue(200 + FIRST_TOKEN_TIMEOUT_S) is None
    assert attempt.overdue(202 + FIRST_TOKEN_TIMEOUT_S) is not None
    attempt.output(node.output((1,), "a"), 300.0)
    assert attempt.overdue(300 + STALL_TIMEOUT_S) is None
    attempt.output(node.output((), ""), 300 + STALL_TIMEOUT_S)
    assert attempt.overdue(301 + STALL_TIMEOUT_S) is not None
    attempt.fail(Ending.LOST, "gone")
    assert attempt.overdue(10_000) is None
