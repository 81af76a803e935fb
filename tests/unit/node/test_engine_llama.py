"""The engine with the demo model: what it answers, and what it may not depend on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.errors import ModelFileError, RuntimeRefusedError
from node.runtime.batching import BatchingEngine
from node.runtime.engine import EngineSettings
from node.runtime.llama.engine import open_engine
from tests.fakes.engine_bench import MODEL, demo_engine
from tests.fakes.engine_bench import EngineBench as Bench


@pytest.fixture(scope="module")
def engine() -> BatchingEngine:
    return demo_engine()


@pytest.fixture
def bench(engine: BatchingEngine) -> Iterator[Bench]:
    bench = Bench(engine)
    yield bench
    assert not engine.busy
    assert sorted(engine._free_slots) == list(range(engine.facts.slots))


def test_it_answers(bench: Bench) -> None:
    answer = bench.ask()
    assert answer.text == "The capital of France is Paris."
    assert answer.outcome == "stop"
    assert len(answer.tokens) == len(answer.texts)


def test_facts(bench: Bench) -> None:
    facts = bench.engine.facts
    assert (facts.context_tokens, facts.slots, facts.threads) == (1024, 4, 1)
    assert facts.vocabulary_size == 1280
    assert facts.reproducible
    assert "llama-cpp-python" in facts.build_info


QUESTIONS = [
    "What is the capital of France?",
    "Tell me a story.",
    "Count from 1 to 20.",
    "Hello",
    "What is 12 * 11?",
    "What is Resultity?",
    "Tell me a story about a cat.",
    "Anna is 7 years old. Return JSON.",
]


def test_answers_do_not_depend_on_the_batch(bench: Bench) -> None:
    options = [{"temperature": 0 if i % 2 else 1.0, "seed": 100 + i} for i in range(8)]
    alone = [bench.ask(q, **o) for q, o in zip(QUESTIONS, options, strict=True)]
    numbers = [bench.submit(q, **o) for q, o in zip(QUESTIONS, options, strict=True)]
    assert bench.engine.stats().waiting == 8
    bench.run()
    together = [bench.answers[number] for number in numbers]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_jobs_join_a_running_batch(bench: Bench) -> None:
    alone = bench.ask("Count from 1 to 20.").text
    first = bench.submit("Count from 1 to 20.")
    for _ in range(5):
        bench.step()
    second = bench.submit("What is the capital of France?")
    bench.run()
    assert bench.answers[first].text == alone
    assert bench.answers[second].text == "The capital of France is Paris."


def test_a_long_prompt_does_not_stall_a_short_one(bench: Bench) -> None:
    long = bench.submit("tell " * 800, output_tokens_max=4)
    short = bench.submit("What is the capital of France?")
    steps = 0
    while not bench.answers[short].tokens:
        bench.step()
        steps += 1
    assert steps <= 2
    assert not bench.answers[long].tokens
    bench.run()
    assert bench.answers[long].outcome == "length"


def test_seeds_decide(bench: Bench) -> None:
    def story(seed: int) -> str:
        return bench.ask("Tell me a story.", temperature=1.2, seed=seed).text

    assert story(5) == story(5)
    assert len({story(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 1.3, "seed": 4, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 1.0, "seed": 5, "frequency_penalty": 1.5, "presence_penalty": 1.0},
        {"temperature": 0.7, "seed": 6, "stop": [" good friends", "zebra"]},
    ],
    ids=["greedy", "seeded", "cut", "penalties", "stop"],
)
def test_resuming_at_every_k_equals_the_uninterrupted_run(
    bench: Bench, options: dict[str, Any]
) -> None:
    whole = bench.ask("Tell me a story.", output_tokens_max=30, **options)
    assert len(whole.tokens) > 8
    numbers = {}
    for k in range(len(whole.tokens)):
        resume = tuple(whole.tokens[:k])
        numbers[k] = bench.submit(
            "Tell me a story.", output_tokens_max=30, resume=resume, **options
        )
    bench.run()
    for k, number in numbers.items():
        rest = bench.answers[number]
        assert rest.tokens == whole.tokens[k:], k
        assert "".join(whole.texts[:k]) + rest.text == whole.text, k
        assert rest.outcome == whole.outcome


def test_resuming_at_the_very_end_only_ends(bench: Bench) -> None:
    whole = bench.ask("Count from 1 to 20.", output_tokens_max=6)
    assert whole.outcome == "length"
    rest = bench.ask("Count from 1 to 20.", output_tokens_max=6, resume=tuple(whole.tokens))
    assert (rest.tokens, rest.text, rest.outcome) == ([], "", "length")


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer"},
        "colour": {"enum": ["red", "blue"]},
    },
    "required": ["name", "age", "colour"],
    "additionalProperties": False,
}
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_output_follows_a_json_schema_and_resumes(bench: Bench, temperature: float) -> None:
    options: dict[str, Any] = {"temperature": temperature, "response_format": BY_SCHEMA, "seed": 9}
    whole = bench.ask("Anna is 7 years old. Return JSON.", **options)
    assert whole.outcome == "stop"
    assert set(json.loads(whole.text)) == {"name", "age", "colour"}
    for k in range(1, len(whole.tokens), 3):
        resume = tuple(whole.tokens[:k])
        rest = bench.ask("Anna is 7 years old. Return JSON.", resume=resume, **options)
        assert rest.tokens == whole.tokens[k:]


def test_any_json_object(bench: Bench) -> None:
    answer = bench.ask(
        "Tell me a story.", response_format={"type": "json_object"}, output_tokens_max=200
    )
    if answer.outcome == "stop":
        json.loads(answer.text)
    assert answer.text.startswith("{")


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$ref": "#/nowhere"},
        {"type": "nonsense"},
    ],
)
def test_impossible_schemas_are_refused(bench: Bench, schema: dict[str, Any], capfd: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    with pytest.raises(RuntimeRefusedError) as caught:
        bench.submit("Hi", response_format=wanted)
    assert caught.value.code == "bad_request"
    assert "::=" not in capfd.readouterr().err


def test_tokens_that_cannot_be_resumed_are_refused(bench: Bench) -> None:
    for resume in [(5000,), (3,), (-1,)]:
        with pytest.raises(RuntimeRefusedError, match="resume"):
            bench.submit("Hi", resume=resume)
    story = tuple(bench.ask("Tell me a story.").tokens[:4])
    with pytest.raises(RuntimeRefusedError, match="resume"):
        bench.submit("Hi", resume=story, response_format=BY_SCHEMA)
    with pytest.raises(RuntimeRefusedError, match="resume"):
        bench.submit("Hi", resume=story, output_tokens_max=3)


def test_stop_strings_cut_the_answer(bench: Bench) -> None:
    answer = bench.ask(stop=["France is", "nothing"])
    assert (answer.text, answer.outcome) == ("The capital of ", "stop")
    assert bench.ask(stop=" Paris.!").text == "The capital of France is Paris."


def test_length_is_bounded(bench: Bench) -> None:
    answer = bench.ask("Count from 1 to 20.", output_tokens_max=5)
    assert (len(answer.tokens), answer.outcome) == (5, "length")
    assert len(bench.ask("Count from 1 to 20.", max_tokens=3).tokens) == 3


def test_logit_bias_bans_and_forces(bench: Bench) -> None:
    first = bench.ask().tokens[0]
    assert bench.ask(logit_bias={str(first): -100}, output_tokens_max=1).tokens != [first]
    forced = bench.ask(logit_bias={"500": 100}, output_tokens_max=2).tokens
    assert forced == [500, 500]
    with pytest.raises(RuntimeRefusedError, match="1280"):
        bench.submit(logit_bias={"1280": 1})


def test_penalties_change_the_answer(bench: Bench) -> None:
    plain = bench.ask("Count from 1 to 20.").tokens
    assert bench.ask("Count from 1 to 20.", frequency_penalty=2).tokens != plain


def test_cancel_frees_the_slot(bench: Bench) -> None:
    running = [bench.submit("Tell me a story.") for _ in range(4)]
    waiting = bench.submit("Tell me a story.")
    late = bench.submit("What is the capital of France?")
    bench.step()
    bench.engine.cancel(running[0])
    bench.engine.cancel(waiting)
    bench.engine.cancel(424242)
    bench.step()
    assert bench.answers[running[0]].outcome == "cancelled"
    assert bench.answers[waiting].outcome == "cancelled"
    assert bench.answers[waiting].tokens == []
    bench.step()
    assert bench.answers[late].tokens
    bench.run()
    assert bench.answers[late].text == "The capital of France is Paris."


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(bench: Bench) -> None:
    with pytest.raises(RuntimeRefusedError) as caught:
        bench.submit("tell " * 2000)
    error = caught.value
    assert error.code == "context_length_exceeded"
    assert error.context_tokens == 1024
    assert error.input_tokens > 2000
    assert str(error.input_tokens) in error.reason
    assert "1024" in error.reason


def test_the_context_bounds_the_output(bench: Bench) -> None:
    answer = bench.ask("tell " * 990, output_tokens_max=1000, logit_bias={"3": -100})
    assert answer.outcome == "length"
    assert 0 < len(answer.tokens) < 34


def test_tools_are_rendered(bench: Bench) -> None:
    function = {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}}
    answer = bench.ask("Weather in Paris?", tools=[{"type": "function", "function": function}])
    assert json.loads(answer.text) == {"name": "get_weather", "arguments": {"city": "Paris"}}


def test_unicode_passes_through(bench: Bench) -> None:
    answer = bench.ask("Héllo wörld 你好 🙂", temperature=2.0, seed=11, output_tokens_max=200)
    assert answer.text.encode().decode() == answer.text


def test_a_file_that_llama_cannot_load(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(MODEL.read_bytes()[:50_000])
    with pytest.raises(ModelFileError, match=r"broken\.gguf"):
        open_engine(EngineSettings(str(path), slots=1, context_tokens=128, threads=1))


def test_random_joins_and_cancels_change_nobody_elses_answer(bench: Bench) -> None:
    """Also with holes in the cache: a cache shared by all sequences fails here."""
    choose = random.Random(4)
    options = [
        {
            "question": choose.choice([*QUESTIONS, "tell " * 150]),
            "seed": choose.randrange(2**32),
            "temperature": choose.choice([0, 0.7, 1.2]),
        }
        for _ in range(100)
    ]
    numbers: list[int] = []
    while len(numbers) < len(options) or bench.engine.busy:
        if len(numbers) < len(options) and choose.random() < 0.4:
            numbers.append(bench.submit(**options[len(numbers)]))
        if numbers and choose.random() < 0.05:
            bench.engine.cancel(choose.choice(numbers))
        bench.step()
    for number, option in zip(numbers, options, strict=True):
        mixed, alone = bench.answers[number], bench.ask(**option)
        if mixed.outcome == "cancelled":
            assert alone.tokens[: len(mixed.tokens)] == mixed.tokens
        else:
            assert (mixed.tokens, mixed.text) == (alone.tokens, alone.text)
            assert mixed.outcome == alone.outcome


def test_control_tokens_are_counted_before_they_are_cut_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's time for them grows with their square: a request's worth took it 6 s."""
    bench.ask("<|im_start|>x" * 200)
    with pytest.raises(RuntimeRefusedError, match="60003 control tokens alone") as refused:
        bench.submit("<|im_start|>x" * 60_000)
    assert refused.value.code == "context_length_exceeded"
    monkeypatch.setattr("node.runtime.llama.model.PROMPT_CONTROL_TOKENS_MAX", 100)
    with pytest.raises(RuntimeRefusedError, match="too many") as refused:
        bench.submit("<|im_end|>" * 200)
    assert refused.value.code == "bad_request"
