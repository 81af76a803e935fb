"""The bytes of a streamed answer."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import AnswerFailedError
from gateway.http.call_objects import Call
from gateway.http.sse import DONE, ChunkWriter, call_id, call_object, error_event
from gateway.jobs import Done, Ended, ReceiptNote

NOTE = ReceiptNote("cmVjZWlwdA==", "00ff", 12, "aa")
DONE_EVENT = Done((Ended("stop"),), 3, 4, NOTE)


def read(data: bytes) -> list[object]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    return [
        text if text == "[DONE]" else json.loads(text)
        for text in (block.removeprefix("data: ") for block in blocks)
    ]


@given(st.text(), st.text(min_size=1, max_size=20), st.booleans())
def test_any_text_survives(text: str, model: str, wants_usage: bool) -> None:
    writer = ChunkWriter("chatcmpl-1", 5, model, wants_usage=wants_usage)
    (chunk,) = read(writer.text(text))
    assert isinstance(chunk, dict)
    assert chunk["choices"][0]["delta"]["content"] == text
    assert chunk["model"] == model
    assert ("usage" in chunk) == wants_usage


def test_closing() -> None:
    plain = ChunkWriter("chatcmpl-1", 5, "m", wants_usage=False)
    last, done = read(plain.closing(DONE_EVENT))
    assert done == "[DONE]"
    assert isinstance(last, dict)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["resultity"]["price_microcredits"] == 12
    with_usage = ChunkWriter("chatcmpl-1", 5, "m", wants_usage=True)
    finish, usage, done = read(with_usage.closing(DONE_EVENT))
    assert isinstance(finish, dict)
    assert isinstance(usage, dict)
    assert "resultity" not in finish
    assert usage["usage"]["total_tokens"] == 7
    assert usage["resultity"]["receipt"] == NOTE.receipt
    assert DONE.endswith(b"[DONE]\n\n")


@given(st.text(), st.booleans())
def test_a_call_is_two_chunks(arguments: str, wants_usage: bool) -> None:
    writer = ChunkWriter("chatcmpl-1", 5, "m", wants_usage=wants_usage)
    chunks = read(writer.call(1, Call("f", arguments)))
    first, second = (chunk["choices"][0] for chunk in chunks if isinstance(chunk, dict))
    function = {"name": "f", "arguments": ""}
    identity = call_id("chatcmpl-1", 1)
    begun = {"index": 1, "id": identity, "type": "function", "function": function}
    assert first["delta"] == {"tool_calls": [begun]}
    assert second["delta"]["tool_calls"] == [{"index": 1, "function": {"arguments": arguments}}]
    assert first["finish_reason"] is second["finish_reason"] is None
    assert call_object("chatcmpl-1", 1, Call("f", ""))["id"] == identity


def test_an_answer_of_calls_ends_with_its_text() -> None:
    writer = ChunkWriter("chatcmpl-1", 5, "m", wants_usage=False)
    last, _ = read(writer.closing(DONE_EVENT, ["tool_calls"], "{}"))
    assert isinstance(last, dict)
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert last["resultity"]["answer_text"] == "{}"
    (opening,) = read(writer.opening(has_tools=True))
    assert isinstance(opening, dict)
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": None}


def test_error_event() -> None:
    (event,) = read(error_event(AnswerFailedError("It broke.").body()))
    assert isinstance(event, dict)
    assert event["error"]["message"] == "It broke."
