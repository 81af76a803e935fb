"""The counting rules of unverified models: what a node states always passes the gateway's check."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.openai_types import parse_chat_request
from gateway.peer.admission import quote_job
from gateway.peer.unverified_counts import UnverifiedCounts
from node.upstream.answers import Usage
from node.upstream.counting import AnswerCounts, PaceMeter
from node.upstream.errors import BrokenAnswerError
from node.upstream.facts import UpstreamFacts
from node.upstream.requests import read_request
from p2p.approved_models import UnverifiedModel
from p2p.errors import UntrustedError
from p2p.prices import PriceTerms
from p2p.unverified_usage import counted_input, counted_output, token_ids
from tests.fakes.chat_bodies import chat_bodies

USAGES = st.none() | st.builds(Usage, st.integers(0, 10**6), st.integers(0, 10**6))
PIECES = st.lists(st.text(min_size=1, max_size=700), max_size=30)
MODEL = UnverifiedModel(
    name="big",
    context_tokens=1_000_000,
    input_microcredits_per_million_tokens=1,
    output_microcredits_per_million_tokens=1,
    modalities=("text", "image"),
    image_tokens_max=100,
)


@given(
    pieces=PIECES,
    usage=USAGES,
    input_bytes=st.integers(0, 5000),
    extra=st.integers(0, 500),
    most=st.integers(1, 2000),
)
def test_what_a_node_states_passes_the_gateways_check(
    pieces: list[str], usage: Usage | None, input_bytes: int, extra: int, most: int
) -> None:
    bound = input_bytes + extra
    counts = AnswerCounts(input_bytes=input_bytes, input_bound=bound, output_tokens_max=most)
    checked = UnverifiedCounts()
    checked.accept(bound)
    assert checked.take_input(counts.input_tokens)
    text = ""
    for piece in pieces:
        if counts.full:
            break
        try:
            new = counts.add(piece)
        except BrokenAnswerError:
            return
        text += piece
        checked.take_output(token_ids(new), piece, counts.tokens)
        assert checked.take_input(counts.input_tokens)
    new = counts.finish(usage)
    assert new >= 0
    checked.take_output(token_ids(new), "", counts.tokens)
    assert checked.take_input(counts.input_tokens)
    assert counts.tokens <= min(most, len(text.encode()))
    assert counts.input_tokens <= bound


@given(st.integers(0, 1000), USAGES, st.integers(0, 5000), st.integers(1, 5000))
def test_usage_counts_between_the_bounds(
    counted: int, usage: Usage | None, text_bytes: int, most: int
) -> None:
    counted = min(counted, text_bytes, most)
    said = usage.output_tokens if usage else None
    found = counted_output(counted, said, text_bytes, most)
    assert counted <= found <= max(counted, min(text_bytes, most))
    if said is not None and counted <= said <= min(text_bytes, most):
        assert found == said


def test_without_usage_a_quarter_of_the_bytes_counts() -> None:
    assert counted_output(5, None, 400, 1000) == 100
    assert counted_output(120, None, 400, 1000) == 120
    assert counted_input(3, None, 400) == 100


@pytest.mark.parametrize(
    ("ids", "text", "tokens"), [((0, 0), "a", 2), ((7,), "abc", 1), ((0,), "", 1)]
)
def test_the_gateway_refuses_more_tokens_than_bytes_and_ids(
    ids: tuple[int, ...], text: str, tokens: int
) -> None:
    with pytest.raises(UntrustedError):
        UnverifiedCounts().take_output(ids, text, tokens)


def test_stated_input_only_rises_and_not_above_what_was_accepted() -> None:
    counts = UnverifiedCounts()
    counts.accept(100)
    assert counts.take_input(10)
    assert counts.take_input(90)
    assert not counts.take_input(89)
    assert not counts.take_input(101)


@given(chat_bodies())
def test_a_nodes_bound_is_never_above_the_gateways(body: bytes) -> None:
    request = parse_chat_request(body)
    terms = PriceTerms(1, 1, 1, "big")
    quote = quote_job(MODEL, terms, request.size(), None)
    facts = UpstreamFacts("big", images=True, tools=True)
    ask = read_request(request.for_node(datetime.date(2026, 1, 1)), facts, image_urls=True)
    assert ask.bound(MODEL) <= quote.input_tokens_max
    assert ask.images == request.image_count()


def test_the_pace_is_over_the_time_when_something_ran() -> None:
    pace = PaceMeter()
    assert pace.rate(0.0) == 0.0
    pace.change(+1, 10.0)
    pace.add(50)
    pace.change(-1, 12.0)
    assert pace.rate(100.0) == pytest.approx(25.0)
    pace.change(+1, 100.0)
    pace.add(10_000)
    assert pace.rate(200.0) > 50
