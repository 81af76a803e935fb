"""Owns the bench on which tests run jobs in an engine with the demo model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.runtime.batching import BatchingEngine
from node.runtime.engine import EngineSettings, JobRequest
from node.runtime.llama.engine import open_engine

MODEL = Path(__file__).resolve().parents[2] / "resultity" / "models" / "tiny-chat-q8_0.gguf"


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    outcome: str = ""

    @property
    def text(self) -> str:
        return "".join(self.texts)


class EngineBench:
    """Runs jobs on one engine."""

    def __init__(self, engine: BatchingEngine) -> None:
        self.engine = engine
        self.answers: dict[int, Answer] = {}
        self.number = 0
        self.inputs: dict[int, int] = {}
        self.cached: dict[int, int] = {}

    def submit(
        self,
        question: str = "What is the capital of France?",
        *,
        seed: int = 1,
        output_tokens_max: int = 60,
        resume: tuple[int, ...] = (),
        messages: list[Any] | None = None,
        scope: bytes = b"",
        **fields: Any,
    ) -> int:
        self.number += 1
        fields.setdefault("temperature", 0)
        chat = messages or [{"role": "user", "content": question}]
        request = json.dumps({"messages": chat, **fields}).encode()
        job = self.engine.prepare(
            JobRequest(self.number, request, output_tokens_max, seed, resume, scope)
        )
        self.engine.start(job)
        self.inputs[self.number] = job.input_tokens
        self.answers[self.number] = Answer()
        return self.number

    def step(self) -> None:
        result = self.engine.step()
        self.cached.update((reuse.number, reuse.input_tokens) for reuse in result.reuses)
        for output in result.outputs:
            answer = self.answers[output.number]
            assert not answer.outcome
            answer.tokens += output.token_ids
            answer.texts.append(output.text)
        for end in result.ends:
            assert not self.answers[end.number].outcome
            self.answers[end.number].outcome = end.outcome

    def run(self) -> None:
        while self.engine.busy:
            self.step()

    def ask(self, question: str = "What is the capital of France?", **options: Any) -> Answer:
        number = self.submit(question, **options)
        self.run()
        return self.answers[number]


def demo_engine() -> BatchingEngine:
    """Load the demo model with four slots."""
    return open_engine(EngineSettings(str(MODEL), slots=4, context_tokens=1024, threads=1))
