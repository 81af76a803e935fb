"""Owns server-sent events of a chat answer: the bytes of each chunk. Pure.

Source: OpenAI API reference, "Chat completion chunk object". What is fixed for one answer is
encoded once; a chunk of text costs one string escape. The chunks of everything that is ready are
written together.
"""

from __future__ import annotations

import json
from typing import Any

from gateway.http.openai_types import json_text
from gateway.jobs import Done, ReceiptNote

DONE = b"data: [DONE]\n\n"


def usage_of(done: Done) -> dict[str, Any]:
    """The usage object of an answer."""
    return {
        "prompt_tokens": done.input_tokens,
        "completion_tokens": done.output_tokens,
        "total_tokens": done.input_tokens + done.output_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_input_tokens},
    }


def note_of(note: ReceiptNote) -> dict[str, Any]:
    """The `resultity` object that an answer carries: the consumer receipt."""
    return {
        "receipt": note.receipt,
        "job_id": note.job_id,
        "price_microcredits": note.price_microcredits,
        "salt": note.salt,
    }


class ChunkWriter:
    """Makes the chunks of one streamed answer."""

    def __init__(self, answer_id: str, created_s: int, model: str, *, wants_usage: bool) -> None:
        """Encode what all chunks have in common."""
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": model,
        }
        self._head = b"data: " + json.dumps(head, ensure_ascii=False).encode()[:-1] + b","
        self._wants_usage = wants_usage
        usage = b',"usage":null' if wants_usage else b""
        self._text_head = self._head + b'"choices":[{"index":0,"delta":{"content":'
        self._text_tail = b'},"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"
        self._usage = usage

    def opening(self) -> bytes:
        """The first chunk: who speaks."""
        return (
            self._head
            + b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},'
            + b'"logprobs":null,"finish_reason":null}]'
            + self._usage
            + b"}\n\n"
        )

    def text(self, text: str) -> bytes:
        """A chunk of text."""
        return self._text_head + json_text(text) + self._text_tail

    def closing(self, done: Done) -> bytes:
        """The last chunks: why it ended, the usage if it was asked for, the receipt, and the
        end."""
        finish = json.dumps(done.finish_reason).encode()
        choices = (
            b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":' + finish + b"}]"
        )
        note = b',"resultity":' + json.dumps(note_of(done.note)).encode()
        if not self._wants_usage:
            return self._head + choices + note + b"}\n\n" + DONE
        usage = json.dumps(usage_of(done)).encode()
        return (
            self._head
            + choices
            + self._usage
            + b"}\n\n"
            + self._head
            + b'"choices":[],"usage":'
            + usage
            + note
            + b"}\n\n"
            + DONE
        )


def error_event(body: dict[str, Any]) -> bytes:
    """An error after output began: the stream ends with it."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
