"""Owns the grammars of answers: a JSON schema's, and that of forced tool calls. Pure.

A forced call (`tool_choice`) is written in the form that the model's chat template teaches, so that
the model says what it would say anyway; the arguments follow the function's parameter schema. The
converter from a schema to a grammar is llama.cpp's and is given; its rules are renamed, so that
those of several functions stand in one grammar. Grammar format: GBNF (llama.cpp, grammars/README).
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable

from node.errors import RuntimeRefusedError
from node.limits import FORCED_CALLS_MAX, GRAMMAR_CHARACTERS_MAX
from node.runtime.sampling import ForcedCalls, SamplingSettings

SchemaConverter = Callable[[str], str]
"""Makes a grammar with the rule `root` of a JSON schema; raises whatever it likes."""
TOOL_MARKS = (
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
)
"""Texts of control tokens that stand around calls: they are part of the answer's text."""
_WORD_OF_RULE = re.compile(
    r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\\.|\{[0-9, ]*\}|[A-Za-z0-9_-]+'
)
_LOOSE_CHARACTER = r'[^"\\] |'
_CHARACTER = r'[^"\\\x7F\x00-\x1F] |'
"""llama.cpp's converter lets strings have line breaks as they are, which JSON does not."""


class CallForm(enum.Enum):
    """How a family of models writes a call: what stands before a call, between its parts, after it
    and between calls, and before and after all."""

    PLAIN = ("", '{"name": "', '", "arguments": ', "}", "", "")
    HERMES = ("", '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n", "")
    LLAMA = ("", '{"name": "', '", "parameters": ', "}", "; ", "")
    MISTRAL = ("[TOOL_CALLS][", '{"name": "', '", "arguments": ', "}", ", ", "]")
    MISTRAL_NAMED = ("", "[TOOL_CALLS]", "[ARGS]", "", "", "")


def call_form(template_source: str) -> CallForm:
    """Tell the family by the marks in a model's chat template."""
    if "[TOOL_CALLS]" in template_source:
        return CallForm.MISTRAL_NAMED if "[ARGS]" in template_source else CallForm.MISTRAL
    if "<tool_call>" in template_source:
        return CallForm.HERMES
    if "<|python_tag|>" in template_source or "ipython" in template_source:
        return CallForm.LLAMA
    return CallForm.PLAIN


def grammar_of(
    settings: SamplingSettings, form: CallForm, convert: SchemaConverter, any_object: str
) -> str | None:
    """Give the grammar that an answer must follow, or None; forced calls win over a schema.

    Raises: RuntimeRefusedError `bad_request` if a schema cannot be used.
    """
    if settings.forced_calls is not None:
        text = _calls_grammar(settings.forced_calls, form, convert)
    elif settings.json_schema is None:
        return None
    elif settings.json_schema == "{}":
        text = any_object
    else:
        text = _converted(settings.json_schema, convert, "the JSON schema")
    if len(text) > GRAMMAR_CHARACTERS_MAX:
        raise RuntimeRefusedError("bad_request", "the JSON schema makes too large a grammar")
    return text


def _converted(schema: str, convert: SchemaConverter, what: str) -> str:
    try:
        return convert(schema).replace(_LOOSE_CHARACTER, _CHARACTER)
    except Exception as error:
        # A converter of somebody else on a caller's schema: whatever it raises is a refusal.
        reason = f"no grammar can be made of {what}: is it a valid JSON schema?"
        raise RuntimeRefusedError("bad_request", reason) from error


def _calls_grammar(forced: ForcedCalls, form: CallForm, convert: SchemaConverter) -> str:
    before_all, before, between, after, separator, after_all = form.value
    rules = []
    size = 0
    for index, (name, schema) in enumerate(forced.functions):
        what = f"the parameters of the function {name}"
        rules.append(_renamed(_converted(schema, convert, what), f"f{index}-"))
        rules.append(
            f"call-{index} ::= {_literal(before + name + between)} f{index}-root {_literal(after)}"
        )
        size += len(rules[-2])
        if size > GRAMMAR_CHARACTERS_MAX:
            break  # the caller refuses it
    calls = " | ".join(f"call-{index}" for index in range(len(forced.functions)))
    more = f" ({_literal(separator)} call){{0,{FORCED_CALLS_MAX - 1}}}" if forced.several else ""
    root = f"root ::= {_literal(before_all)} call{more} {_literal(after_all)}"
    return "\n".join([root, f"call ::= {calls}", *rules]) + "\n"


def _literal(text: str) -> str:
    return json.dumps(text)


def _renamed(grammar: str, prefix: str) -> str:
    """Put a prefix before the name of every rule; strings and character classes are left alone."""

    def rename(found: re.Match[str]) -> str:
        word = found.group()
        return word if word[0] in '"[{\\' else prefix + word

    return _WORD_OF_RULE.sub(rename, grammar.strip())
