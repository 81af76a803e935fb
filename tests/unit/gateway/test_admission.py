"""What a job can cost at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ContextLengthError, InvalidRequestError
from gateway.http.openai_types import ChatRequest, parse_chat_request
from gateway.jobs import RequestSize
from gateway.limits import LOGPROBS_PER_JOB_MAX, OUTPUT_TOKENS_PER_JOB_MAX
from gateway.peer.admission import quote_job
from p2p.prices import PriceTerms, charge
from tests.fakes.trust import MODEL

TERMS = PriceTerms(2_000_000, 5_000_000, 1, "tiny-chat")


def test_bounds() -> None:
    quote = quote_job(MODEL, TERMS, RequestSize(100, 2, 30), 50)
    assert quote.input_tokens_max == 100 + 3 * MODEL.template_allowance_tokens + 30
    assert quote.output_tokens_max == 50
    assert quote.maximum == charge(TERMS, quote.input_tokens_max, 50)


def test_default_and_context_bound_the_output() -> None:
    assert quote_job(MODEL, TERMS, RequestSize(1, 1), None).output_tokens_max == 512
    small = MODEL.model_copy(update={"context_tokens": 100})
    quote = quote_job(small, TERMS, RequestSize(10_000, 1), None)
    assert (quote.input_tokens_max, quote.output_tokens_max) == (100, 100)


@pytest.mark.parametrize("max_tokens", [1024, 5000])
def test_no_room_for_a_prompt(max_tokens: int) -> None:
    with pytest.raises(ContextLengthError, match="1024"):
        quote_job(MODEL, TERMS, RequestSize(1, 1), max_tokens)


def test_no_output() -> None:
    with pytest.raises(InvalidRequestError):
        quote_job(MODEL, TERMS, RequestSize(1, 1), 0)


def test_choices_are_paid_for_together() -> None:
    quote = quote_job(MODEL, TERMS, RequestSize(100, 1), 50, choices=4)
    assert (quote.output_tokens_max, quote.output_tokens_sum_max) == (50, 200)
    assert quote.maximum == charge(TERMS, quote.input_tokens_max, 200)
    large = MODEL.model_copy(update={"context_tokens": 200_000})
    quote = quote_job(large, TERMS, RequestSize(1, 1), 60_000, choices=8)
    assert quote.output_tokens_max == OUTPUT_TOKENS_PER_JOB_MAX // 8


def test_logprobs_are_bounded() -> None:
    large = MODEL.model_copy(update={"context_tokens": 200_000})
    most = LOGPROBS_PER_JOB_MAX // 21
    quote_job(large, TERMS, RequestSize(1, 1), most, top_logprobs=20)
    quote_job(large, TERMS, RequestSize(1, 1), most, choices=2, top_logprobs=9)
    for choices, max_tokens in ((1, most + 1), (2, most)):
        with pytest.raises(InvalidRequestError, match="top_logprobs"):
            quote_job(large, TERMS, RequestSize(1, 1), max_tokens, choices, 20)


@given(st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=5))
def test_size_counts_every_byte(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    request = ChatRequest.model_validate({"model": "m", "messages": messages})
    size = request.size()
    assert size.text_bytes == sum(len(text.encode()) for text in texts)
    assert size.messages == len(texts)


def test_size_of_parts_and_tools() -> None:
    body = (
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"abc"},'
        b'{"type":"text","text":"de"}]}],"tools":[{"type":"function","function":{"name":"f",'
        b'"description":"something long"}}]}'
    )
    size = parse_chat_request(body).size()
    assert size.text_bytes >= 5
    assert size.tools_bytes > len("something long")
