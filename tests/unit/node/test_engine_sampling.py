"""Requests as the runtime reads them: ranges, refusals, hostile JSON."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import RuntimeRefusedError
from node.runtime.sampling import SamplingSettings, draw_seed, read_request

CHAT = [{"role": "user", "content": "Hi"}]


def read(**fields: Any) -> Any:
    return read_request(json.dumps({"messages": CHAT, **fields}).encode())


def test_defaults() -> None:
    chat = read()
    assert chat.sampling == SamplingSettings()
    assert chat.stop_strings == ()
    assert chat.output_tokens_max is None
    assert dict(chat.messages[0]) == {"role": "user", "content": "Hi"}


def test_everything_is_read() -> None:
    chat = read(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        presence_penalty=1,
        frequency_penalty=-2,
        logit_bias={"7": -100, "3": 1.5},
        stop="END",
        max_tokens=9,
        max_completion_tokens=5,
        user="somebody",
        stream=True,
    )
    assert chat.sampling == SamplingSettings(
        0.5, 0.9, 40, 0.05, 1.0, -2.0, ((3, 1.5), (7, -100.0)), None
    )
    assert chat.stop_strings == ("END",)
    assert chat.output_tokens_max == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2.1},
        {"temperature": "hot"},
        {"temperature": True},
        {"top_p": -0.1},
        {"top_k": 1.5},
        {"min_p": 2},
        {"presence_penalty": 3},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"1": 101}},
        {"logit_bias": []},
        {"stop": ""},
        {"stop": ["a"] * 17},
        {"stop": 3},
        {"max_tokens": 0},
        {"messages": []},
        {"messages": "Hi"},
        {"messages": [{"role": "robot", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"tools": [{}]},
        {"tools": [{"function": {"name": "a b"}}]},
        {"tools": [{"function": {"name": "f", "parameters": 1}}]},
        {"tool_choice": "required"},
        {"tool_choice": "perhaps", "tools": [{"function": {"name": "f"}}]},
        {
            "tool_choice": {"type": "function", "function": {"name": "g"}},
            "tools": [{"function": {"name": "f"}}],
        },
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_bad_requests_name_the_field(fields: dict[str, Any]) -> None:
    with pytest.raises(RuntimeRefusedError) as caught:
        read(**fields)
    assert caught.value.code == "bad_request"
    assert next(iter(fields)).split("_")[0] in caught.value.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": {"type": "custom"}},
        {"modalities": ["audio"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"type": "string", "pattern": "a+"}},
            }
        },
    ],
)
def test_what_it_cannot_do_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RuntimeRefusedError) as caught:
        read(**fields)
    assert caught.value.code == "unsupported"


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_refused_cleanly(data: bytes) -> None:
    with pytest.raises(RuntimeRefusedError):
        read_request(data)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b'{"temperature": NaN}'])
def test_hostile_json_is_refused(data: bytes) -> None:
    with pytest.raises(RuntimeRefusedError):
        read_request(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["messages", "temperature", "top_p", "stop", "logit_bias", "tools", "tool_choice"]
            + ["n", "logprobs", "response_format", "max_tokens", "modalities"]
        ),
        json_values,
    )
)
def test_any_fields_are_read_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(RuntimeRefusedError):
        read(**fields)


def test_content_parts_become_text() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    chat = read(messages=[{"role": "developer", "content": parts}])
    assert dict(chat.messages[0]) == {"role": "system", "content": "one two"}


def test_a_schema_of_unreasonable_size_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(20):
        schema = {"type": "array", "items": schema}
    with pytest.raises(RuntimeRefusedError, match="levels"):
        read(response_format={"type": "json_schema", "json_schema": {"schema": schema}})


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**20))
def test_draw_seed_never_means_random(seed: int, position: int) -> None:
    value = draw_seed(seed, position)
    assert 0 <= value < 2**32 - 1
    assert value == draw_seed(seed, position)
    assert value != draw_seed(seed, position + 1)


def test_tools_get_what_templates_look_into() -> None:
    chat = read(tools=[{"type": "function", "function": {"name": "f"}}])
    assert chat.tools[0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert chat.sampling.forced_calls is None
    assert read(tools=[{"function": {"name": "f"}}], tool_choice="none").tools == ()


def test_forced_calls() -> None:
    tools = [
        {"function": {"name": "f", "parameters": {"properties": {"pattern": {"pattern": "a+"}}}}},
        {"function": {"name": "g"}},
    ]
    forced = read(tools=tools, tool_choice="required").sampling.forced_calls
    assert forced.several
    assert [name for name, _ in forced.functions] == ["f", "g"]
    assert json.loads(forced.functions[0][1]) == {"properties": {"pattern": {}}}
    chosen = {"type": "function", "function": {"name": "g"}}
    forced = read(tools=tools, tool_choice=chosen).sampling.forced_calls
    assert [name for name, _ in forced.functions] == ["g"]
    assert not forced.several
    alone = read(tools=tools, tool_choice="required", parallel_tool_calls=False)
    assert not alone.sampling.forced_calls.several
    tools[0]["function"]["strict"] = True
    with pytest.raises(RuntimeRefusedError, match="pattern"):
        read(tools=tools, tool_choice="required")
