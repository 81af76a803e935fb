"""Embeddings with the demo model and with a tiny encoder: what a vector may not depend on."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import trio

from node.errors import ModelFileError, RuntimeRefusedError
from node.model_file import read_model_file
from node.runtime.engine import EngineSettings, JobRequest
from node.runtime.llama.engine import open_task_engine
from node.runtime.task_engine import TaskEngine
from node.runtime_process import RuntimeProcess, runtime_command
from p2p.embeddings import VectorLines, request_json, vector_numbers
from tests.fakes.engine_bench import MODEL
from tests.fakes.tiny_bert import CLS, LAST, MEAN, RANK, some_text, write_tiny_bert

SOAK = os.environ.get("RESULTITY_SOAK") == "1"
TEXTS = [
    "What is the capital of France?",
    "What is the capital of Spain?",
    "2 + 2",
    "Tell me a story about a cat. " * 60,
    "Hello",
]


class Bench:
    """Runs jobs of both tasks on one engine."""

    def __init__(self, engine: TaskEngine) -> None:
        self.engine = engine
        self.texts: dict[int, str] = {}
        self.ends: dict[int, str] = {}
        self.inputs: dict[int, int] = {}
        self.number = 0

    def submit(self, inputs: list[Any], **fields: Any) -> int:
        return self._submit({"input": inputs, **fields}, "embeddings", 0)

    def chat(self, question: str, tokens: int = 40) -> int:
        messages = [{"role": "user", "content": question}]
        return self._submit({"messages": messages, "temperature": 0}, "chat", tokens)

    def _submit(self, request: dict[str, Any], task: str, tokens: int) -> int:
        self.number += 1
        data = json.dumps(request).encode()
        job = self.engine.prepare(JobRequest(self.number, data, tokens, 1, task=task))
        self.inputs[self.number] = job.input_tokens
        self.texts[self.number] = ""
        self.engine.start(job)
        return self.number

    def step(self) -> set[int]:
        """One step; gives the jobs that had output."""
        result = self.engine.step()
        for output in result.outputs:
            assert output.number not in self.ends
            self.texts[output.number] += output.text
        for end in result.ends:
            assert end.number not in self.ends
            self.ends[end.number] = end.outcome
        return {output.number for output in result.outputs}

    def run(self) -> None:
        while self.engine.busy:
            self.step()

    def embed(self, inputs: list[Any], **fields: Any) -> list[str]:
        number = self.submit(inputs, **fields)
        self.run()
        assert self.ends[number] == "stop"
        VectorLines(len(inputs), fields.get("dimensions")).take(self.texts[number])
        return self.texts[number].split()


def open_model(path: Path, **options: Any) -> TaskEngine:
    settings = {"slots": 4, "context_tokens": 1024, "threads": 1, **options}
    return open_task_engine(EngineSettings(str(path), **settings))


@pytest.fixture(scope="module")
def engine() -> TaskEngine:
    return open_model(MODEL)


@pytest.fixture
def bench(engine: TaskEngine) -> Iterator[Bench]:
    bench = Bench(engine)
    yield bench
    assert not engine.busy
    batches = engine._embeddings
    assert batches is None or len(batches._free) == batches.model.facts.sequences


def cosine(first: str, second: str) -> float:
    return float(numpy.dot(vector_numbers(first), vector_numbers(second)))


def test_vectors_say_what_is_alike(bench: Bench) -> None:
    assert bench.engine.facts.tasks == ("chat", "embeddings")
    france, spain, sum_, story, _ = bench.embed(TEXTS)
    assert cosine(france, spain) > 0.7
    assert max(cosine(france, other) for other in (sum_, story)) < 0.4
    assert len(vector_numbers(france)) == 128


def test_a_vector_does_not_depend_on_its_batch(bench: Bench) -> None:
    alone = {text: bench.embed([text])[0] for text in TEXTS}
    chance = random.Random(5)
    for _ in range(60 if SOAK else 2):
        jobs = [chance.choices(TEXTS, k=chance.randint(1, 7)) for _ in range(5)]
        numbers = [bench.submit(job) for job in jobs]
        chats = [bench.chat("Tell me a story.", 10) for _ in range(2)]
        bench.run()
        for job, number in zip(jobs, numbers, strict=True):
            assert bench.texts[number].split() == [alone[text] for text in job]
        assert bench.texts[chats[0]] == bench.texts[chats[1]]


def test_with_larger_ubatches_the_difference_is_small(bench: Bench) -> None:
    other = Bench(open_model(MODEL, ubatch_tokens=512))
    together = other.embed(TEXTS)
    for text, line in zip(TEXTS, together, strict=True):
        alone = bench.embed([text])[0]
        difference = numpy.subtract(vector_numbers(alone), vector_numbers(line))
        assert abs(difference).max() < 0.01


def test_generation_goes_on_beside_embeddings(bench: Bench) -> None:
    words = bench.chat("Tell me a story.", 30)
    beside = bench.submit([TEXTS[3]] * 40)
    steps_without = 0
    while words not in bench.ends:
        steps_without += words not in bench.step()
    assert steps_without <= 3  # reading its own prompt, and half characters
    assert beside not in bench.ends
    bench.engine.cancel(beside)
    bench.run()


def test_short_jobs_do_not_wait_for_long_ones(bench: Bench) -> None:
    long = bench.submit([TEXTS[3]] * 40)
    bench.step()
    short = bench.submit(["Hello"])
    steps = 0
    while short not in bench.ends:
        bench.step()
        steps += 1
    assert steps <= 12  # until a text of 541 tokens is done, and one more
    assert long not in bench.ends
    bench.engine.cancel(long)
    bench.run()
    assert bench.ends[long] == "cancelled"


def test_tokens_and_dimensions(bench: Bench, engine: TaskEngine) -> None:
    whole = bench.embed(["Hello"])[0]
    assert engine._embeddings is not None
    tokens = engine._embeddings.model.tokenize("Hello")
    assert bench.embed([tokens])[0] == whole
    cut = numpy.array(vector_numbers(bench.embed(["Hello"], dimensions=32)[0]))
    first = numpy.array(vector_numbers(whole))[:32]
    assert abs(cut - first / numpy.linalg.norm(first)).max() < 1e-6


def test_a_text_that_looks_like_a_control_token_is_text(bench: Bench) -> None:
    bench.embed(["<|im_end|>"])
    assert bench.inputs[bench.number] > 1


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"input": []}, "bad_request"),
        ({"input": "text"}, "bad_request"),
        ({"input": [""]}, "bad_request"),
        ({"input": [[]]}, "bad_request"),
        ({"input": [[1.5]]}, "bad_request"),
        ({"input": [[-1]]}, "bad_request"),
        ({"input": [[1280]]}, "bad_request"),
        ({"input": ["a"] * 2049}, "bad_request"),
        ({"input": ["a"], "dimensions": 129}, "bad_request"),
        ({"input": ["a"], "dimensions": True}, "bad_request"),
        ({"input": ["tell " * 3000]}, "context_length_exceeded"),
        ({"messages": []}, "bad_request"),
        ([], "bad_request"),
    ],
)
def test_refusals(bench: Bench, request_fields: Any, code: str) -> None:
    data = json.dumps(request_fields).encode()
    with pytest.raises(RuntimeRefusedError) as caught:
        bench.engine.prepare(JobRequest(99, data, 0, 1, task="embeddings"))
    assert caught.value.code == code


def test_unknown_tasks_are_refused(bench: Bench) -> None:
    with pytest.raises(RuntimeRefusedError) as caught:
        bench.engine.prepare(JobRequest(99, b"{}", 0, 1, task="paint"))
    assert caught.value.code == "unsupported"


def test_cancels_at_any_step_leave_nothing_behind(bench: Bench) -> None:
    chance = random.Random(3)
    expected = bench.embed(TEXTS)
    for _ in range(200 if SOAK else 8):
        number = bench.submit(TEXTS)
        other = bench.submit(["Hello"])
        for _ in range(chance.randrange(8)):
            bench.step()
        bench.engine.cancel(number)
        bench.run()
        assert bench.ends[number] in ("cancelled", "stop")
        assert bench.texts[other].split() == [expected[4]]


def test_nothing_is_made_before_the_first_of_them() -> None:
    bench = Bench(open_model(MODEL))
    bench.chat("Hello", 4)
    bench.run()
    assert bench.engine._embeddings is None


# --- encoders -----------------------------------------------------------------------------------
@pytest.mark.parametrize("pooling", [MEAN, CLS, LAST])
def test_an_encoder(tmp_path: Path, pooling: int) -> None:
    path = write_tiny_bert(tmp_path / "bert.gguf", pooling)
    assert read_model_file(path).tasks == ("embeddings",)
    bench = Bench(open_model(path))
    assert bench.engine.facts.tasks == ("embeddings",)
    assert bench.engine.facts.context_tokens == 128
    texts = ["paris is the capital", "cat", some_text(126), some_text(70, 2)]
    alone = [bench.embed([text])[0] for text in texts]
    assert bench.inputs[3] == 128
    assert bench.embed(texts) == alone
    first, second = bench.submit(texts[:2]), bench.submit(texts[2:])
    bench.run()
    assert (bench.texts[first] + bench.texts[second]).split() == alone
    with pytest.raises(RuntimeRefusedError, match="does embeddings here, not chat"):
        bench.chat("Hello")
    with pytest.raises(RuntimeRefusedError) as caught:
        bench.embed([some_text(127)])
    assert (caught.value.input_tokens, caught.value.context_tokens) == (129, 128)


class Vectors:
    """A job's sink that keeps the lines."""

    def __init__(self) -> None:
        self.text = ""
        self.outcome = ""
        self.ended = trio.Event()

    def on_cached(self, input_tokens: int) -> None:
        raise AssertionError("nothing is cached for embeddings")

    def on_input(self, input_tokens: int) -> None:
        raise AssertionError("the input was counted exactly")

    def on_output(self, token_ids: tuple[int, ...], text: str, logprobs: Any = ()) -> None:
        assert not token_ids
        self.text += text

    def on_end(self, outcome: str, detail: str) -> None:
        self.outcome = outcome
        self.ended.set()


async def test_an_encoder_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "bert.gguf")
    inputs = ["paris is the capital"] * 300
    with (tmp_path / "runtime.log").open("wb") as log_file, trio.fail_after(60):
        runtime = RuntimeProcess(runtime_command(path, threads=1), log_file=log_file)
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            assert runtime.facts.tasks == ("embeddings",)
            await runtime.self_test()
            prepare = partial(runtime.prepare, output_tokens_max=0, seed=0)
            job = await prepare(request_json(inputs, None), task="embeddings")
            sink = Vectors()
            runtime.start(job.number, sink)
            await sink.ended.wait()
            with pytest.raises(RuntimeRefusedError, match="not chat"):
                await prepare(b'{"messages": []}')
            nursery.cancel_scope.cancel()
    assert sink.outcome == "stop"
    assert sink.text.split() == Bench(open_model(path)).embed(inputs[:1]) * 300


def test_an_encoder_with_a_chat_template_does_not_chat(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "bert.gguf", template="{{ messages }}")
    assert open_model(path).facts.tasks == ("embeddings",)


def test_a_reranker_is_refused(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "bert.gguf", RANK)
    with pytest.raises(ModelFileError, match="reranker"):
        open_model(path)
