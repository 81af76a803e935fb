"""Frames of several choices, and logprobs: what the gateway believes of a node."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs import texts_as_one
from gateway.peer.attempt import Attempt, Ending
from gateway.peer.job_output import JobOutput
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.job_messages import (
    OUTPUT_HASH_START,
    Accept,
    AcceptFrame,
    ChoiceState,
    EndFrame,
    NodeReceipt,
    Offer,
    OutputFrame,
    next_output_hash,
)
from p2p.logprob_messages import TokenLogprob, TopLogprob
from p2p.prices import PriceTerms
from p2p.signing import Signed
from tests.fakes.trust import GATEWAY, MODEL_DIGEST, MODEL_ID, NETWORK, NODE

ENTRY = TokenLogprob(b"x", -1.0, (TopLogprob(1, b"x", -1.0), TopLogprob(2, b"y", -2.0)))


class Node:
    """An honest node's side of one attempt."""

    def __init__(self, *, top_logprobs: int | None = None, **changes: Any) -> None:
        fields: dict[str, Any] = {"output_tokens_max": 20, "choices": 2, **changes}
        self.offer = Offer(
            job_id=bytes(16),
            attempt=0,
            gateway_id=GATEWAY.peer_id,
            node_id=NODE.peer_id,
            hold_id=bytes([1]) * 16,
            model_digest=MODEL_DIGEST,
            request_hash=bytes(32),
            request=b"{}",
            input_tokens_max=50,
            terms=PriceTerms(2_000_000, 5_000_000, 1, "tiny-chat"),
            maximum=1000,
            issued_ms=1,
            deadline_ms=2,
            seed=3,
            **fields,
        )
        self.attempt = Attempt(self.offer, GATEWAY.sign(NETWORK, self.offer), 0.0, top_logprobs)
        self.hash = OUTPUT_HASH_START
        self.count = 0
        accept = Accept(bytes(16), 0, self.attempt.offer_hash, 7, 20)
        self.attempt.accept(AcceptFrame(1, NODE.sign(NETWORK, accept)), 0.0)

    def receipt(self) -> Signed:
        offer = self.offer
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
        return NODE.sign(NETWORK, document)

    def output(
        self,
        choice: int,
        count: int,
        finish: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> None:
        """Give so many tokens. Raises: P2PError if the gateway does not believe them."""
        tokens, text = (5,) * count, "x" * count
        several = choice if self.offer.choices > 1 else None
        self.hash = next_output_hash(self.hash, tokens, text, several)
        self.count += count
        frame = OutputFrame(1, tokens, text, self.receipt(), logprobs, choice, finish)
        self.attempt.output(frame, 0.0)

    def end(self, outcome: str = "stop") -> None:
        self.attempt.end(EndFrame(1, outcome, "", self.receipt()), 0.0)


def test_choices_in_any_order() -> None:
    node = Node()
    for choice, count, finish in ((1, 3, ""), (0, 10, "length"), (1, 0, "stop")):
        node.output(choice, count, finish)
    node.end()
    assert (node.attempt.ending, node.attempt.output_tokens) == (Ending.COMPLETE, 13)
    assert node.attempt.verified_receipt(NETWORK) is not None


BAD_FRAMES: list[tuple[dict[str, Any], list[tuple[int, int, str]], type[P2PError]]] = [
    ({}, [(2, 1, "")], MalformedError),
    ({}, [(0, 11, "")], UntrustedError),
    ({}, [(0, 6, ""), (0, 5, "")], UntrustedError),
    ({}, [(0, 1, "stop"), (0, 1, "")], MalformedError),
    ({}, [(0, 1, "sorry")], MalformedError),
    ({"choices": 1}, [(0, 1, "stop")], MalformedError),
    ({"choices": 1}, [(1, 1, "")], MalformedError),
    ({"resume_choices": (ChoiceState(0, (), "stop"),)}, [(0, 1, "")], MalformedError),
    ({"resume_choices": (ChoiceState(1, (1,) * 8),)}, [(1, 3, "")], UntrustedError),
]


@pytest.mark.parametrize(("changes", "frames", "error"), BAD_FRAMES)
def test_frames_that_do_not_belong(
    changes: dict[str, Any], frames: list[tuple[int, int, str]], error: type[P2PError]
) -> None:
    node = Node(**changes)
    for frame in frames[:-1]:
        node.output(*frame)
    with pytest.raises(error):
        node.output(*frames[-1])


def test_the_choice_is_in_the_hash() -> None:
    """Who swaps the texts of two choices breaks the receipt."""
    node = Node()
    hashed = next_output_hash(OUTPUT_HASH_START, (5,), "x", 0)
    assert hashed != next_output_hash(OUTPUT_HASH_START, (5,), "x", 1)
    assert hashed != next_output_hash(OUTPUT_HASH_START, (5,), "x")
    node.hash, node.count = hashed, 1
    with pytest.raises(UntrustedError):
        node.attempt.output(OutputFrame(1, (5,), "x", node.receipt(), (), 1), 0.0)


def test_an_end_before_all_choices_are_over() -> None:
    node = Node()
    node.output(0, 1, "stop")
    with pytest.raises(UntrustedError):
        node.end()


BAD_LOGPROBS: list[tuple[int | None, int, tuple[TokenLogprob, ...]]] = [
    (None, 1, (ENTRY,)),
    (2, 1, ()),
    (2, 2, (ENTRY,)),
    (2, 0, (ENTRY,)),
    (1, 1, (ENTRY,)),
    (0, 1, (ENTRY,)),
]


@pytest.mark.parametrize(("asked", "tokens", "logprobs"), BAD_LOGPROBS)
def test_logprobs_that_were_not_asked_for(
    asked: int | None, tokens: int, logprobs: tuple[TokenLogprob, ...]
) -> None:
    node = Node(choices=1, top_logprobs=asked)
    with pytest.raises(MalformedError):
        node.output(0, tokens, "", logprobs)


def test_logprobs_with_the_texts_of_no_vocabulary() -> None:
    """They are kept, and written as JSON: a node that blows them up is not believed."""
    node = Node(choices=1, top_logprobs=2, output_tokens_max=100)
    long = TokenLogprob(bytes(500), -1.0, tuple(TopLogprob(i, bytes(512), -1.0) for i in (1, 2)))
    node.output(0, 1, "", (long,))
    node.output(0, 1, "", (ENTRY,))
    with pytest.raises(UntrustedError):
        node.output(0, 4, "", (long,) * 4)


def test_logprobs_that_were_asked_for_are_in_no_hash() -> None:
    node = Node(choices=1, top_logprobs=2)
    node.output(0, 2, "", (ENTRY, ENTRY))
    node.output(0, 0)
    assert node.attempt.latest_receipt is not None


def test_old_forms() -> None:
    """What a job of one choice without logprobs sends is what it always was."""
    node = Node(choices=1, output_tokens_max=20)
    offer = msgpack.unpackb(encode_message(node.offer))
    assert len(offer) == 18  # its number, and the fields up to `cache_scope`
    assert decode_message(msgpack.packb(offer[:17]), Offer) == node.offer
    frame = OutputFrame(1, (5,), "x", node.receipt())
    assert len(msgpack.unpackb(encode_message(frame))) == 5
    assert decode_message(encode_message(frame), OutputFrame) == frame


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=20),
    st.booleans(),
)
def test_what_the_next_node_is_told(
    choices: int, frames: list[tuple[int, int, bool]], streaming: bool
) -> None:
    """In any order of frames: tokens of the unfinished choices, nothing of the others."""
    output = JobOutput(choices, streaming=streaming)
    receipt = Signed(b"", bytes(32), bytes(64))
    tokens: dict[int, list[int]] = {choice: [] for choice in range(choices)}
    over: set[int] = set()
    for place, (choice, count, ends) in enumerate(frames):
        if choice >= choices or choice in over:
            continue
        finish = "stop" if ends and choices > 1 else ""
        ids = tuple(range(place, place + count))
        delta = output.take(OutputFrame(1, ids, "x" * count, receipt, (), choice, finish))
        assert (delta is not None) == streaming
        tokens[choice] += ids
        over |= {choice} if finish else set()
    assert output.token_count == sum(map(len, tokens.values()))
    assert output.unfinished == choices - len(over)
    if choices == 1:
        assert (output.resume_tokens, output.resume_choices) == (tuple(tokens[0]), ())
        return
    assert output.resume_tokens == ()
    known = {state.choice: state for state in output.resume_choices}
    for choice in range(choices):
        state = known.get(choice, ChoiceState(choice, ()))
        expected = ((), "stop") if choice in over else (tuple(tokens[choice]), "")
        assert (state.token_ids, state.finish) == expected
    texts = ["x" * len(tokens[choice]) for choice in range(choices)]
    if not streaming:
        assert [ended.text for ended in output.ended()] == texts
    assert texts_as_one(["a", '"']) == '["a","\\""]'
