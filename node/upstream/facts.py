"""Owns what is known of an upstream server, and how its own words are read. Pure.

Sources: vLLM `GET /v1/models` (`owned_by`, `max_model_len`); llama.cpp tools/server/README, `GET
/props`; Ollama docs/api.md, `POST /api/show` and `GET /api/ps`; LM Studio REST API v0, `GET
/api/v0/models`. What a server leaves out is unknown, not an error.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from typing import Any

from p2p.limits import TOKENS_MAX

OLLAMA_CONTEXT_TOKENS_DEFAULT = 4096
"""What Ollama gives a model for which nobody says more (docs/faq, "context window size")."""
_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)


class Server(enum.StrEnum):
    """The kind of server, as far as it matters here."""

    VLLM = "vLLM"
    LLAMA = "llama-server"
    OLLAMA = "Ollama"
    LM_STUDIO = "LM Studio"
    OTHER = "OpenAI-compatible"


@dataclass(frozen=True, slots=True)
class UpstreamFacts:
    """What a server can do with one model. None: it does not say.

    `model`: its own name for it. `streams`, `stream_usage`: whether answers come in parts, and with
    a `usage` at the end. `share_cache`: the operator lets all callers share its prompt cache.
    """

    model: str
    server: Server = Server.OTHER
    context_tokens: int | None = None
    slots: int | None = None
    images: bool | None = None
    tools: bool | None = None
    streams: bool = True
    stream_usage: bool = True
    share_cache: bool = False
    loaded: bool = True
    """Whether it is in the server's memory; if not, its context is only what is usual."""


def listed_models(answer: Any) -> list[dict[str, Any]]:
    """The entries of a list of models, as OpenAI's API has it; empty if it is none."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        return []
    return [m for m in data if isinstance(m, dict) and isinstance(m.get("id"), str)]


def from_entry(entry: dict[str, Any]) -> UpstreamFacts:
    """What the list of models says of one."""
    facts = UpstreamFacts(str(entry["id"]))
    match entry.get("owned_by"):
        case "vllm":
            return replace(
                facts, server=Server.VLLM, context_tokens=_tokens(entry.get("max_model_len"))
            )
        case "llamacpp":
            return replace(facts, server=Server.LLAMA)
        case _:
            # Several other servers have such a field: the first is vLLM's, the second our own.
            context = entry.get("max_model_len", entry.get("context_length"))
            return replace(facts, context_tokens=_tokens(context))


def with_llama_props(facts: UpstreamFacts, props: Any) -> UpstreamFacts:
    """What llama-server's `/props` adds: the context of each of its slots."""
    if not isinstance(props, dict):
        return facts
    settings, modalities = props.get("default_generation_settings"), props.get("modalities")
    context = settings.get("n_ctx") if isinstance(settings, dict) else None
    slots = props.get("total_slots")
    vision = modalities.get("vision") if isinstance(modalities, dict) else None
    return replace(
        facts,
        server=Server.LLAMA,
        context_tokens=_tokens(context),
        slots=slots if type(slots) is int and 1 <= slots <= 10_000 else None,
        images=vision if isinstance(vision, bool) else None,
    )


def with_ollama_show(facts: UpstreamFacts, show: Any, running: Any) -> UpstreamFacts:
    """What Ollama's `/api/show` and `/api/ps` add.

    Its context is what it was loaded with, or what the model file sets, or a default: it cuts a
    longer prompt off without a word, so the model's own limit must not be believed.
    """
    if not isinstance(show, dict):
        return facts
    parameters = show.get("parameters")
    found = _NUM_CTX.search(parameters) if isinstance(parameters, str) else None
    loaded = context = _loaded_context(facts.model, running)
    if context is None:
        context = int(found.group(1)) if found else OLLAMA_CONTEXT_TOKENS_DEFAULT
    own = [
        _tokens(value)
        for key, value in (show.get("model_info") or {}).items()
        if str(key).endswith(".context_length")
    ]
    limits = [tokens for tokens in (_tokens(context), *own) if tokens is not None]
    abilities = show.get("capabilities")
    abilities = abilities if isinstance(abilities, list) else None
    return replace(
        facts,
        server=Server.OLLAMA,
        context_tokens=min(limits, default=None),
        images=None if abilities is None else "vision" in abilities,
        tools=None if abilities is None else "tools" in abilities,
        loaded=loaded is not None,
    )


def with_lm_studio_entry(facts: UpstreamFacts, entry: dict[str, Any]) -> UpstreamFacts:
    """What LM Studio's own list adds: the context that the model is loaded with."""
    loaded = _tokens(entry.get("loaded_context_length"))
    abilities = entry.get("capabilities")
    return replace(
        facts,
        server=Server.LM_STUDIO,
        context_tokens=loaded or _tokens(entry.get("max_context_length")),
        images=entry.get("type") == "vlm",
        tools="tool_use" in abilities if isinstance(abilities, list) else None,
        loaded=loaded is not None,
    )


def _loaded_context(model: str, running: Any) -> int | None:
    models = running.get("models") if isinstance(running, dict) else None
    for entry in models if isinstance(models, list) else ():
        if isinstance(entry, dict) and model in (entry.get("name"), entry.get("model")):
            return _tokens(entry.get("context_length"))
    return None


def _tokens(value: Any) -> int | None:
    return value if type(value) is int and 1 <= value <= TOKENS_MAX else None
