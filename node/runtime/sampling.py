"""Owns the reading of a request's JSON: what to render and how to sample. Pure.

The gateway has validated the request already; the runtime does it again because it believes
nobody. What this runtime cannot do is refused with `unsupported` rather than ignored, because the
consumer pays for it. Fields that do not change the output (`user`, `metadata`, `stream`, ...) are
ignored. The model's answer is drawn with the offer's seed, never with the request's own `seed`
field (the gateway copies it there). Field meanings and ranges: OpenAI API reference, chat
completions; `top_k` and `min_p` as in llama.cpp.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.errors import RuntimeRefusedError
from node.limits import (
    LOGIT_BIAS_ENTRIES_MAX,
    SCHEMA_CHARACTERS_MAX,
    SCHEMA_DEPTH_MAX,
    SCHEMA_NODES_MAX,
    SCHEMA_READINGS_MAX,
    SCHEMA_REPEAT_MAX,
    STOP_CHARACTERS_MAX,
    STOP_STRINGS_MAX,
    TOOLS_MAX,
    TOP_K_MAX,
)
from node.runtime.schema_ambiguity import readings_of
from node.runtime.template_date import day_of
from p2p.limits import CHOICES_MAX, TOP_LOGPROBS_MAX

_UNSUPPORTED = (
    "functions",
    "function_call",
    "audio",
    "web_search_options",
)
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NUMBER_LIMITS = ("minLength", "maxLength", "minItems", "maxItems")


@dataclass(frozen=True, slots=True)
class ForcedCalls:
    """The answer must be a call of one of these functions: names and JSON texts of the schemas of
    their parameters. `several`: more than one call may follow each other."""

    functions: tuple[tuple[str, str], ...]
    several: bool


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How to draw tokens. `temperature` 0 takes the most likely token; `top_k` 0 means all.

    `json_schema`: the JSON text of a schema that the output must follow, `{}` for any object, or
    None.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    json_schema: str | None = None
    forced_calls: ForcedCalls | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request as the runtime understands it.

    `output_tokens_max` is the request's own bound or None. `top_logprobs`: how many of the
    likeliest tokens are told with each token's logarithmic probability; None: not even that.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...]
    stop_strings: tuple[str, ...]
    output_tokens_max: int | None
    sampling: SamplingSettings
    day: datetime.date | None = None
    top_logprobs: int | None = None


def draw_seed(seed: int, position: int) -> int:
    """Give the seed of the random draw for one output position: below 2**32 - 1.

    Depends on nothing else, so a job continued elsewhere draws the same (DESIGN.md decision 10).
    2**32 - 1 itself means "take a random seed" to llama.cpp (LLAMA_DEFAULT_SEED) and is avoided.
    """
    data = seed.to_bytes(8, "big") + position.to_bytes(8, "big")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") % (2**32 - 1)


def read_request(data: bytes) -> ChatRequest:
    """Read and validate the JSON of a chat request.

    Raises: RuntimeRefusedError `bad_request` (names the field) or `unsupported`.
    """
    fields = _parse(data)
    for name in _UNSUPPORTED:
        if fields.get(name) not in (None, False, 0, [], {}):
            raise _unsupported(f"{name} is not supported by this runtime")
    # The agent has each choice run as a job of its own.
    _integer(fields, "n", 1, 1, CHOICES_MAX)
    if fields.get("modalities") not in (None, ["text"]):
        raise _unsupported("modalities other than text are not supported by this runtime")
    forced_calls = _forced_calls(fields)
    tools = _tools(fields)
    return ChatRequest(
        messages=_messages(fields.get("messages")),
        tools=tools,
        stop_strings=_stop_strings(fields.get("stop")),
        output_tokens_max=_output_tokens_max(fields),
        sampling=SamplingSettings(
            temperature=_number(fields, "temperature", 1.0, 0.0, 2.0),
            top_p=_number(fields, "top_p", 1.0, 0.0, 1.0),
            top_k=_integer(fields, "top_k", 0, -1, TOP_K_MAX),
            min_p=_number(fields, "min_p", 0.0, 0.0, 1.0),
            presence_penalty=_number(fields, "presence_penalty", 0.0, -2.0, 2.0),
            frequency_penalty=_number(fields, "frequency_penalty", 0.0, -2.0, 2.0),
            logit_bias=_logit_bias(fields.get("logit_bias")),
            json_schema=_json_schema(fields.get("response_format")),
            forced_calls=forced_calls,
        ),
        top_logprobs=_top_logprobs(fields),
        day=day_of(fields.get("date")),
    )


def _bad(reason: str) -> RuntimeRefusedError:
    return RuntimeRefusedError("bad_request", reason)


def _unsupported(reason: str) -> RuntimeRefusedError:
    return RuntimeRefusedError("unsupported", reason)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _bad("the request is not valid JSON") from error
    if not isinstance(fields, dict):
        raise _bad("the request must be a JSON object")
    return fields


def _number(
    fields: Mapping[str, Any], name: str, default: float, minimum: float, maximum: float
) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not minimum <= value <= maximum:
        raise _bad(f"{name} must be a number from {minimum:g} to {maximum:g}")
    return float(value)


def _integer(fields: Mapping[str, Any], name: str, default: int, minimum: int, maximum: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not int or not minimum <= value <= maximum:
        raise _bad(f"{name} must be an integer from {minimum} to {maximum}")
    return value


def _output_tokens_max(fields: Mapping[str, Any]) -> int | None:
    bounds = (
        _integer(fields, name, 1, 1, 2**31 - 1)
        for name in ("max_tokens", "max_completion_tokens")
        if fields.get(name) is not None
    )
    return min(bounds, default=None)


def _top_logprobs(fields: Mapping[str, Any]) -> int | None:
    count = _integer(fields, "top_logprobs", 0, 0, TOP_LOGPROBS_MAX)
    wanted = fields.get("logprobs")
    if not isinstance(wanted, bool | None):
        raise _bad("logprobs must be true or false")
    if count and not wanted:
        raise _bad("top_logprobs is only allowed when logprobs is true")
    return count if wanted else None


def _stop_strings(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > STOP_STRINGS_MAX:
        raise _bad(f"stop must be a string or a list of at most {STOP_STRINGS_MAX} strings")
    for item in items:
        if not isinstance(item, str) or not 0 < len(item) <= STOP_CHARACTERS_MAX:
            raise _bad(f"each stop string must have 1 to {STOP_CHARACTERS_MAX} characters")
    return tuple(items)


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > LOGIT_BIAS_ENTRIES_MAX:
        raise _bad(f"logit_bias must be an object of at most {LOGIT_BIAS_ENTRIES_MAX} entries")
    entries = []
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise _bad("the keys of logit_bias must be token IDs")
        entries.append((int(key), _number({"logit_bias": bias}, "logit_bias", 0.0, -100.0, 100.0)))
    return tuple(sorted(entries))


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise _bad("messages must be a list of at least one message")
    return tuple(_message(item, index) for index, item in enumerate(value))


def _message(item: Any, index: int) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise _bad(f"messages[{index}] must be an object")
    role = item.get("role")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise _bad(f"messages[{index}].role is unknown")
    message = {key: entry for key, entry in item.items() if entry is not None}
    message["role"] = "system" if role == "developer" else role
    message["content"] = _content(item.get("content"), index)
    return message


def _content(value: Any, index: int) -> str:
    """Flatten content to text; chat templates expect one string."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _bad(f"messages[{index}].content must be a string or a list of parts")
    texts: list[str] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            raise _unsupported(f"messages[{index}].content has a part that is not text")
        text = part.get(kind)
        if not isinstance(text, str):
            raise _bad(f"messages[{index}].content has a text part without text")
        texts.append(text)
    return "".join(texts)


def _functions(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The functions of a request's tools, checked."""
    tools = fields.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list) or len(tools) > TOOLS_MAX:
        raise _bad(f"tools must be a list of at most {TOOLS_MAX}")
    functions = []
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            raise _bad(f"tools[{index}].function.name is missing")
        if not _FUNCTION_NAME.fullmatch(name):
            raise _bad(f"tools[{index}].function.name is no name of a function")
        if not isinstance(function.get("parameters"), dict | None):
            raise _bad(f"tools[{index}].function.parameters must be an object")
        functions.append(function)
    return functions


def _tools(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The tools as templates expect them; they look into parameters and properties unasked."""
    functions = _functions(fields)
    if fields.get("tool_choice") == "none":
        return ()
    tools = []
    for tool, function in zip(fields.get("tools") or (), functions, strict=True):
        parameters = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
        tools.append({**tool, "function": {**function, "parameters": parameters}})
    return tuple(tools)


def _forced_calls(fields: Mapping[str, Any]) -> ForcedCalls | None:
    """Which calls `tool_choice` forces, if it does."""
    choice = fields.get("tool_choice")
    if choice in (None, "auto", "none"):
        return None
    functions = _functions(fields)
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise _unsupported("tool_choice other than a function is not supported by this runtime")
        chosen = choice.get("function")
        name = chosen.get("name") if isinstance(chosen, dict) else None
        functions = [function for function in functions if function["name"] == name]
    elif choice != "required":
        raise _bad("tool_choice must be none, auto, required or a function")
    if not functions or len({function["name"] for function in functions}) < len(functions):
        raise _bad("tool_choice asks for a function that is not among the tools, or there twice")
    return ForcedCalls(
        tuple((function["name"], _parameters_schema(function)) for function in functions),
        several=choice == "required" and fields.get("parallel_tool_calls") is not False,
    )


def _parameters_schema(function: Mapping[str, Any]) -> str:
    """The schema of a function's arguments; without one it takes none.

    A `pattern` is left out unless the function is `strict`: a grammar cannot follow it, and OpenAI
    promises it for strict functions only.
    """
    schema = function.get("parameters")
    if not schema:
        schema = {"type": "object", "properties": {}}
    if not function.get("strict"):
        schema = _without_patterns(schema, SCHEMA_DEPTH_MAX)
    return _schema_text(schema)


def _without_patterns(node: Any, depth: int) -> Any:
    if depth < 0:
        return node  # refused by the check that follows
    if isinstance(node, list):
        return [_without_patterns(item, depth - 1) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without_patterns(item, depth - 1)
        for key, item in node.items()
        if not (key == "pattern" and isinstance(item, str))
    }


def _json_schema(value: Any) -> str | None:
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return "{}"
    if kind != "json_schema":
        raise _bad("response_format.type must be text, json_object or json_schema")
    wrapper = value.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
    if not isinstance(schema, dict):
        raise _bad("response_format.json_schema.schema must be an object")
    return _schema_text(schema)


def _schema_text(schema: dict[str, Any]) -> str:
    _check_schema(schema)
    if readings_of(schema, SCHEMA_READINGS_MAX) > SCHEMA_READINGS_MAX:
        raise _bad("the JSON schema has too many alternatives that begin alike in each other")
    text = json.dumps(schema)
    if len(text) > SCHEMA_CHARACTERS_MAX:
        raise _bad(f"the JSON schema is longer than {SCHEMA_CHARACTERS_MAX} characters")
    return text


def _check_schema(schema: dict[str, Any]) -> None:
    """Refuse schemas that would make a grammar of unreasonable size, or one that cannot be made."""
    nodes = 0
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        node, depth = waiting.pop()
        nodes += 1
        if nodes > SCHEMA_NODES_MAX or depth > SCHEMA_DEPTH_MAX:
            raise _bad(
                f"the JSON schema has more than {SCHEMA_NODES_MAX} parts "
                f"or {SCHEMA_DEPTH_MAX} levels"
            )
        if isinstance(node, list):
            waiting.extend((item, depth + 1) for item in node)
        if not isinstance(node, dict):
            continue
        for name in _NUMBER_LIMITS:
            limit = node.get(name)
            if isinstance(limit, int | float) and not 0 <= limit <= SCHEMA_REPEAT_MAX:
                raise _bad(f"{name} in the JSON schema must be from 0 to {SCHEMA_REPEAT_MAX}")
        if isinstance(node.get("pattern"), str):
            raise _unsupported("pattern in a JSON schema is not supported by this runtime")
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#/"):
            raise _unsupported("a JSON schema can only refer to its own parts (#/...)")
        waiting.extend((item, depth + 1) for item in node.values())
