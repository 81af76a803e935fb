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
