"""How an engine is opened as the operator wished, the throughput mode, and a cache without room."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from node.errors import ModelFileError, NoRoomError
from node.runtime.batching import BatchingEngine
from node.runtime.engine import EngineSettings
from node.runtime.llama import opening
from node.runtime.llama.engine import open_engine
from node.runtime.llama.opening import open_as_wished
from node.runtime.model import Chunk
from node.runtime.sampling import SamplingSettings
from node.runtime.sampling_digest import sampling_digest, sampling_text
from node.runtime.wishes import EngineWishes
from tests.fakes.engine_bench import MODEL, EngineBench

QUESTIONS = ("Tell me a story.", "What is the capital of France?", "Count from 1 to 20.", "Hello")


def throughput_engine(slots: int = 4) -> BatchingEngine:
    return open_engine(
        EngineSettings(str(MODEL), slots=slots, context_tokens=512, threads=1, ubatch_tokens=512)
    )


def test_the_runtime_measures_and_remembers(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "costs.json"
    wishes = EngineWishes(str(MODEL), 512, remembered=str(path), model_key="demo")
    facts = open_as_wished(wishes).facts
    assert facts.slots > 1
    assert facts.reproducible
    assert facts.gpu_layers == 0
    assert facts.costs[0].sequences == 1
    assert all(cost.seconds > 0 for cost in facts.costs)

    def measured_again(*_: object) -> None:
        raise AssertionError("it was remembered")

    monkeypatch.setattr(opening, "measure_costs", measured_again)
    again = open_as_wished(wishes).facts
    assert (again.slots, again.threads) == (facts.slots, facts.threads)
    with pytest.raises(AssertionError):
        open_as_wished(EngineWishes(str(MODEL), 512, mode="throughput", remembered=str(path)))


def test_what_the_operator_names_is_not_measured(monkeypatch: Any) -> None:
    monkeypatch.setattr(opening, "measure_costs", None)
    wishes = EngineWishes(str(MODEL), 256, slots=3, threads=1, mode="throughput", gpu_layers=9)
    facts = open_as_wished(wishes).facts
    assert (facts.slots, facts.threads, facts.costs) == (3, 1, ())
    assert not facts.reproducible
    assert "finds no GPU" in facts.notes[0]


def test_slots_are_bounded_by_the_memory_for_caches() -> None:
    # 4 layers x (128 + 128) numbers of two bytes: 2 KiB a token, 512 KiB for a slot of 256.
    wishes = EngineWishes(str(MODEL), 256, cache_bytes_max=1 << 20)
    assert open_as_wished(wishes).facts.slots == 2


def test_fewer_slots_where_the_memory_does_not_do(monkeypatch: Any) -> None:
    tried = []

    def open_task_engine(settings: EngineSettings, loaded: object) -> Any:
        tried.append(settings.slots)
        if settings.slots > 1:
            raise ModelFileError("no memory")
        return settings

    monkeypatch.setattr(opening, "open_task_engine", open_task_engine)
    opened: Any = open_as_wished(EngineWishes(str(MODEL), 256))
    assert opened.slots == 1
    assert tried == sorted(tried, reverse=True)
    with pytest.raises(ModelFileError, match="no memory"):
        open_as_wished(EngineWishes(str(MODEL), 256, slots=8, threads=1))


def test_throughput_mode_answers_and_reuses() -> None:
    bench = EngineBench(throughput_engine())
    assert not bench.engine.facts.reproducible
    questions = (*QUESTIONS * 2, "tell " * 60, "tell " * 80)
    numbers = [bench.submit(question, scope=b"account") for question in questions]
    bench.run()
    assert bench.answers[numbers[1]].text == "The capital of France is Paris."
    assert all(bench.answers[number].outcome in ("stop", "length") for number in numbers)
    assert bench.cached


class CrampedModel:
    """A model whose cache has room for so many tokens of all sequences together."""

    def __init__(self, model: Any, room: int) -> None:
        self._model = model
        self.room = room
        self.held: dict[int, int] = {}
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        after = dict(self.held)
        for chunk in chunks:
            after[chunk.sequence] = chunk.position + len(chunk.tokens)
        if sum(after.values()) > self.room:
            self.refused += 1
            raise NoRoomError("no room")
        self.held = after
        return list(self._model.decode(chunks))

    def trim(self, sequence: int, tokens_kept: int) -> bool:
        kept = bool(self._model.trim(sequence, tokens_kept))
        self.held[sequence] = tokens_kept if kept else 0
        return kept

    def copy(self, source: int, target: int, tokens: int) -> bool:
        copied = bool(self._model.copy(source, target, tokens))
        self.held[target] = tokens if copied else 0
        return copied


@pytest.mark.parametrize("scope", [b"", b"account"])
def test_no_running_job_fails_for_room(scope: bytes) -> None:
    """What ended jobs left goes first; then the youngest waits, and goes on as if nothing was."""
    engine = open_engine(EngineSettings(str(MODEL), slots=4, context_tokens=512, threads=1))
    bench = EngineBench(engine)
    options = [{"seed": 3 + i, "temperature": i % 2, "scope": scope} for i in range(8)]
    alone = [bench.ask(QUESTIONS[i % 4], **option) for i, option in enumerate(options)]
    cramped = CrampedModel(engine.model, room=100)
    cramped.held = {slot: 512 for slot in range(4) if scope}
    engine.model = cramped  # type: ignore[assignment]
    numbers = [bench.submit(QUESTIONS[i % 4], **option) for i, option in enumerate(options)]
    bench.run()
    assert cramped.refused
    assert [bench.answers[number].tokens for number in numbers] == [one.tokens for one in alone]
    assert [bench.answers[number].text for number in numbers] == [one.text for one in alone]


def test_a_job_that_fits_nowhere_fails() -> None:
    engine = throughput_engine(2)
    bench = EngineBench(engine)
    engine.model = CrampedModel(engine.model, room=5)  # type: ignore[assignment]
    answer = bench.ask("Hello")
    assert answer.outcome == "failed"


def test_the_digest_of_sampling_settings() -> None:
    """Golden: receipts name it, and whoever checks one makes it again."""
    text = (
        '{"forced_calls":null,"frequency_penalty":0.0,"json_schema":null,"logit_bias":[],'
        '"min_p":0.0,"presence_penalty":0.0,"stop":["é"],"temperature":1.0,"top_k":0,"top_p":1.0}'
    )
    assert sampling_text(SamplingSettings(top_k=-1), ("é",)) == text
    assert sampling_digest(SamplingSettings(), ("é",)) == hashlib.sha256(text.encode()).digest()
    assert sampling_digest(SamplingSettings(), ()) != sampling_digest(SamplingSettings(), ("a",))


def test_defaults_and_their_values_have_one_digest() -> None:
    bench = EngineBench(open_engine(EngineSettings(str(MODEL), 1, 256, 1)))

    def digest(**fields: Any) -> bytes:
        request = json.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
        from node.runtime.engine import JobRequest

        job = bench.engine.prepare(JobRequest(1, request, 4, 1))
        bench.engine.discard(job)
        return job.sampling_hash

    assert digest() == digest(temperature=1, top_p=1.0, user="me", max_tokens=3)
    assert len({digest(), digest(temperature=0.5), digest(stop="x"), digest(top_k=40)}) == 4
