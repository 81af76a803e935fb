"""Forced tool calls: the grammar of every family, and what the demo model writes under it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from gateway.http.tool_calls import ToolCallParser
from node.errors import RuntimeRefusedError
from node.runtime.llama import model as llama_model
from node.runtime.sampling import ForcedCalls, SamplingSettings
from node.runtime.tool_grammar import CallForm, call_form, grammar_of
from tests.fakes.engine_bench import EngineBench, demo_engine

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/place"}},
    "required": ["city"],
    "$defs": {"place": {"type": "string", "maxLength": 30, "pattern": "^[A-Z]"}},
}
UNIT = {"type": "object", "properties": {"unit": {"enum": ["c", "f"]}}, "required": ["unit"]}
QUESTION = "What is the weather in Paris?"


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("get_weather", CITY), tool("set_unit", UNIT), tool("now")]


@pytest.fixture(scope="module")
def bench() -> EngineBench:
    return EngineBench(demo_engine())


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("{{ messages }}", CallForm.PLAIN),
        ("<tool_call>\n", CallForm.HERMES),
        ("Environment: ipython", CallForm.LLAMA),
        ('{{ "[TOOL_CALLS] [" }}', CallForm.MISTRAL),
        ('{{ "[TOOL_CALLS]" + name + "[ARGS]" }}', CallForm.MISTRAL_NAMED),
    ],
)
def test_the_template_tells_the_family(source: str, form: CallForm) -> None:
    assert call_form(source) is form


CASES = list(itertools.product(CallForm, ("get_weather", "set_unit", "now")))


@pytest.mark.parametrize(("form", "name"), CASES)
def test_every_family_writes_a_call_that_is_found(
    bench: EngineBench, monkeypatch: pytest.MonkeyPatch, form: CallForm, name: str
) -> None:
    monkeypatch.setattr(bench.engine.model, "_call_form", form)
    choice = {"type": "function", "function": {"name": name}}
    answer = bench.ask(QUESTION, tools=TOOLS, tool_choice=choice, output_tokens_max=150)
    assert answer.outcome == "stop", answer.text
    parser = ToolCallParser({name: {}})
    (call,) = parser.feed(answer.text) + parser.finish()
    assert not isinstance(call, str)
    arguments = json.loads(call.arguments)
    assert call.name == name
    assert list(arguments) == {"get_weather": ["city"], "set_unit": ["unit"], "now": []}[name]


@pytest.mark.parametrize("seed", range(8))
def test_random_forced_answers_are_calls(bench: EngineBench, seed: int) -> None:
    """However strange the draw: at least one call, nothing else, unless the limit cut it off."""
    answer = bench.ask(
        "Hello",
        tools=TOOLS,
        tool_choice="required",
        temperature=2.0,
        seed=seed,
        output_tokens_max=400,
    )
    parser = ToolCallParser({"get_weather": {}, "set_unit": {}, "now": {}})
    pieces = parser.feed(answer.text) + parser.finish()
    assert parser.calls
    if answer.outcome == "stop":
        assert not any(isinstance(piece, str) for piece in pieces)


def test_a_forced_call_can_be_resumed(bench: EngineBench) -> None:
    options = {"tools": TOOLS, "tool_choice": "required"}
    whole = bench.ask(QUESTION, **options)
    half = bench.ask(QUESTION, resume=tuple(whole.tokens[:9]), **options)
    assert whole.tokens[9:] == half.tokens
    with pytest.raises(RuntimeRefusedError, match="resume"):
        bench.submit(QUESTION, resume=tuple(reversed(whole.tokens)), **options)


def test_marks_of_calls_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models have the marks as control tokens, which stand for nothing otherwise."""
    mark = "<|im_start|>"
    plain = demo_engine().model
    (token,) = plain.tokenize(mark)
    assert plain.piece(token) == b""
    monkeypatch.setattr(llama_model, "TOOL_MARKS", (mark, "no token of this vocabulary"))
    assert demo_engine().model.piece(token) == mark.encode()


def fails(schema: str) -> str:
    raise KeyError(schema)


def test_schemas_that_cannot_be_used_name_the_function() -> None:
    forced = SamplingSettings(forced_calls=ForcedCalls((("f", "{}"),), several=False))
    with pytest.raises(RuntimeRefusedError, match="of the function f: "):
        grammar_of(forced, CallForm.PLAIN, fails, "")
    with pytest.raises(RuntimeRefusedError, match="too large"):
        grammar_of(forced, CallForm.PLAIN, lambda schema: 'root ::= "a"\n' * 30_000, "")
    with pytest.raises(RuntimeRefusedError, match="of the JSON schema: "):
        grammar_of(SamplingSettings(json_schema='{"a": 1}'), CallForm.PLAIN, fails, "")
    assert grammar_of(SamplingSettings(), CallForm.PLAIN, fails, "") is None
    assert grammar_of(SamplingSettings(json_schema="{}"), CallForm.PLAIN, fails, "any") == "any"
