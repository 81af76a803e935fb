"""What an embeddings job may ask of a model, what it can cost, and how long a node may think."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ContextLengthError, UnsupportedError, WrongTaskError
from gateway.http.embedding_types import EmbeddingsRequest
from gateway.jobs import ChatJob, RequestSize
from gateway.limits import FIRST_TOKEN_TIMEOUT_S, STALL_TIMEOUT_S
from gateway.peer.attempt import Attempt, Phase
from gateway.peer.embedding_jobs import check_task, expected_vectors, quote_embeddings
from gateway.peer.routing import Candidate, Wanted, choose
from p2p.api_keys import ApiKey
from p2p.embeddings import CHAT, EMBEDDINGS, VectorLines
from p2p.prices import PriceTerms, charge
from p2p.types import PeerId
from tests.fakes.job_desk import Desk
from tests.fakes.ledger import api_key
from tests.fakes.trust import GATEWAY, MODEL, NETWORK

TERMS = PriceTerms(2_000_000, 5_000_000, 1, "tiny-chat")
EMBEDDER = MODEL.model_copy(update={"tasks": (EMBEDDINGS,), "embedding_dimensions": (64, 32)})


def job(value: Any = "text", **fields: Any) -> ChatJob:
    key: ApiKey = api_key()
    request = EmbeddingsRequest(model="tiny-chat", input=value, **fields)
    return request.job(job_id=bytes(16), key=key, body=b"{}", source="")


def test_only_who_says_so_accepts_unverified_models() -> None:
    assert not job().accept_unverified
    assert not job(resultity={}).accept_unverified
    assert job(resultity={"accept_unverified": True}).accept_unverified


@given(st.lists(st.text("aé漢", min_size=1, max_size=30), min_size=1, max_size=9))
def test_every_byte_may_be_a_token_and_no_more(texts: list[str]) -> None:
    made = job(texts)
    quote = quote_embeddings(EMBEDDER, TERMS, made.size)
    room = MODEL.template_allowance_tokens * len(texts)
    assert quote.input_tokens_max == sum(len(text.encode()) for text in texts) + room
    assert quote.output_tokens_max == quote.output_tokens_sum_max == 0
    assert quote.maximum == charge(TERMS, quote.input_tokens_max, 0)


def test_no_input_is_longer_than_the_context() -> None:
    quote = quote_embeddings(EMBEDDER, TERMS, RequestSize(700_000, 2))
    assert quote.input_tokens_max == 2 * MODEL.context_tokens
    wide = MODEL.model_copy(update={"context_tokens": 9_000_000, "template_allowance_tokens": 8000})
    with pytest.raises(ContextLengthError):
        quote_embeddings(wide, TERMS, RequestSize(700_000, 2048))


def test_tasks_and_dimensions() -> None:
    check_task(job(), EMBEDDER)
    check_task(job(dimensions=32), EMBEDDER)
    with pytest.raises(UnsupportedError, match="64, 32 are possible"):
        check_task(job(dimensions=16), EMBEDDER)
    with pytest.raises(WrongTaskError, match="v1/chat/completions"):
        check_task(job(), MODEL)
    with pytest.raises(WrongTaskError, match="v1/embeddings"):
        check_task(replace(job(), task=CHAT), EMBEDDER)


def test_a_chat_expects_no_vectors() -> None:
    assert isinstance(expected_vectors(job(["a", "b"])), VectorLines)
    assert expected_vectors(replace(job(), task=CHAT)) is None


def test_only_nodes_that_offer_the_task_are_chosen() -> None:
    chats, both = (
        Candidate(PeerId(name), b"m", b"i", 1024, 4, tasks=tasks, connected=True)
        for name, tasks in (("a", (CHAT,)), ("b", (CHAT, EMBEDDINGS)))
    )
    wanted = Wanted(b"m", 1, task=EMBEDDINGS)
    found = choose(wanted, [chats, both], tried=(), now_s=0, now_ms=0)
    assert found.candidate is both
    assert found.removed == {"task": 1}


def test_one_long_text_is_one_silence() -> None:
    offer = Desk().offer(task=EMBEDDINGS, output_tokens_max=0)
    signed = GATEWAY.sign(NETWORK, offer)
    plain = Attempt(offer, signed, 0.0)
    vectors = Attempt(offer, signed, 0.0, None, VectorLines(3))
    for attempt in (plain, vectors):
        attempt.phase, attempt.input_tokens = Phase.STREAMING, 10_000
    late_s = STALL_TIMEOUT_S + 1
    assert plain.overdue(late_s) == "no output for a long time"
    assert vectors.overdue(late_s) is None
    assert vectors.overdue(FIRST_TOKEN_TIMEOUT_S + 201) == "no output for a long time"
