"""Tool calls in a model's text: every form, any division of the text, and nothing else."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http.call_objects import Call
from gateway.http.tool_calls import (
    CALL_CHARACTERS_MAX,
    LONG_FAILURE_CHARACTERS,
    LONG_FAILURES_MAX,
    Piece,
    ToolCallParser,
)
from gateway.http.written_tokens import TokenCounter

NUMBER = {"properties": {"number": {"type": "integer"}, "text": {"type": "string"}}}
NAMES: dict[str, Any] = {"get_weather": {}, "get_time": {}, "f": NUMBER}
MARKUP = "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>"
GLM = "get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
PARIS = '{"city": "Paris"}'
WEATHER = Call("get_weather", PARIS)
TIME = Call("get_time", "{}")
PLAIN = f'{{"name": "get_weather", "arguments": {PARIS}}}'
PLAIN_TIME = '{"name": "get_time", "arguments": {}}'
LLAMA = f'{{"name": "get_weather", "parameters": {PARIS}}}'
MARKS = ("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]")


def joined(pieces: list[Piece]) -> list[Piece]:
    result: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and result and isinstance(result[-1], str):
            result[-1] += piece
        else:
            result.append(piece)
    return result


def parse(*chunks: str, parallel: bool = True) -> list[Piece]:
    parser = ToolCallParser(NAMES, parallel=parallel)
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)]
    pieces += parser.finish()
    assert parser.held_characters == 0
    assert "" not in pieces
    return joined(pieces)


CALLS: list[tuple[str, list[Piece]]] = [
    (PLAIN, [WEATHER]),
    ("\n " + PLAIN + "\n", [WEATHER]),
    (PLAIN + PLAIN_TIME, [WEATHER, TIME]),
    (PLAIN + ";\n" + PLAIN_TIME, [WEATHER, TIME]),
    (PLAIN + " There.", [WEATHER, "There."]),
    (PLAIN + ", so", [WEATHER, ", so"]),
    (f"[{PLAIN}, {PLAIN_TIME}]", [WEATHER, TIME]),
    (f"<tool_call>\n{PLAIN}\n</tool_call>", [WEATHER]),
    (f"<tool_call>{PLAIN}</tool_call>\n<tool_call>{PLAIN_TIME}</tool_call>", [WEATHER, TIME]),
    (f"I look.\n\n<tool_call>\n{PLAIN}\n</tool_call>\n", ["I look.", WEATHER]),
    (f"<tool_call>{PLAIN}</tool_call> a\n b", [WEATHER, "a\n b"]),
    (f"<tool_call>{PLAIN}", [WEATHER]),
    (f"<tool_call>{PLAIN}\n</tool", [WEATHER]),
    ('<tool_call>{"name": "get_time"}</tool_call>', [TIME]),
    (f"<tool_call>\n{MARKUP}\n</tool_call>", [WEATHER]),
    (f"So.\n<tool_call>{GLM}</tool_call>\n<tool_call>get_time</tool_call>", ["So.", WEATHER, TIME]),
    ("<tool_call><function=get_time></function></tool_call>", [TIME]),
    (
        "<tool_call><function=f><parameter=number>\n7\n</parameter><parameter=text>7</parameter>"
        "<parameter=more>[1, </parameter></function></tool_call>",
        [Call("f", '{"number": 7, "text": "7", "more": "[1, "}')],
    ),
    ('<tool_call>{"arguments": {}, "name": "get_time"}</tool_call>', [TIME]),
    (LLAMA, [WEATHER]),
    (f"<|python_tag|>{LLAMA}; {PLAIN_TIME}", [WEATHER, TIME]),
    (f"[TOOL_CALLS] [{PLAIN}, {PLAIN_TIME}]", [WEATHER, TIME]),
    (f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]get_time[ARGS]{{}}", [WEATHER, TIME]),
    (f"[TOOL_CALLS]get_weather[CALL_ID]abc123xyz[ARGS]{PARIS}", [WEATHER]),
    (f"[TOOL_CALLS]get_weather{PARIS}", [WEATHER]),
    (
        f'{{"type": "function", "function": {{"name": "get_weather", "parameters": {PARIS}}}}}',
        [WEATHER],
    ),
    (json.dumps({"name": "get_weather", "arguments": PARIS}), [WEATHER]),
    (
        '{"name": "f", "arguments": {"a": "}\\"{", "b": 1.0e400}}',
        [Call("f", '{"a": "}\\"{", "b": 1.0e400}')],
    ),
    (
        f"<tool_call>{{bad}}</tool_call> <tool_call>{PLAIN}</tool_call>",
        ["<tool_call>{bad}</tool_call>", WEATHER],
    ),
]


@pytest.mark.parametrize(("text", "expected"), CALLS)
def test_calls_are_found(text: str, expected: list[Piece]) -> None:
    assert parse(text) == expected
    assert parse(*text) == expected


TEXTS = [
    "",
    " \n",
    "Hello {world} [1]",
    "It is sunny.\n",
    '{"name": "Anna", "age": 7}',
    '{"name": "unknown", "arguments": {}}',
    '{"name": "get_weather"}',
    '{"name": "get_weather", "arguments": {"city": Paris}}',
    '{"name": "get_weather", "arguments": {"city": "Par',
    '{"name": "get_weather", "arguments": {"a": NaN}}',
    '{"name": "get_weather", "arguments": {"a": "line\nbreak"}}',
    '{"name": "get_weather", "arguments": [1]}',
    '{"name": "get_weather", "arguments": "no json"}',
    '{"name": "get_weather", "arguments": "{\\"a\\": \\"\\ud800\\"}"',
    '{"name": "get_weather", "arguments": {}, "other": 1}',
    '{"name": ["get_weather"], "arguments": {}}',
    f"[{PLAIN}, 1]",
    "[1, 2]",
    "[]",
    f"Look: {PLAIN}",
    "<tool_call>",
    "<tool_call>{}</tool_call>",
    "<tool_call>unknown</tool_call>",
    f"<tool_call>{MARKUP}",
    "<tool_call><function=unknown></function></tool_call>",
    "<tool_call><function=get_time>words</function></tool_call>",
    "<tool_call>get_time now</tool_call>",
    "Write <tool_call> to call.",
    "1 < 2 and <tool",
    "<|python_tag|>print(1)",
    "[TOOL_CALLS] none of them",
    "[TOOL_CALLS]unknown[ARGS]{}",
    "[TOOL_CALLS]get_weather[ARGS]{1}",
    '{"name": "f", "arguments": ' + '{"a": ' * 70 + "1" + "}" * 71,
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_stays_word_for_word(text: str) -> None:
    assert parse(text) == ([text] if text else [])
    assert parse(*text) == ([text] if text else [])


fragments = st.lists(
    st.sampled_from(
        [PLAIN, PLAIN_TIME, LLAMA, PARIS, *MARKS, "get_weather", "[ARGS]", "[CALL_ID]", "x", " "]
        + [MARKUP, GLM, "<function=", "<function=f>", "</function>", "<parameter=text>"]
        + ["</parameter>", "<arg_key>a</arg_key>", "<arg_value>1</arg_value>", "get_time"]
        + ["\n", "{", "}", "[", "]", '"', "\\", ";", ",", ":", '{"name": ', '{"name": "f"', "<to"]
        + ['"arguments": {}', "Hello there. ", "<", "é\u2003", '"name"', '{"name": "fo']
    ),
    max_size=9,
).map("".join)


@given(fragments, st.data(), st.booleans())
@example(PLAIN + " ", None, True)
def test_any_division_gives_the_same(text: str, data: st.DataObject | None, parallel: bool) -> None:
    whole = parse(text, parallel=parallel)
    assert parse(*text, parallel=parallel) == whole
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        edges = [0, *cuts, len(text)]
        chunks = [text[a:b] for a, b in itertools.pairwise(edges)]
        assert parse(*chunks, parallel=parallel) == whole


@given(fragments)
def test_text_without_calls_is_untouched(text: str) -> None:
    pieces = parse(text)
    if all(isinstance(piece, str) for piece in pieces):
        assert "".join(map(str, pieces)) == text


@given(
    st.lists(st.sampled_from(["hermes", "llama", "mistral", "named", "plain"]), min_size=1),
    st.data(),
)
def test_nothing_of_a_call_is_text(forms: list[str], data: st.DataObject) -> None:
    """Whatever was given before the end of a call has nothing of it."""
    form = forms[0]
    count = len(forms)
    text = {
        "hermes": "\n".join([f"<tool_call>\n{PLAIN}\n</tool_call>"] * count),
        "llama": "<|python_tag|>" + "; ".join([LLAMA] * count),
        "mistral": "[TOOL_CALLS][" + ", ".join([PLAIN] * count) + "]",
        "named": f"[TOOL_CALLS]get_weather[ARGS]{PARIS}" * count,
        "plain": PLAIN * count,
    }[form]
    lead = data.draw(st.sampled_from(["", "Let me see. "])) if form != "plain" else ""
    pieces = parse(*(lead + text))
    assert pieces == ([lead.rstrip()] if lead else []) + [WEATHER] * count


def test_one_call_if_they_may_not_be_parallel() -> None:
    assert parse(PLAIN + PLAIN_TIME, parallel=False) == [WEATHER]
    assert parse(f"[{PLAIN}, {PLAIN_TIME}]", parallel=False) == [WEATHER]


def test_text_is_not_held_longer_than_it_must() -> None:
    parser = ToolCallParser(NAMES)
    assert parser.feed("Hello") == ["Hello"]
    assert parser.feed(" you <b>") == [" you <b>"]
    assert parser.feed(" <tool") == []
    assert parser.held_characters == 6
    assert parser.feed("s>") == [" <tools>"]
    other = ToolCallParser(NAMES)
    assert other.feed('{"na') == []
    assert other.feed('me": "An') == ['{"name": "An']
    assert other.feed(PLAIN) == [PLAIN]


def test_a_call_without_end_is_given_up() -> None:
    begin = '{"name": "f", "arguments": {"a": "'
    parser = ToolCallParser(NAMES)
    given_text = "".join(
        str(piece)
        for chunk in [begin, *["x" * 1000] * (CALL_CHARACTERS_MAX // 1000 + 1)]
        for piece in parser.feed(chunk)
    )
    assert given_text.startswith(begin)
    assert parser.held_characters == 0
    long = f'{begin}{"x" * CALL_CHARACTERS_MAX}"}}}}'
    assert parse(long) == [long]


def test_many_long_failures_end_the_search() -> None:
    bad = '<tool_call>{"name": "f", "arguments": [' + "1, " * LONG_FAILURE_CHARACTERS + "]}"
    few = bad * (LONG_FAILURES_MAX - 1) + f"<tool_call>{PLAIN}"
    assert parse(few)[-1] == WEATHER
    many = bad * LONG_FAILURES_MAX + f"<tool_call>{PLAIN}"
    assert parse(many) == [many]
    assert parse(*(many[i : i + 999] for i in range(0, len(many), 999))) == [many]


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 5)), max_size=30), st.data())
def test_tokens_count_once_their_text_is_given(
    deltas: list[tuple[str, int]], data: st.DataObject
) -> None:
    counter = TokenCounter()
    total = characters = written = given_characters = 0
    ends: list[tuple[int, int]] = []
    for text, tokens in deltas:
        counter.add(len(text), tokens)
        total += tokens
        characters += len(text)
        if text:
            ends.append((characters, total))
        given_characters = data.draw(st.integers(given_characters, characters))
        written += counter.take(characters - given_characters)
        assert written == max((count for end, count in ends if end <= given_characters), default=0)
    assert written + counter.take_all() == total
