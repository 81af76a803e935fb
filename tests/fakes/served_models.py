"""Owns models that a node serves in tests, without runtimes of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from node.agent.runtime_port import (
    ModelCounters,
    ModelFacts,
    ModelPace,
    ModelState,
    Runtime,
    Served,
)
from p2p.adverts import ModelAdvert
from p2p.errors import RefusedError
from tests.fakes.trust import MODEL_DIGEST, MODEL_ID


@dataclass
class FakeModel:
    """A `Served` that does what the test says."""

    hands: Runtime
    slots: int = 2
    facts: ModelFacts = field(
        default_factory=lambda: ModelFacts("tiny-chat", MODEL_DIGEST, MODEL_ID, "Q8_0")
    )
    state: ModelState = ModelState.ACTIVE
    reason: str = ""
    ready: bool = True
    jobs: int = 0
    pace: ModelPace = field(default_factory=lambda: ModelPace(output=12.5))
    counters: ModelCounters = field(default_factory=ModelCounters)
    waits: list[float] = field(default_factory=list)
    refusal: RefusedError | None = None

    def count(self, change: int) -> None:
        self.jobs += change
        assert self.jobs >= 0

    def advert(self) -> ModelAdvert | None:
        if self.state is not ModelState.ACTIVE:
            return None
        facts = self.facts
        return ModelAdvert(
            name=facts.name,
            digest=facts.digest,
            model_id=facts.model_id,
            context_tokens=1024,
            quantisation=facts.quantisation,
            slots=self.slots,
            tasks=facts.tasks,
            modalities=facts.modalities,
        )

    async def runtime(self, wait_s: float) -> Runtime:
        self.waits.append(wait_s)
        if self.refusal is not None:
            raise self.refusal
        return self.hands


class FakeModels:
    """A `Models` from a list."""

    def __init__(self, models: list[FakeModel]) -> None:
        self.list = models

    def get(self, digest: bytes) -> Served | None:
        return next((model for model in self.list if model.facts.digest == digest), None)

    def all(self) -> Iterable[Served]:
        return self.list
