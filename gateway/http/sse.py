"""Owns server-sent events of a chat answer: the bytes of each chunk. Pure.

Source: OpenAI API reference, "Chat completion chunk object". What is fixed for one answer is
encoded once; a chunk of text costs one string escape. The chunks of everything that is ready are
written together.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Sequence
from typing import Any

from gateway.http.call_objects import Call
from gateway.http.openai_types import json_text
from gateway.jobs import Done, ReceiptNote

DONE = b"data: [DONE]\n\n"
_ID_SIGNS = string.digits + string.ascii_letters


def usage_of(done: Done) -> dict[str, Any]:
    """The usage object of an answer."""
    return {
        "prompt_tokens": done.input_tokens,
        "completion_tokens": done.output_tokens,
        "total_tokens": done.input_tokens + done.output_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_input_tokens},
    }


def note_of(note: ReceiptNote, answer_text: str | None = None) -> dict[str, Any]:
    """The `resultity` object that an answer carries: the receipt, and whose members served.

    `answer_text`: the text that the receipt is over, where the answer does not show it as it is.
    """
    shown: dict[str, Any] = {
        "receipt": note.receipt,
        "job_id": note.job_id,
        "price_microcredits": note.price_microcredits,
        "salt": note.salt,
    }
    if note.subcloud:
        shown["subcloud"] = note.subcloud
        if note.fell_back:
            shown["fallback"] = True
    if answer_text is not None:
        shown["answer_text"] = answer_text
    return shown


def call_id(answer_id: str, index: int) -> str:
    """The ID of one call of an answer: nine letters and digits, the only form that the templates of
    all models take back (Mistral's refuse others)."""
    digest = hashlib.sha256(f"{answer_id} {index}".encode()).digest()
    number = int.from_bytes(digest, "big")
    return "".join(_ID_SIGNS[number // 62**place % 62] for place in range(9))


def call_object(answer_id: str, index: int, call: Call, choice: int = 0) -> dict[str, Any]:
    """A call as a message carries it."""
    function = {"name": call.name, "arguments": call.arguments}
    place = f"{answer_id} {choice}" if choice else answer_id
    return {"id": call_id(place, index), "type": "function", "function": function}


class ChunkWriter:
    """Makes the chunks of one streamed answer."""

    def __init__(
        self, answer_id: str, created_s: int, model: str, *, wants_usage: bool, choices: int = 1
    ) -> None:
        """Encode what all chunks have in common."""
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": model,
        }
        self._head = b"data: " + json.dumps(head, ensure_ascii=False).encode()[:-1] + b","
        self._answer_id = answer_id
        self._wants_usage = wants_usage
        self._usage = b',"usage":null' if wants_usage else b""
        self._delta_heads = [
            self._head + b'"choices":[{"index":%d,"delta":{' % index for index in range(choices)
        ]

    def _chunk(
        self,
        choice: int,
        delta: bytes,
        logprobs: bytes = b"null",
        finish: bytes = b"null",
        note: bytes = b"",
    ) -> bytes:
        ending = b'},"logprobs":' + logprobs + b',"finish_reason":' + finish + b"}]"
        return self._delta_heads[choice] + delta + ending + self._usage + note + b"}\n\n"

    def opening(self, choice: int = 0, *, has_tools: bool = False) -> bytes:
        """The first chunk: who speaks. With tools it is not known yet whether there is content."""
        content = b"null" if has_tools else b'""'
        return self._chunk(choice, b'"role":"assistant","content":' + content)

    def text(self, text: str, choice: int = 0, logprobs: bytes = b"null") -> bytes:
        """A chunk of text."""
        return self._chunk(choice, b'"content":' + json_text(text), logprobs)

    def call(self, index: int, call: Call, choice: int = 0, logprobs: bytes = b"null") -> bytes:
        """The chunks of one call: first which function, then its arguments."""
        whole = call_object(self._answer_id, index, call, choice)
        name = {"name": call.name, "arguments": ""}
        begin = self._call(choice, {"index": index, **whole, "function": name}, logprobs)
        return begin + self._call(
            choice, {"index": index, "function": {"arguments": call.arguments}}
        )

    def _call(self, choice: int, delta: dict[str, Any], logprobs: bytes = b"null") -> bytes:
        text = json.dumps(delta, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return self._chunk(choice, b'"tool_calls":[' + text + b"]", logprobs)

    def closing(
        self, done: Done, finish_reasons: Sequence[str] = (), answer_text: str | None = None
    ) -> bytes:
        """The last chunks: why each choice ended (the node's reasons if no others), the usage if it
        was asked for, the receipt (`note_of`), and the end."""
        note = b',"resultity":' + json.dumps(note_of(done.note, answer_text)).encode()
        reasons = finish_reasons or [choice.finish_reason for choice in done.choices]
        parts = []
        for choice, reason in enumerate(reasons):
            is_last = choice == len(reasons) - 1 and not self._wants_usage
            finish = json.dumps(reason).encode()
            parts.append(self._chunk(choice, b"", finish=finish, note=note if is_last else b""))
        if self._wants_usage:
            usage = json.dumps(usage_of(done)).encode()
            parts.append(self._head + b'"choices":[],"usage":' + usage + note + b"}\n\n")
        return b"".join(parts) + DONE


def error_event(body: dict[str, Any]) -> bytes:
    """An error after output began: the stream ends with it."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
