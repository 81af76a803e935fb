"""Owns `POST /v1/chat/completions`, streamed and whole.

Theory of operation. The endpoint parses and validates, submits a job over the bridge and waits
for its events. Nothing is sent before the first event, so that a job that fails before output
gets a proper status. A watcher listens for the client's disconnect and abandons the pipe, which
cancels the job in the peer at once. Tokens count as written when the server's transport took
their text and the client was still there; those of a tool call when it took the whole call.

A request with tools has its answer read for calls (`tool_calls`). The receipt is over the text as
the model wrote it, so an answer with calls carries that text beside the receipt."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from gateway.backend import Backend
from gateway.bridge import Pipe
from gateway.errors import GatewayError, InternalError
from gateway.http.call_objects import Call
from gateway.http.errors import error_response
from gateway.http.openai_types import ChatRequest, parse_chat_request
from gateway.http.requests import api_key_of, read_body
from gateway.http.sse import ChunkWriter, call_object, error_event, note_of, usage_of
from gateway.http.tool_calls import Piece, ToolCallParser
from gateway.http.written_tokens import TokenCounter
from gateway.jobs import ChatJob, Delta, Done, Failed, JobEvent
from gateway.limits import BODY_BYTES_MAX, CLIENT_WRITE_TIMEOUT_S

log = logging.getLogger(__name__)
_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_JSON_HEADER = (b"content-type", b"application/json")
JOB_ID_BYTES = 16


class ChatEndpoint:
    """The ASGI application behind the route."""

    def __init__(self, backend: Backend) -> None:
        """Submit jobs to this backend."""
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        job_id = self._backend.random_bytes(JOB_ID_BYTES)
        request_id = f"req-{job_id.hex()}"
        try:
            key = api_key_of(request)
            body = await read_body(request, BODY_BYTES_MAX)
            chat = parse_chat_request(body)
            job = ChatJob(
                job_id=job_id,
                key=key,
                model=chat.model,
                request=chat.for_node(),
                body_hash=hashlib.sha256(body).digest(),
                streaming=bool(chat.stream),
                size=chat.size(),
                max_tokens=chat.output_tokens,
                seed=self._seed(chat),
                needs_images=chat.has_images(),
                source=request.client.host if request.client is not None else "",
            )
            pipe = self._backend.submit(job)
        except ClientDisconnect:
            return
        except GatewayError as error:
            await error_response(error, request_id)(scope, receive, send)
            return
        except Exception:
            log.exception("request %s failed", request_id)
            failure = InternalError("An internal error; it was logged.")
            await error_response(failure, request_id)(scope, receive, send)
            return
        answer = Answer(chat, job_id, pipe, scope, receive, send)
        await answer.run()

    def _seed(self, chat: ChatRequest) -> int:
        if chat.seed is None:
            return int.from_bytes(self._backend.random_bytes(4), "big")
        return chat.seed % 2**32


class Answer:
    """One answer on its way to the client."""

    def __init__(
        self,
        chat: ChatRequest,
        job_id: bytes,
        pipe: Pipe[JobEvent],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._chat = chat
        self._id = job_id.hex()
        self._pipe = pipe
        self._scope = scope
        self._receive = receive
        self._send = send
        self._created_s = int(time.time())
        functions = chat.callable_functions()
        parallel = chat.parallel_tool_calls is not False
        self._parser = ToolCallParser(functions, parallel=parallel) if functions else None
        self._calls_written = 0
        self._texts: list[str] = []
        """What the parser was given: the text that the receipt is over."""
        self._headers = [(b"x-request-id", f"req-{self._id}".encode())]

    async def run(self) -> None:
        """Write the answer; abandon the job if the client goes away."""
        watcher = asyncio.create_task(self._watch())
        try:
            if self._chat.stream:
                await self._stream()
            else:
                await self._whole()
        except TimeoutError:
            pass  # the client reads nothing: as good as gone
        finally:
            watcher.cancel()
            self._pipe.abandon()  # does nothing after an answer that was finished

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._pipe.abandon()

    # --- whole ----------------------------------------------------------------------------------
    async def _whole(self) -> None:
        events = await self._pipe.get_many()
        if not events:
            return
        event = events[0]
        # The capture does not wait for the write: a client that leaves now pays what was generated.
        self._pipe.finished = True
        async with asyncio.timeout(CLIENT_WRITE_TIMEOUT_S):
            if isinstance(event, Failed):
                response = error_response(event.error, f"req-{self._id}")
                await response(self._scope, self._receive, self._send)
                return
            assert isinstance(event, Done)
            text = json.dumps(self._body(event), ensure_ascii=False)
            body = text.encode("utf-8", "replace")
            headers = [_JSON_HEADER, (b"content-length", b"%d" % len(body)), *self._headers]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await self._send(start)
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _body(self, done: Done) -> dict[str, object]:
        pieces = self._pieces(done.text, last=True)
        answer_id = f"chatcmpl-{self._id}"
        content = "".join(piece for piece in pieces if isinstance(piece, str))
        calls = [piece for piece in pieces if isinstance(piece, Call)]
        message: dict[str, object] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["content"] = content or None
            message["tool_calls"] = [
                call_object(answer_id, index, call) for index, call in enumerate(calls)
            ]
        return {
            "id": answer_id,
            "object": "chat.completion",
            "created": self._created_s,
            "model": self._chat.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": self._finish_reason(done),
                }
            ],
            "usage": usage_of(done),
            "resultity": note_of(done.note, self._answer_text()),
        }

    # --- tool calls -----------------------------------------------------------------------------
    def _pieces(self, text: str, *, last: bool) -> list[Piece]:
        """Divide more of the answer into text and calls; what is not certain yet is held back."""
        if self._parser is None:
            return [text] if text else []
        self._texts.append(text)
        pieces = self._parser.feed(text)
        return pieces + self._parser.finish() if last else pieces

    def _held_characters(self) -> int:
        return 0 if self._parser is None else self._parser.held_characters

    def _has_calls(self) -> bool:
        return self._parser is not None and self._parser.calls > 0

    def _finish_reason(self, done: Done) -> str:
        called = done.finish_reason == "stop" and self._has_calls()
        return "tool_calls" if called else done.finish_reason

    def _answer_text(self) -> str | None:
        return "".join(self._texts) if self._has_calls() else None

    # --- streamed -------------------------------------------------------------------------------
    async def _stream(self) -> None:
        events = await self._pipe.get_many()
        if not events:
            return
        first = events[0]
        if isinstance(first, Failed):
            self._pipe.finish()
            response = error_response(first.error, f"req-{self._id}")
            await response(self._scope, self._receive, self._send)
            return
        writer = ChunkWriter(
            f"chatcmpl-{self._id}",
            self._created_s,
            self._chat.model,
            wants_usage=self._chat.wants_usage,
        )
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": _SSE_HEADERS + self._headers,
        }
        await self._send(start)
        parts = [writer.opening(has_tools=self._parser is not None)]
        counter = TokenCounter()
        while events:
            text, ending = _merge(events, counter)
            is_done = isinstance(ending, Done)
            pieces = self._pieces(text, last=is_done)
            parts += self._chunks(writer, pieces)
            if isinstance(ending, Done):
                reason, answer_text = self._finish_reason(ending), self._answer_text()
                parts.append(writer.closing(ending, reason, answer_text))
            elif isinstance(ending, Failed):
                parts.append(error_event(ending.error.body()))
            if parts:
                await self._write(b"".join(parts), last=ending is not None)
                parts = []
                if self._pipe.abandoned:
                    return
                # Tokens without text yet (half a character) count with the text that follows.
                written = counter.take_all() if is_done else counter.take(self._held_characters())
                self._pipe.written_tokens += written
            if ending is not None:
                self._pipe.finish()
                return
            events = await self._pipe.get_many()

    def _chunks(self, writer: ChunkWriter, pieces: list[Piece]) -> list[bytes]:
        parts = []
        for piece in pieces:
            if isinstance(piece, str):
                parts.append(writer.text(piece))
            else:
                parts.append(writer.call(self._calls_written, piece))
                self._calls_written += 1
        return parts

    async def _write(self, data: bytes, *, last: bool) -> None:
        async with asyncio.timeout(CLIENT_WRITE_TIMEOUT_S):
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})


def _merge(events: list[JobEvent], counter: TokenCounter) -> tuple[str, Done | Failed | None]:
    """Everything that is ready: its text, and the end if it came; its tokens are counted."""
    texts: list[str] = []
    ending: Done | Failed | None = None
    for event in events:
        if isinstance(event, Delta):
            texts.append(event.text)
            counter.add(len(event.text), event.tokens)
        else:
            ending = event
    return "".join(texts), ending
