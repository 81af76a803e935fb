"""Owns the rendering of a chat into a prompt by the model's own template.

The template comes with the model file and is part of the model's identity, but it is still a
program of somebody else: it runs in jinja2's immutable sandbox, gets plain data, and its output
is bounded. The environment is that of Hugging Face transformers (`apply_chat_template`): trimmed
blocks, `break` and `continue`, `tojson` without HTML escaping, `raise_exception`. `strftime_now`
is missing on purpose: a prompt that depends on the day could not be checked by re-execution, nor
continued by another node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.errors import ModelFileError, RuntimeRefusedError
from node.limits import CHAT_TEMPLATE_BYTES_MAX, PROMPT_CHARACTERS_MAX


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        """Compile a template; `bos` and `eos` are the texts of the model's begin and end tokens.

        Raises: ModelFileError if it is too long or not valid jinja2.
        """
        if len(source.encode()) > CHAT_TEMPLATE_BYTES_MAX:
            raise ModelFileError(f"the chat template has more than {CHAT_TEMPLATE_BYTES_MAX} bytes")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], autoescape=False
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelFileError(f"the chat template is not valid jinja2: {error}") from error
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Render a chat up to the place where the assistant's answer begins.

        Raises: RuntimeRefusedError `bad_request` if the template refuses the messages or fails on
        them.
        """
        values = {
            **self._tokens,
            "messages": _with_parsed_arguments(messages),
            "tools": list(tools) or None,
            "add_generation_prompt": True,
        }
        pieces: list[str] = []
        characters = 0
        try:
            for piece in self._template.generate(values):
                pieces.append(piece)
                characters += len(piece)
                if characters > PROMPT_CHARACTERS_MAX:
                    break
        except _TemplateRefusal as error:
            raise RuntimeRefusedError(
                "bad_request", f"the model's template says: {error}"
            ) from error
        except Exception as error:
            # The template is a foreign program: whatever it raises on these messages is a refusal.
            raise RuntimeRefusedError(
                "bad_request", f"the model's chat template cannot take it ({type(error).__name__})"
            ) from error
        if characters > PROMPT_CHARACTERS_MAX:
            raise RuntimeRefusedError(
                "bad_request", f"the prompt is longer than {PROMPT_CHARACTERS_MAX} characters"
            )
        return "".join(pieces)


class _TemplateRefusal(jinja2.TemplateError):
    """The template itself refused the messages."""


def _raise_exception(message: object = "") -> NoReturn:
    raise _TemplateRefusal(str(message)[:200])


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _with_parsed_arguments(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give tool calls their arguments as objects, as templates expect; OpenAI sends JSON text."""
    result = []
    for message in messages:
        copy = dict(message)
        calls = copy.get("tool_calls")
        if isinstance(calls, list):
            copy["tool_calls"] = [_parsed_call(call) for call in calls]
        result.append(copy)
    return result


def _parsed_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}
