"""Owns the rendering of a chat into a prompt by the model's own template.

The template comes with the model file and is part of the model's identity, but it is still a
program of somebody else: it runs in jinja2's immutable sandbox, gets plain data, and its output
is bounded. The environment is that of Hugging Face transformers (`apply_chat_template`): trimmed
blocks, `break` and `continue`, `tojson` without HTML escaping, `raise_exception`. `strftime_now`
writes the day that the request carries, never that of this computer: a prompt must be the same at
every node (`node.runtime.template_date`). Without a day it is not defined; templates that ask
whether it is have a text of their own for that.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.errors import ModelFileError, RuntimeRefusedError
from node.limits import CHAT_TEMPLATE_BYTES_MAX, PROMPT_CHARACTERS_MAX
from node.runtime.template_date import write_day

_NO_DAY = (
    "this model's chat template writes the day's date, and the request brings none (its gateway is "
    "of an older version)"
)
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


class _Generation(Extension):
    """transformers' `{% generation %}`: it marks what assistants said, for training only."""

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_Generation.tags = {"generation"}


class _Arguments(dict[str, Any]):
    """A call's arguments: an object for templates that look into it, and its JSON for those that
    write it out as a text."""

    def __str__(self) -> str:
        return _to_json(self)

    def __add__(self, other: Any) -> str:
        return str(self) + str(other)

    def __radd__(self, other: Any) -> str:
        return str(other) + str(self)


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        """Compile a template; `bos` and `eos` are the texts of the model's begin and end tokens.

        Raises: ModelFileError if it is too long or not valid jinja2.
        """
        if len(source.encode()) > CHAT_TEMPLATE_BYTES_MAX:
            raise ModelFileError(f"the chat template has more than {CHAT_TEMPLATE_BYTES_MAX} bytes")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            autoescape=False,
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(source)
            self._takes_tools = "tools" in meta.find_undeclared_variables(environment.parse(source))
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelFileError(f"the chat template is not valid jinja2: {error}") from error
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._ids_are_short = "[TOOL_CALLS]" in source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        day: datetime.date | None = None,
    ) -> str:
        """Render a chat up to the place where the assistant's answer begins; `day` is the job's.

        Raises: RuntimeRefusedError `bad_request` if the template refuses the messages or fails on
        them; `unsupported` if there are tools and it does not show them to the model, or it writes
        the day and there is none.
        """
        if tools and not self._takes_tools:
            raise RuntimeRefusedError("unsupported", "this model's chat template takes no tools")
        values: dict[str, Any] = {
            **self._tokens,
            "messages": self._with_objects(messages),
            "tools": list(tools) or None,
            "add_generation_prompt": True,
        }
        if day is not None:
            values["strftime_now"] = partial(write_day, day)
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
            if (
                day is None
                and isinstance(error, jinja2.UndefinedError)
                and "strftime_now" in str(error)
            ):
                raise RuntimeRefusedError("unsupported", _NO_DAY) from error
            # The template is a foreign program: whatever it raises on these messages is a refusal.
            raise RuntimeRefusedError(
                "bad_request", f"the model's chat template cannot take it ({type(error).__name__})"
            ) from error
        if characters > PROMPT_CHARACTERS_MAX:
            raise RuntimeRefusedError(
                "bad_request", f"the prompt is longer than {PROMPT_CHARACTERS_MAX} characters"
            )
        return "".join(pieces)

    def _with_objects(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Give tool calls their arguments as objects, as templates expect; OpenAI sends JSON text.

        Mistral's templates take only IDs of nine letters and digits: others get such a name.
        """
        result = []
        for message in messages:
            copy = dict(message)
            calls = copy.get("tool_calls")
            if isinstance(calls, list):
                copy["tool_calls"] = [self._short(_parsed_call(call), "id") for call in calls]
            result.append(self._short(copy, "tool_call_id"))
        return result

    def _short(self, item: Any, key: str) -> Any:
        name = item.get(key) if isinstance(item, dict) else None
        if not self._ids_are_short or not isinstance(name, str) or _SHORT_ID.fullmatch(name):
            return item
        short = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:9]
        return {**item, key: short}


class _TemplateRefusal(jinja2.TemplateError):
    """The template itself refused the messages."""


def _raise_exception(message: object = "") -> NoReturn:
    raise _TemplateRefusal(str(message)[:200])


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _parsed_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    if isinstance(arguments, dict):
        arguments = _Arguments(arguments)
    return {**call, "function": {**function, "arguments": arguments}}
