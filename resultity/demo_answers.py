"""Owns how the demo asks with the openai package, and keeps what a receipt is checked against."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai

from resultity.errors import GatewayCallError, ReceiptError

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its bill. `request` is the HTTP body as it was sent."""

    text: str
    request: bytes
    receipt: str
    price_microcredits: int


class RecordingClient:
    """An OpenAI client, made as any user makes it, that remembers the body of its last request."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.request = b""
        # openai brings its own HTTP library (which one depends on its version) under this name.
        http_client = openai.DefaultHttpxClient(event_hooks={"request": [self._remember]})
        self.openai = openai.OpenAI(
            base_url=base_url,
            api_key=api_key,
            timeout=TIMEOUT_S,
            max_retries=0,
            http_client=http_client,
        )

    def _remember(self, request: Any) -> None:
        if request.method == "POST":
            self.request = request.read()

    def __enter__(self) -> RecordingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.openai.close()

    def first_model(self) -> str:
        """The first model that the gateway lists."""
        return str(self.openai.models.list().data[0].id)


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
