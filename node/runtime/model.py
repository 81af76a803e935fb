"""Owns what batching needs of a loaded model: the port behind which a library stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from node.runtime.chat_template import ChatTemplate
from node.runtime.engine import EngineFacts
from node.runtime.sampling import SamplingSettings
from p2p.logprob_messages import TokenLogprob


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence for one step.

    `sampled`: logits of the last one are wanted.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    sampled: bool


class Sampler(Protocol):
    """Draws the tokens of one job."""

    def sample(self, row: int, position: int) -> int:
        """Draw the token of output position `position` from a row of the last batch."""
        ...

    def replay(self, token: int) -> bool:
        """Take a token that was drawn elsewhere; False if this job could not have produced it."""
        ...

    def close(self) -> None:
        """Free what the sampler holds. More than once is allowed."""
        ...


class Model(Protocol):
    """What batching needs of a loaded model with its cache."""

    facts: EngineFacts
    template: ChatTemplate

    def tokenize(self, prompt: str) -> list[int]:
        """Give the tokens of a rendered prompt."""
        ...

    def piece(self, token: int) -> bytes:
        """Give the bytes that a token stands for."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation."""
        ...

    def new_sampler(self, settings: SamplingSettings, seed: int) -> Sampler:
        """Make the sampler of one job.

        Raises: RuntimeRefusedError if the settings are impossible.
        """
        ...

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """Compute one batch; gives for each chunk the row of its logits.

        Raises: NoRoomError if the cache has no room for it (nothing was computed then);
            RuntimeError.
        """
        ...

    def logprob(self, row: int, token: int, top: int) -> TokenLogprob:
        """How likely a token was in a row of the last batch, and the `top` likeliest ones."""
        ...

    def copy(self, source: int, target: int, tokens: int) -> bool:
        """Let a sequence that has nothing in the cache begin with the first tokens of another one;
        False if this model cannot (it has nothing then)."""
        ...

    def trim(self, sequence: int, tokens_kept: int) -> bool:
        """Drop what a sequence has in the cache after its first tokens; False if this model cannot
        (everything is dropped then)."""
        ...
