"""Owns the test inference: what a runtime is asked before it serves, and how it answered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import trio

from node.limits import PREFILL_TOKENS_PER_STEP_MAX


def self_test_request(context_tokens: int) -> bytes:
    """Ask something short behind as much text as the engine reads in one step."""
    words = max(0, min(PREFILL_TOKENS_PER_STEP_MAX, context_tokens // 8))
    content = "one " * words + "What is 2 + 2?"
    message = {"role": "user", "content": content}
    return json.dumps({"messages": [message], "temperature": 0}).encode()


@dataclass(slots=True)
class SelfTestAnswer:
    """Counts the tokens of the test inference (a `JobSink`)."""

    tokens: int = 0
    outcome: str = ""
    detail: str = ""
    ended: trio.Event = field(default_factory=trio.Event)

    def on_cached(self, input_tokens: int) -> None:
        """Nothing is cached for a job without a scope."""

    def on_output(self, token_ids: tuple[int, ...], text: str) -> None:
        """Count new tokens."""
        self.tokens += len(token_ids)

    def on_end(self, outcome: str, detail: str) -> None:
        """Remember how it ended."""
        self.outcome, self.detail = outcome, detail
        self.ended.set()
