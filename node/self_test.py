"""Owns the test inference: what a runtime is asked before it serves, and how it answered."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field

import trio

from node.limits import PREFILL_TOKENS_PER_STEP_MAX
from p2p.embeddings import CHAT, EMBEDDINGS, request_json
from p2p.logprob_messages import TokenLogprob

SELF_TEST_DATE = "2026-01-01"
"""For templates that write the day's date; any will do."""


def self_test_task(tasks: Collection[str]) -> str:
    """The task that a runtime is tested with: a model that chats is not asked for vectors, which
    would cost it a second context."""
    return CHAT if CHAT in tasks else EMBEDDINGS


def self_test_request(context_tokens: int, task: str = CHAT) -> bytes:
    """Ask something short behind as much text as the engine reads in one step.

    A model that only makes embeddings may read a whole text in one step: a large part of it is
    asked, so that it is known how long that takes.
    """
    if task == EMBEDDINGS:
        return request_json(["one " * max(1, context_tokens // 4)], None)
    words = max(0, min(PREFILL_TOKENS_PER_STEP_MAX, context_tokens // 8))
    content = "one " * words + "What is 2 + 2?"
    message = {"role": "user", "content": content}
    fields = {"messages": [message], "temperature": 0, "date": SELF_TEST_DATE}
    return json.dumps(fields).encode()


@dataclass(slots=True)
class SelfTestAnswer:
    """Counts the tokens of the test inference, or its vectors (a `JobSink`)."""

    tokens: int = 0
    outcome: str = ""
    detail: str = ""
    ended: trio.Event = field(default_factory=trio.Event)

    def on_cached(self, input_tokens: int) -> None:
        """Nothing is cached for a job without a scope."""

    def on_input(self, input_tokens: int) -> None:
        """How much was asked does not matter."""

    def on_output(
        self, token_ids: tuple[int, ...], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        """Count new tokens; a vector has none."""
        self.tokens += len(token_ids) or text.count("\n")

    def on_end(self, outcome: str, detail: str) -> None:
        """Remember how it ended."""
        self.outcome, self.detail = outcome, detail
        self.ended.set()
