"""Owns a Hypothesis strategy for the bodies of chat requests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

TEXT = st.text(max_size=40)
NAME = st.from_regex(r"\A[A-Za-z0-9_-]{1,20}\Z")
IMAGE = "data:image/png;base64,AAAA"


def _parts() -> st.SearchStrategy[Any]:
    text = st.builds(lambda t: {"type": "text", "text": t}, TEXT)
    image = st.just({"type": "image_url", "image_url": {"url": IMAGE}})
    return st.lists(st.one_of(text, image), max_size=4)


def _calls() -> st.SearchStrategy[Any]:
    function = st.builds(lambda n, a: {"name": n, "arguments": a}, NAME, TEXT)
    return st.lists(
        st.builds(lambda i, f: {"id": i, "type": "function", "function": f}, TEXT, function),
        max_size=3,
    )


def _messages() -> st.SearchStrategy[Any]:
    user = st.builds(lambda c: {"role": "user", "content": c}, st.one_of(TEXT, _parts()))
    system = st.builds(
        lambda r, c, n: {"role": r, "content": c, "name": n},
        st.sampled_from(["system", "developer"]),
        TEXT,
        TEXT,
    )
    assistant = st.builds(
        lambda c, k: {"role": "assistant", "content": c, "tool_calls": k}, TEXT, _calls()
    )
    tool = st.builds(
        lambda c, i: {"role": "tool", "content": c, "tool_call_id": i},
        TEXT,
        st.text(min_size=1, max_size=20),
    )
    return st.lists(st.one_of(user, system, assistant, tool), min_size=1, max_size=5)


def _tools() -> st.SearchStrategy[Any]:
    schema = st.dictionaries(TEXT, st.one_of(TEXT, st.integers()), max_size=3)
    return st.lists(
        st.builds(
            lambda n, d, p: {
                "type": "function",
                "function": {"name": n, "description": d, "parameters": p},
            },
            NAME,
            TEXT,
            schema,
        ),
        max_size=3,
    )


def chat_bodies() -> st.SearchStrategy[bytes]:
    """Bodies of requests for the model `big`, with images, calls and tools."""

    def encode(messages: Any, tools: Any) -> bytes:
        body = {"model": "big", "messages": messages, "tools": tools or None}
        return json.dumps(body, ensure_ascii=False).encode()

    return st.builds(encode, _messages(), _tools())
