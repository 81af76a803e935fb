"""Owns what a server is asked: from an offer's request to the body that it gets. Pure.

Images are passed on as data URLs. The address of an image in the network is not: the server would
fetch whatever a stranger names, from inside the operator's network (server-side request forgery).
An operator whose server is shut off from all that matters can allow it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from node.errors import RuntimeRefusedError
from node.upstream.facts import Server, UpstreamFacts
from p2p.approved_models import ApprovedModel
from p2p.unverified_usage import input_bound

_PASSED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
)


@dataclass(frozen=True, slots=True)
class ChatAsk:
    """One request, read."""

    fields: dict[str, Any]
    text_bytes: int
    messages: int
    tools_bytes: int
    images: int

    def bound(self, model: ApprovedModel) -> int:
        """The most input tokens that it can have."""
        bound = input_bound(
            model,
            text_bytes=self.text_bytes,
            messages=self.messages,
            tools_bytes=self.tools_bytes,
            images=self.images,
        )
        return min(bound, model.context_tokens)

    @property
    def wants_json(self) -> bool:
        """Whether the answer must be JSON."""
        form = self.fields.get("response_format")
        return isinstance(form, dict) and form.get("type") in ("json_object", "json_schema")


def read_request(request: bytes, facts: UpstreamFacts, *, image_urls: bool) -> ChatAsk:
    """Read an offer's request, and check that the server can do what it asks.

    Raises: RuntimeRefusedError `bad_request` or `unsupported`.
    """
    try:
        fields = json.loads(request)
    except (ValueError, RecursionError) as error:
        raise RuntimeRefusedError("bad_request", "the request is no JSON") from error
    messages = fields.get("messages") if isinstance(fields, dict) else None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise RuntimeRefusedError("bad_request", "the request has no messages")
    if fields.get("logprobs"):
        raise RuntimeRefusedError(
            "unsupported", "Unverified models give no logprobs: leave logprobs out."
        )
    tools = fields.get("tools") or []
    if tools and not facts.tools:
        raise RuntimeRefusedError(
            "unsupported", "The server behind this model takes no tools: leave tools out."
        )
    images = sum(_check_images(message, facts, image_urls) for message in messages)
    text_bytes = sum(_text_bytes(message) for message in messages)
    tools_bytes = sum(len(_compact(tool)) for tool in tools)
    return ChatAsk(fields, text_bytes, len(messages), tools_bytes, images)


def body_of(
    ask: ChatAsk, facts: UpstreamFacts, *, output_tokens_max: int | None, seed: int, cache_salt: str
) -> bytes:
    """The JSON that the server gets. `cache_salt`: who may share the cache of a beginning;
    `output_tokens_max`: None leaves it to the context."""
    known = {name: ask.fields[name] for name in _PASSED if ask.fields.get(name) is not None}
    body: dict[str, Any] = {
        "model": facts.model,
        "messages": [_message(message) for message in ask.fields["messages"]],
        "seed": seed,
        "n": 1,
        "stream": facts.streams,
        **known,
    }
    if output_tokens_max is not None:
        body["max_tokens"] = output_tokens_max
    if facts.streams and facts.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if facts.server is Server.VLLM:
        body["cache_salt"] = cache_salt
    if facts.server is Server.LLAMA and not facts.share_cache:
        body["cache_prompt"] = False
    return _compact(body).encode("utf-8", "replace")


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message as every server takes it: only OpenAI's own know developers."""
    return {**message, "role": "system"} if message.get("role") == "developer" else message


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _check_images(message: dict[str, Any], facts: UpstreamFacts, image_urls: bool) -> int:
    """Count a message's images. Raises: RuntimeRefusedError `unsupported`."""
    count = 0
    for part in _parts(message):
        if part.get("type") != "image_url":
            continue
        count += 1
        if not facts.images:
            raise RuntimeRefusedError(
                "unsupported", "The server behind this model takes no images: leave them out."
            )
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else None
        is_data = isinstance(url, str) and url[:11].lower() == "data:image/"
        if not is_data and not (image_urls and isinstance(url, str) and _is_web(url)):
            raise RuntimeRefusedError(
                "unsupported", "Images must come as data URLs (data:image/...;base64,...)."
            )
    return count


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _text_bytes(message: dict[str, Any]) -> int:
    """The bytes of a message's text: never more than the gateway counts for it."""
    content = message.get("content")
    if isinstance(content, str):
        count = _size(content)
    else:
        texts = (part.get("text", part.get("refusal")) for part in _parts(message))
        count = sum(_size(text) + 1 for text in texts if isinstance(text, str))
    for value in (message.get("name"), message.get("tool_call_id")):
        count += _size(value) if isinstance(value, str) else 0
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        count += len(_compact(call))
    return count


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
