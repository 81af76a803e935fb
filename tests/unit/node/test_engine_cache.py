"""The cache of earlier prompts: whose it is, and that it changes no answer."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.runtime.batching import BatchingEngine
from node.runtime.prefixes import common_length
from tests.fakes.engine_bench import EngineBench as Bench
from tests.fakes.engine_bench import demo_engine


@pytest.fixture(scope="module")
def engine() -> BatchingEngine:
    return demo_engine()


@pytest.fixture
def bench(engine: BatchingEngine) -> Iterator[Bench]:
    bench = Bench(engine)
    yield bench
    assert not engine.busy
    assert sorted(engine._free_slots) == list(range(engine.facts.slots))


STORY = "Once upon a time there was a small red house by the sea, and in it lived an old man. " * 2


@pytest.mark.parametrize("seed", range(4))
def test_reused_cache_changes_no_answer(bench: Bench, seed: int) -> None:
    """Conversations that go on: each turn finds the last one in the cache, and answers the same."""
    draw = random.Random(seed)
    for _ in range(3):
        fields = {"temperature": draw.choice([0, 0.8]), "seed": draw.randrange(100)}
        messages = [{"role": "user", "content": STORY[: draw.randrange(80, len(STORY))]}]
        for _ in range(3):
            cold = bench.ask(messages=messages, **fields)
            warm_number = bench.submit(messages=messages, scope=b"account", **fields)
            bench.run()
            warm = bench.answers[warm_number]
            assert warm.tokens == cold.tokens
            assert warm.text == cold.text
            messages = [
                *messages,
                {"role": "assistant", "content": cold.text or "Yes."},
                {"role": "user", "content": draw.choice(["Why?", "And then?", "Who was it?"])},
            ]
    assert bench.engine.stats().cached_tokens > 0


def test_only_the_same_scope_finds_a_prompt_in_the_cache(bench: Bench) -> None:
    messages = [{"role": "user", "content": STORY}]
    first = bench.submit(messages=messages, scope=b"one")
    bench.run()
    for scope in (b"other", b""):
        bench.submit(messages=messages, scope=scope)
        bench.run()
    assert bench.cached == {}
    again = bench.submit(messages=messages, scope=b"one")
    bench.run()
    assert list(bench.cached) == [again]
    prompt = bench.inputs[first]
    assert bench.cached[again] == prompt - 1  # the last token is always computed


def test_caches_give_way_when_slots_are_needed(bench: Bench) -> None:
    slots = bench.engine.facts.slots
    for number in range(3 * slots):
        bench.submit(f"{number} {STORY}", scope=b"%d" % number, output_tokens_max=2)
    bench.run()
    assert all(answer.outcome == "length" for answer in bench.answers.values())
    # The newest are still there.
    bench.submit(f"{3 * slots - 1} {STORY}", scope=b"%d" % (3 * slots - 1), output_tokens_max=2)
    bench.run()
    assert len(bench.cached) == 1


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(0, 40),
)
def test_the_common_length_is_that_of_the_common_beginning(
    first: list[int], second: list[int], shared: int
) -> None:
    first = second[:shared] + first
    expected = next(
        (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    assert common_length(first, second) == expected
