"""The logprobs of an answer go with the text that they belong to, however it came."""

from __future__ import annotations

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.http.choices import ChoiceReader, calls_of, text_of
from gateway.http.logprobs import LogprobAligner, logprobs_in_turns, logprobs_json
from gateway.http.openai_types import parse_chat_request
from gateway.jobs import Delta
from node.runtime.text_stream import TextStream
from p2p.logprob_messages import TokenLogprob, TopLogprob

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
PARTS = ["Hi ", "é", "🌍", "stop", "st", " and ", "\n", CALL, '{"name": ']


def request(**fields: object) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "logprobs": True}
    return json.dumps({**body, **fields}).encode()


@st.composite
def token_bytes(draw: st.DrawFn) -> list[bytes]:
    """The bytes of an answer, cut anywhere: also within characters; some tokens have none, some
    are no UTF-8."""
    data = "".join(draw(st.lists(st.sampled_from(PARTS), max_size=8))).encode()
    if draw(st.booleans()):
        data += draw(st.binary(max_size=4))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(token_bytes(), st.booleans(), st.booleans(), st.data())
def test_entries_go_with_their_text(
    tokens: list[bytes], has_stop: bool, has_tools: bool, data: st.DataObject
) -> None:
    """Through the node's text stream and the finding of calls: every token of the answer has its
    entry once, in order, and never before its text."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    chat = parse_chat_request(request(**({"tools": tools} if has_tools else {})))
    stream, reader = TextStream(["stop"] if has_stop else []), ChoiceReader(chat, 0)
    deltas, entries = [], []
    for place, token in enumerate(tokens):
        if stream.stopped:
            break
        entry = TokenLogprob(token, -float(place))
        entries.append(entry)
        deltas.append(Delta(stream.feed(token), 1, 0, (entry,)))
    stopped = stream.stopped
    deltas.append(Delta(stream.finish(), 0))
    said, given_out = "", []
    while deltas:
        count = data.draw(st.integers(1, len(deltas)))
        now, deltas = deltas[:count], deltas[count:]
        said += "".join(delta.text for delta in now)
        part = reader.add(now, last=not deltas)
        given_out += part.logprobs
        spoken = b"".join(entry.data for entry in given_out[:-1]).decode("utf-8", "replace")
        assert said.startswith(spoken) or "\ufffd" in spoken
    assert given_out == entries[: len(given_out)]
    if not stopped:
        assert given_out == entries
    else:
        whole = b"".join(entry.data for entry in given_out).decode("utf-8", "replace")
        assert whole.startswith(said)


@given(token_bytes(), st.booleans())
def test_a_whole_answer_has_the_same_entries(tokens: list[bytes], has_stop: bool) -> None:
    chat = parse_chat_request(request())
    stream = TextStream(["stop"] if has_stop else [])
    streamed, whole = ChoiceReader(chat, 0), ChoiceReader(chat, 0)
    entries, texts, parts = [], [], []
    for place, token in enumerate(tokens):
        if not stream.stopped:
            entries.append(TokenLogprob(token, -float(place)))
            texts.append(stream.feed(token))
            parts.append(streamed.add([Delta(texts[-1], 1, 0, (entries[-1],))], last=False))
    texts.append(stream.finish())
    parts.append(streamed.add([Delta(texts[-1], 0)], last=True))
    part = whole.whole("".join(texts), entries)
    assert part.logprobs == [entry for one in parts for entry in one.logprobs]
    assert text_of(part.pieces) == "".join(text_of(one.pieces) for one in parts)
    assert not calls_of(part.pieces)


def test_tokens_of_a_stop_string_have_no_entry() -> None:
    aligner = LogprobAligner()
    aligner.add(TokenLogprob(data, -1.0) for data in (b"one", b" t", b"wo", b"!"))
    assert [entry.data for entry in aligner.take(3)] == [b"one"]
    assert [entry.data for entry in aligner.finish(4)] == [b" t"]


def test_a_character_of_several_tokens() -> None:
    globe = "🌍".encode()
    aligner = LogprobAligner()
    aligner.add([TokenLogprob(globe[:2], -1.0)])
    assert aligner.take(0) == []
    aligner.add([TokenLogprob(globe[2:], -2.0)])
    entries = aligner.take(1)
    shown = json.loads(logprobs_json(entries))["content"]
    assert [entry["bytes"] for entry in shown] == [list(globe[:2]), list(globe[2:])]
    assert shown[0]["token"] == "\ufffd"
    assert logprobs_json([]) == b"null"


@given(st.lists(st.binary(max_size=3), max_size=100))
def test_whole_answers_have_the_same_form(tokens: list[bytes]) -> None:
    entries = [TokenLogprob(data, -1.0) for data in tokens]
    whole = json.loads(asyncio.run(logprobs_in_turns(entries)))
    assert whole == (json.loads(logprobs_json(entries)) or {"content": [], "refusal": None})


def test_openai_s_form() -> None:
    top = (TopLogprob(5, b"a", -0.5), TopLogprob(6, b"b", -1.0))
    assert json.loads(logprobs_json([TokenLogprob(b"a", -0.5, top)])) == {
        "content": [
            {
                "token": "a",
                "logprob": -0.5,
                "bytes": [97],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.5, "bytes": [97]},
                    {"token": "b", "logprob": -1.0, "bytes": [98]},
                ],
            }
        ],
        "refusal": None,
    }
