"""Owns the OpenAI client of the command line: it keeps the body that it sent, for the bill."""

from __future__ import annotations

from typing import Any

import openai

from resultity.errors import GatewayCallError


def _chats(model: Any) -> bool:
    note = (model.model_extra or {}).get("resultity") or {}
    return "chat" in note.get("tasks", ("chat",))


class RecordingClient:
    """An OpenAI client, made as any user makes it, that remembers the body of its last request."""

    def __init__(
        self, base_url: str, api_key: str, *, timeout_s: float, retries_max: int = 0
    ) -> None:
        """Ask at a base URL that ends in /v1."""
        self.request = b""
        # openai brings its own HTTP library (which one depends on its version) under this name.
        http_client = openai.DefaultHttpxClient(event_hooks={"request": [self._remember]})
        self.openai = openai.OpenAI(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout_s,
            max_retries=retries_max,
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
        """The first model that the gateway lists and that chats.

        Raises: GatewayCallError, openai.OpenAIError.
        """
        models = [model for model in self.openai.models.list().data if _chats(model)]
        if not models:
            raise GatewayCallError("the gateway offers no model for chats now: no node serves one")
        return str(models[0].id)
