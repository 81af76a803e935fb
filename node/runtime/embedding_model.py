"""Owns what the embeddings of a runtime need of a loaded model: the port behind which a library
stands."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from node.runtime.model import Chunk


class Pooling(enum.Enum):
    """How the states of a text's tokens become one vector, as the model was trained."""

    MEAN = "mean"
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class EmbeddingFacts:
    """`context_tokens`: the longest text. `sequences`: texts that are computed together at most.
    `step_tokens`: tokens of one step, so that jobs that generate wait no longer than for a part of
    a prompt. `whole`: a text cannot be computed in parts, as each token looks at all others; each
    is computed by itself as sequence 0."""

    dimensions: int
    context_tokens: int
    sequences: int
    step_tokens: int
    vocabulary_size: int
    pooling: Pooling
    whole: bool


class EmbeddingModel(Protocol):
    """A model as the source of vectors."""

    facts: EmbeddingFacts

    def tokenize(self, text: str) -> list[int]:
        """Give the tokens of a text, with those that the model wants around it (any thread)."""
        ...

    def states(self, chunks: Sequence[Chunk]) -> Any:
        """Compute one batch; gives the last states of all its tokens: a numpy array with a row for
        each, valid until the next call. Raises: RuntimeError."""
        ...

    def clear(self, sequence: int) -> None:
        """Forget what a sequence has in the cache."""
        ...
