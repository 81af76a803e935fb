"""Owns how the demo asks with the openai package, and keeps what a receipt is checked against."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai

from resultity.errors import GatewayCallError, ReceiptError
from resultity.recording_client import RecordingClient


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its bill. `request` is the HTTP body as it was sent."""

    text: str
    request: bytes
    receipt: str
    price_microcredits: int


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except openai.OpenAIError as error:
        raise GatewayCallError(f"the question was not answered: {error}") from error


def ask_streamed(client: RecordingClient, question: str, show: Callable[[str], None]) -> Answer:
    """Ask and show the answer while it comes. Raises: GatewayCallError, ReceiptError."""
    text = ""
    facts: dict[str, Any] = {}
    with _named_errors():
        for chunk in client.openai.chat.completions.create(
            model=client.first_model(),
            messages=[{"role": "user", "content": question}],
            stream=True,
            temperature=0,
        ):
            facts = (chunk.model_extra or {}).get("resultity") or facts
            if chunk.choices and chunk.choices[0].delta.content:
                text += chunk.choices[0].delta.content
                show(chunk.choices[0].delta.content)
    return _answer(text, client.request, facts)


def ask_whole(client: RecordingClient, question: str) -> Answer:
    """Ask and wait for the whole answer. Raises: GatewayCallError, ReceiptError."""
    with _named_errors():
        completion = client.openai.chat.completions.create(
            model=client.first_model(),
            messages=[{"role": "user", "content": question}],
            temperature=0,
        )
    facts = (completion.model_extra or {}).get("resultity") or {}
    return _answer(completion.choices[0].message.content or "", client.request, facts)


def _answer(text: str, request: bytes, facts: dict[str, Any]) -> Answer:
    if "receipt" not in facts:
        raise ReceiptError("the answer came without a receipt")
    return Answer(text, request, str(facts["receipt"]), int(facts["price_microcredits"]))
