"""Chat templates: what they get, and that a hostile one gets nowhere."""

from __future__ import annotations

import pytest

from node.errors import ModelFileError, RuntimeRefusedError
from node.runtime.chat_template import ChatTemplate

SIMPLE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def test_renders_up_to_the_answer() -> None:
    messages = [{"role": "user", "content": "<b> & {{ 1 }}"}]
    assert ChatTemplate(SIMPLE).render(messages) == "<user><b> & {{ 1 }}<assistant>"


def test_tokens_and_tools_are_given() -> None:
    template = ChatTemplate("{{ bos_token }}{{ tools | tojson }}{{ eos_token }}", bos="B", eos="E")
    assert template.render([], [{"name": "ü<"}]) == 'B[{"name": "ü<"}]E'


def test_tool_call_arguments_become_objects() -> None:
    template = ChatTemplate("{{ messages[0].tool_calls[0].function.arguments.city }}")
    call = {"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    assert template.render([{"role": "assistant", "content": "", "tool_calls": [call]}]) == "Paris"


def test_tool_call_arguments_written_out_are_json() -> None:
    call = {"function": {"name": "f", "arguments": '{"a": [true, "ü"]}'}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    for use in ("{{ a }}", "{{ '' + a }}", "{{ a + '' }}", "{{ a | tojson }}", "{{ '' ~ a }}"):
        source = "{% set a = messages[0].tool_calls[0].function.arguments %}" + use
        assert ChatTemplate(source).render(messages) == '{"a": [true, "ü"]}'


def test_the_tag_for_training_changes_nothing() -> None:
    source = "a{% generation %}{{ messages[0].content }}{% endgeneration %}c"
    assert ChatTemplate(source).render([{"role": "user", "content": "b"}]) == "abc"


def test_tools_that_the_model_would_not_see_are_refused() -> None:
    with pytest.raises(RuntimeRefusedError, match="takes no tools") as caught:
        ChatTemplate(SIMPLE).render([], [{"name": "f"}])
    assert caught.value.code == "unsupported"


def test_ids_get_the_form_that_mistral_takes() -> None:
    call = {"id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call, {**call, "id": "abc123XYZ"}]},
        {"role": "tool", "content": "1", "tool_call_id": "call_1"},
    ]
    source = (
        "{{ messages[0].tool_calls[0].id }} {{ messages[0].tool_calls[1].id }} "
        "{{ messages[1].tool_call_id }}"
    )
    assert ChatTemplate(source).render(messages) == "call_1 abc123XYZ call_1"
    first, second, result = ChatTemplate(source + "{# [TOOL_CALLS] #}").render(messages).split()
    assert first == result != "call_1"
    assert first.isalnum()
    assert len(first) == 9
    assert second == "abc123XYZ"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[99]['content']['x'] }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ 'x' * 10**7 }}",
    ],
)
def test_failures_and_escapes_are_refused(source: str) -> None:
    with pytest.raises(RuntimeRefusedError) as caught:
        ChatTemplate(source).render([{"role": "user", "content": "secret"}])
    assert caught.value.code == "bad_request"
    assert "secret" not in str(caught.value)


def test_the_reason_of_the_template_is_told() -> None:
    with pytest.raises(RuntimeRefusedError, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render([])


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "x" * 300_000])
def test_bad_templates_are_a_fault_of_the_model(source: str) -> None:
    with pytest.raises(ModelFileError):
        ChatTemplate(source)
