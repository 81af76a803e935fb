"""The day in a prompt: from the request, never from this computer."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.openai_types import parse_chat_request
from node.errors import RuntimeRefusedError
from node.runtime.chat_template import ChatTemplate
from node.runtime.sampling import read_request
from node.runtime.template_date import day_of, write_day

DAY = datetime.date(2026, 11, 7)
ASK = [{"role": "user", "content": "Hello"}]
LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    '{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}Today Date: {{ date_string }}'
)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (LLAMA, "Today Date: 07 Nov 2026"),
        (
            '{%- set today = strftime_now("%Y-%m-%d") %}Today is {{ today }}.',
            "Today is 2026-11-07.",
        ),
        ('{%- set today = strftime_now("%d %B %Y") -%}Date: {{ today }}', "Date: 07 November 2026"),
        (
            '{{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n\\n" }}',
            "Current date: 2026-11-07",
        ),
        ("Today's Date: {{ strftime_now('%B %d, %Y') }}.", "Today's Date: November 07, 2026."),
        ("{{ strftime_now('%A, %-d %b, %H:%M %Z') }}", "Saturday, 7 Nov, 00:00 UTC"),
    ],
    ids=["llama", "mistral", "smollm", "gpt-oss", "granite", "hour"],
)
def test_published_forms(template: str, prompt: str) -> None:
    assert ChatTemplate(template).render(ASK, day=DAY).rstrip("\n") == prompt


def test_without_a_day_a_template_that_asks_has_its_own_text() -> None:
    assert ChatTemplate(LLAMA).render(ASK) == "Today Date: 26 Jul 2024"


def test_without_a_day_only_a_template_that_calls_is_refused() -> None:
    template = ChatTemplate("{% if messages|length > 1 %}{{ strftime_now('%Y') }}{% endif %}fine")
    assert template.render(ASK) == "fine"
    with pytest.raises(RuntimeRefusedError, match="older version") as caught:
        template.render(ASK * 2)
    assert caught.value.code == "unsupported"


def test_an_unknown_directive_is_refused() -> None:
    with pytest.raises(RuntimeRefusedError) as caught:
        ChatTemplate("{{ strftime_now('%Q') }}").render(ASK, day=DAY)
    assert caught.value.code == "bad_request"


@given(
    st.dates(datetime.date(1900, 1, 1)),
    st.lists(st.sampled_from("aAbBdmYyjuwGVHIMSpZzcxXFDeRTf%")).map(
        lambda letters: " ".join("%" + letter for letter in letters)
    ),
)
def test_it_writes_what_strftime_writes(day: datetime.date, form: str) -> None:
    midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)
    assert write_day(day, form) == midnight.strftime(form)


@pytest.mark.parametrize(
    "value", ["", "2026-13-01", "2026-1-1", "20261101", 20261101, "２026-01-01"]
)
def test_a_day_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(RuntimeRefusedError):
        day_of(value)


def test_the_gateway_sends_the_day_and_the_runtime_reads_it() -> None:
    body = json.dumps({"model": "m", "messages": ASK, "date": "1999-01-01"}).encode()
    data = parse_chat_request(body).for_node(DAY)
    assert json.loads(data)["date"] == "2026-11-07"
    assert read_request(data).day == DAY
