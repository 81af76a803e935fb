"""What of an upstream's answer becomes text: calls round trip, thoughts, malformed parts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.call_objects import Call
from gateway.http.tool_calls import ToolCallParser
from node.upstream.answers import AnswerReader, Usage
from node.upstream.errors import UpstreamError

FUNCTIONS: dict[str, dict[str, Any]] = {"get_weather": {}, "get_time": {}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=9), JSON, max_size=4)


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> str:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return json.dumps({"choices": choices, **more})


def read(*events: str) -> str:
    reader = AnswerReader()
    return "".join(reader.feed(one) for one in events)


def found(text: str) -> tuple[str, list[Call]]:
    parser = ToolCallParser(FUNCTIONS, parallel=True)
    pieces = parser.feed(text) + parser.finish()
    plain = "".join(piece for piece in pieces if isinstance(piece, str))
    return plain, [piece for piece in pieces if isinstance(piece, Call)]


@given(
    calls=st.lists(st.tuples(st.sampled_from(sorted(FUNCTIONS)), ARGUMENTS), max_size=4),
    content=st.sampled_from(["", "Let me look."]),
    size=st.integers(1, 30),
    whole=st.booleans(),
    ascii_only=st.booleans(),
)
def test_calls_that_come_in_parts_are_found_by_the_gateway(
    calls: list[tuple[str, dict[str, Any]]], content: str, size: int, whole: bool, ascii_only: bool
) -> None:
    texts = [json.dumps(arguments, ensure_ascii=ascii_only) for _, arguments in calls]
    if whole:
        parts = [
            {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": text}}
            for n, ((name, _), text) in enumerate(zip(calls, texts, strict=True))
        ]
        events = [event({"content": content or None, "tool_calls": parts}, "tool_calls")]
    else:
        events = [event({"role": "assistant", "content": content})]
        for n, ((name, _), text) in enumerate(zip(calls, texts, strict=True)):
            begin = {"index": n, "id": f"c{n}", "function": {"name": name, "arguments": ""}}
            events.append(event({"tool_calls": [begin]}))
            for place in range(0, len(text), size):
                function = {"arguments": text[place : place + size]}
                events.append(event({"tool_calls": [{"index": n, "function": function}]}))
        events.append(event(finish="tool_calls"))
    plain, got = found(read(*events))
    assert plain == content
    assert [(call.name, json.loads(call.arguments)) for call in got] == calls


def test_calls_without_index_or_with_the_same_one_are_divided_by_their_ids() -> None:
    def part(call_id: str, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": {"city": "Rome"}}  # as Ollama's own API has them
        return {"index": 0, "id": call_id, "function": function}

    text = read(
        event({"tool_calls": [part("a", "get_time")]}),
        event({"tool_calls": [part("b", "get_weather")]}),
        event(finish="tool_calls"),
    )
    assert [call.name for call in found(text)[1]] == ["get_time", "get_weather"]


def test_a_call_without_arguments_has_none_and_a_broken_one_stays_text() -> None:
    begin = {"index": 0, "id": "a", "function": {"name": "get_time"}}
    text = read(event({"tool_calls": [begin]}), event(finish="stop"))
    assert found(text)[1] == [Call("get_time", "{}")]
    begin["function"] = {"name": "get_time", "arguments": '{"broken'}
    plain, calls = found(read(event({"tool_calls": [begin]}), event(finish="stop")))
    assert not calls
    assert "broken" in plain


def test_thoughts_stand_in_think_and_are_left_out_of_json() -> None:
    events = [
        event({"reasoning_content": "Hm"}),
        event({"reasoning": "m."}),
        event({"content": "Yes"}, "stop"),
    ]
    assert read(*events) == "<think>\nHmm.\n</think>\n\nYes"
    reader = AnswerReader(with_thoughts=False)
    assert "".join(reader.feed(one) for one in events) == "Yes"


def test_usage_and_finish() -> None:
    reader = AnswerReader()
    reader.feed(event({"content": "a"}, "content_filter"))
    assert reader.finish == "stop"
    for bad in ({}, [], {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": True}):
        reader.feed(json.dumps({"choices": [], "usage": bad}))
        assert reader.usage is None
    good = {"prompt_tokens": 3, "completion_tokens": 4}
    reader.feed(json.dumps({"choices": [], "usage": good}))
    assert reader.usage == Usage(3, 4)


def test_half_characters_do_not_get_through() -> None:
    assert read(r'{"choices": [{"delta": {"content": "\ud83d"}}]}') == "?"


def call_part(**fields: Any) -> str:
    return event({"tool_calls": [fields]})


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "[" * 100_000,
        '{"choices": 3}',
        event({"content": 5}),
        call_part(index=0),
        event({"tool_calls": {"a": 1}}),
        call_part(index="x", function={"name": "a"}),
        call_part(index=0, function={"name": "a", "arguments": 7}),
        call_part(index=1, function={"arguments": "{}"}),
        event(finish="error"),
        '{"error": {"message": "secret /home/operator"}}',
    ],
)
def test_what_breaks_the_form_is_an_error_that_quotes_nothing(text: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        AnswerReader().feed(text)
    assert "operator" not in str(caught.value)
    assert caught.value.code == "failed"


@given(st.text(max_size=200) | JSON.map(json.dumps))
def test_any_event_is_read_or_refused(text: str) -> None:
    try:
        AnswerReader().feed(text)
    except UpstreamError:
        pass


def test_an_error_in_the_stream_keeps_its_meaning() -> None:
    error = {"code": 400, "type": "exceed_context_size_error", "message": "too long"}
    with pytest.raises(UpstreamError) as caught:
        AnswerReader().feed(json.dumps({"error": error}))
    assert caught.value.code == "context_length_exceeded"
