"""Owns the probing of an upstream server: what it is, and what it can do with a model.

What servers tell is believed; what they do not is tried out by a request of one token, or declared
by the operator. A text model of a server that we do not know may ignore an image without a word, so
images are never tried out there: the operator declares them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from node.upstream.client import UpstreamClient
from node.upstream.errors import UpstreamError, UpstreamSetupError
from node.upstream.facts import (
    Server,
    UpstreamFacts,
    from_entry,
    listed_models,
    with_llama_props,
    with_lm_studio_entry,
    with_ollama_show,
)
from node.upstream.limits import TEST_TIMEOUT_S

_PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAIAAAD9b0jDAAAAIklEQVR42mP4TwPAMGroqKGj"
    "ho4aOmroqKGjho4aOjIMBQDyYCdYB5gw6gAAAABJRU5ErkJggg=="
)
"""28 x 28 white pixels: the size of one patch of the usual encoders."""
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Tells the time.",
        "parameters": {"type": "object", "properties": {}},
    },
}


async def list_models(client: UpstreamClient) -> tuple[str, ...]:
    """The server's own names of its models. Raises: UpstreamError."""
    return tuple(str(m["id"]) for m in listed_models(await client.get_json("/v1/models")))


async def probe(client: UpstreamClient, model: str) -> UpstreamFacts:
    """What the server tells of a model. Raises: UpstreamError (`model_not_served`: it has not)."""
    entries = {m["id"]: m for m in listed_models(await client.get_json("/v1/models"))}
    entry = entries.get(model) or entries.get(f"{model}:latest")
    if entry is None:
        known = ", ".join(sorted(entries)[:10]) or "none"
        raise UpstreamError(
            "model_not_served", f"the server has no model {model} (it has {known})", sick=True
        )
    facts = from_entry(entry)
    if facts.server is Server.VLLM:
        return facts
    if facts.server is Server.LLAMA:
        return with_llama_props(facts, await _ask(client, "/props"))
    shown = await _ask(client, "/api/show", {"model": facts.model})
    if isinstance(shown, dict) and "model_info" in shown:
        return with_ollama_show(facts, shown, await _ask(client, "/api/ps"))
    for own in listed_models(await _ask(client, "/api/v0/models")):
        if own["id"] == facts.model:
            return with_lm_studio_entry(facts, own)
    return facts


async def _ask(client: UpstreamClient, path: str, body: Any = None) -> Any:
    """A question that only one kind of server understands; None from all others."""
    try:
        if body is None:
            return await client.get_json(path)
        return await client.post_json(path, body)
    except UpstreamError:
        return None


async def try_out(client: UpstreamClient, facts: UpstreamFacts) -> UpstreamFacts:
    """Find out by requests of one token what the server did not tell. Raises: UpstreamError."""
    if facts.tools is None:
        facts = replace(facts, tools=await _takes(client, facts, {"tools": [_TOOL]}, "What time?"))
    if facts.images is None:
        images = False
        if facts.server is Server.VLLM:
            picture = {"type": "image_url", "image_url": {"url": _PICTURE}}
            content = [{"type": "text", "text": "What is this?"}, picture]
            images = await _takes(client, facts, {}, content)
        facts = replace(facts, images=images)
    return facts


async def _takes(
    client: UpstreamClient, facts: UpstreamFacts, fields: dict[str, Any], content: Any
) -> bool:
    """Whether the server answers such a request. Raises: UpstreamError if it is not well."""
    body = {
        "model": facts.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
        "stream": False,
        **fields,
    }
    try:
        await client.post_json("/v1/chat/completions", body, TEST_TIMEOUT_S)
    except UpstreamError as error:
        if error.code in ("bad_request", "unsupported") or "status 500" in error.reason:
            return False  # llama-server without --jinja answers tools with status 500
        raise
    return True


def declared(
    facts: UpstreamFacts,
    *,
    context_tokens: int | None,
    images: bool | None,
    tools: bool | None,
    share_cache: bool,
) -> UpstreamFacts:
    """The facts with what the operator declares; a shorter context wins.

    Raises: UpstreamSetupError if nobody says how long the context is.
    """
    known = [tokens for tokens in (context_tokens, facts.context_tokens) if tokens is not None]
    if not known:
        raise UpstreamSetupError(
            f"the server does not tell the context of {facts.model}: give --upstream-context-tokens"
        )
    return replace(
        facts,
        context_tokens=min(known),
        images=facts.images if images is None else images,
        tools=facts.tools if tools is None else tools,
        share_cache=share_cache,
    )
