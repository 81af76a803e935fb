"""Logprobs and the choices of one request in the engine, with the demo model."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.runtime.batching import BatchingEngine
from node.runtime.engine import JobRequest, Output
from node.runtime.llama.logprobs import logprobs_of
from p2p.job_messages import choice_seed
from p2p.logprob_messages import LOGPROB_MIN, TokenLogprob
from tests.fakes.engine_bench import EngineBench as Bench
from tests.fakes.engine_bench import demo_engine

SOAK = os.environ.get("RESULTITY_SOAK") == "1"
STORY = "Tell me a story of a small red house by the sea and of the old man who lives in it."

TALK = [
    {"role": "user", "content": "Tell me a story."},
    {"role": "assistant", "content": "Once there was a small red house by the sea."},
    {"role": "user", "content": "Tell me a story about a cat."},
]


@pytest.fixture(scope="module")
def engine() -> BatchingEngine:
    return demo_engine()


@pytest.fixture
def bench(engine: BatchingEngine) -> Iterator[Bench]:
    bench = Bench(engine)
    yield bench
    assert not engine.busy
    assert sorted(engine._free_slots) == list(range(engine.facts.slots))


# --- logprobs -----------------------------------------------------------------------------------
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40), st.integers(0, 25), st.data()
)
def test_logprobs_are_a_log_softmax(logits: list[float], top: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    own, best = logprobs_of(numpy.array(logits, dtype=numpy.float32), token, top)
    norm = math.log(math.fsum(math.exp(logit) for logit in logits))
    assert own == pytest.approx(logits[token] - norm, abs=2e-6)
    order = sorted(range(len(logits)), key=lambda index: (-logits[index], index))[:top]
    assert [index for index, _ in best] == order
    assert [value for _, value in best] == pytest.approx(
        [logits[index] - norm for index in order], abs=2e-6
    )


def test_an_impossible_token_has_a_finite_logprob() -> None:
    own, best = logprobs_of(numpy.array([0.0, -math.inf], dtype=numpy.float32), 1, 2)
    assert (own, best) == (LOGPROB_MIN, [(0, 0.0), (1, LOGPROB_MIN)])


def outputs_of(engine: BatchingEngine, resume: tuple[int, ...] = (), **fields: Any) -> list[Output]:
    body = {"messages": [{"role": "user", "content": "Tell me a story."}], **fields}
    request = json.dumps(body).encode()
    engine.start(engine.prepare(JobRequest(1, request, 30, 7, resume)))
    outputs = []
    while engine.busy:
        outputs += engine.step().outputs
    return outputs


def logprobs(outputs: list[Output]) -> list[TokenLogprob]:
    return [entry for output in outputs for entry in output.logprobs]


def test_logprobs_are_told_and_change_nothing(bench: Bench) -> None:
    plain = outputs_of(bench.engine, temperature=0.9)
    asked = outputs_of(bench.engine, temperature=0.9, logprobs=True, top_logprobs=4)
    assert [(one.token_ids, one.text) for one in asked] == [
        (one.token_ids, one.text) for one in plain
    ]
    assert not logprobs(plain)
    for output in asked:
        assert len(output.logprobs) == len(output.token_ids)
        for token, entry in zip(output.token_ids, output.logprobs, strict=True):
            assert entry.data == bench.engine.model.piece(token)
            values = [top.logprob for top in entry.top]
            assert values == sorted(values, reverse=True)
            assert len(values) == 4
            assert entry.logprob <= values[0] <= 0
            assert all(entry.logprob == t.logprob for t in entry.top if t.token_id == token)


def test_logprobs_are_those_before_the_settings(bench: Bench) -> None:
    """Temperature, bias and grammar choose other tokens; what the model thought stays."""
    greedy = outputs_of(bench.engine, temperature=0, logprobs=True, top_logprobs=2)
    first = greedy[0].token_ids[0]
    biased = outputs_of(
        bench.engine, temperature=0, logprobs=True, logit_bias={str(first): -100}, top_logprobs=2
    )
    assert biased[0].token_ids[0] != first
    assert biased[0].logprobs[0].top == greedy[0].logprobs[0].top
    bound = outputs_of(
        bench.engine, logprobs=True, top_logprobs=2, response_format={"type": "json_object"}
    )
    assert bound[0].text.startswith("{")
    assert bound[0].logprobs[0].top == greedy[0].logprobs[0].top


def test_logprobs_of_a_resumed_answer_go_on(bench: Bench) -> None:
    fields = {"temperature": 1.0, "logprobs": True, "top_logprobs": 2}
    whole = outputs_of(bench.engine, **fields)
    tokens = [token for output in whole for token in output.token_ids]
    for count in range(0, len(tokens), 5):
        rest = outputs_of(bench.engine, tuple(tokens[:count]), **fields)
        assert logprobs(rest) == logprobs(whole)[count:]


# --- choices ------------------------------------------------------------------------------------
def choices_of(bench: Bench, count: int, scope: bytes, **fields: Any) -> list[int]:
    """Submit the choices of one request as the agent does."""
    return [
        bench.submit(scope=scope, seed=choice_seed(5, choice), **{"n": count, **fields})
        for choice in range(count)
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.0},
        {"temperature": 1.2, "top_k": 20, "frequency_penalty": 1.0},
        {"temperature": 1.0, "stop": [" friends", "zebra"]},
        {"temperature": 1.0, "output_tokens_max": 3},
    ],
    ids=["plain", "settings", "stop", "length"],
)
def test_choices_are_what_each_would_be_alone(bench: Bench, fields: dict[str, Any]) -> None:
    asked = {"messages": TALK, "logprobs": True, **fields}
    alone = [bench.ask(seed=choice_seed(5, choice), **asked) for choice in range(4)]
    scope = repr(fields).encode()[:16]
    together = [bench.answers[number] for number in choices_of_run(bench, 4, scope, **asked)]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.outcome for answer in together] == [answer.outcome for answer in alone]
    assert len({tuple(answer.tokens) for answer in together}) > 1 or "output_tokens_max" in fields


def choices_of_run(bench: Bench, count: int, scope: bytes, **fields: Any) -> list[int]:
    numbers = choices_of(bench, count, scope, **fields)
    bench.run()
    return numbers


def test_their_prompt_is_computed_once(bench: Bench) -> None:
    before = bench.engine.stats().prefill_tokens
    numbers = choices_of_run(bench, 4, b"once", question=STORY, temperature=1.0)
    inputs = bench.inputs[numbers[0]]
    assert bench.engine.stats().prefill_tokens - before == inputs
    assert [bench.cached.get(number, 0) for number in numbers] == [0] + [inputs - 1] * 3


def test_nothing_is_copied_across_scopes(bench: Bench) -> None:
    numbers = [bench.submit(STORY, scope=scope) for scope in (b"one", b"two", b"", b"")]
    bench.run()
    assert not any(number in bench.cached for number in numbers)


def test_choices_that_wait_let_others_pass(bench: Bench) -> None:
    """While a long prompt is computed its other choices wait, without a slot."""
    long = "tell " * 600
    numbers = choices_of(bench, 3, b"long", question=long, output_tokens_max=4)
    other = bench.submit("What is the capital of France?", scope=b"short")
    for _ in range(3):
        bench.step()
    assert bench.engine.stats().running == 2
    assert bench.engine.stats().waiting == 2
    bench.run()
    assert bench.answers[other].text == "The capital of France is Paris."
    assert len({bench.answers[number].text for number in numbers}) == 1


def test_a_cancelled_first_choice_leaves_the_others_whole(bench: Bench) -> None:
    asked = {"question": STORY * 3, "temperature": 1.0, "output_tokens_max": 12}
    alone = [bench.ask(seed=choice_seed(5, choice), **asked) for choice in range(3)]
    for steps in range(6):
        numbers = choices_of(bench, 3, b"c%d" % steps, **asked)
        for _ in range(steps):
            bench.step()
        bench.engine.cancel(numbers[0])
        bench.run()
        assert bench.answers[numbers[0]].outcome == "cancelled"
        for choice in (1, 2):
            assert bench.answers[numbers[choice]].tokens == alone[choice].tokens


@pytest.mark.parametrize("seed", range(300) if SOAK else range(3))
def test_random_jobs_of_few_scopes_answer_as_alone(bench: Bench, seed: int) -> None:
    draw = random.Random(seed)
    asked, numbers = [], []
    for _ in range(24):
        fields = {
            "question": STORY[: draw.choice([20, 60, len(STORY)])] + draw.choice(["", " Why?"]),
            "seed": draw.randrange(4),
            "temperature": draw.choice([0, 1.0]),
            "output_tokens_max": draw.randrange(1, 12),
        }
        numbers.append(bench.submit(scope=draw.choice([b"", b"a", b"b"]), **fields))
        asked.append(fields)
        for _ in range(draw.randrange(3)):
            bench.step()
    bench.run()
    for fields, number in zip(asked, numbers, strict=True):
        alone = bench.ask(**fields)
        assert bench.answers[number].tokens == alone.tokens
        assert bench.answers[number].outcome == alone.outcome
