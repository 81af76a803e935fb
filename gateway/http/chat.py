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
import time

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from gateway.backend import Backend
from gateway.bridge import Pipe
from gateway.http.choices import ChoiceReader, Part, calls_of, text_of
from gateway.http.errors import error_response, failure_response
from gateway.http.logprobs import logprobs_in_turns, logprobs_json
from gateway.http.openai_types import ChatRequest, parse_chat_request
from gateway.http.requests import JOB_ID_BYTES, api_key_of, read_body
from gateway.http.resultity_options import caller_token_of, subcloud_of
from gateway.http.sse import ChunkWriter, call_object, error_event, note_of, usage_of
from gateway.jobs import ChatJob, Delta, Done, Ended, Failed, JobEvent, texts_as_one
from gateway.limits import BODY_BYTES_MAX, CLIENT_WRITE_TIMEOUT_S

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_JSON_HEADER = (b"content-type", b"application/json")


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
                request=chat.for_node(self._backend.today()),
                body_hash=hashlib.sha256(body).digest(),
                streaming=bool(chat.stream),
                size=chat.size(),
                max_tokens=chat.output_tokens,
                seed=self._seed(chat),
                needs_images=chat.has_images(),
                source=request.client.host if request.client is not None else "",
                choices=chat.choices,
                top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
                accept_unverified=chat.accepts_unverified,
                subcloud=subcloud_of(chat.resultity),
                caller_token=caller_token_of(chat.resultity, request),
            )
            pipe = self._backend.submit(job)
        except ClientDisconnect:
            return
        except Exception as error:
            await failure_response(error, request_id)(scope, receive, send)
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
        self._choices = [ChoiceReader(chat, index) for index in range(chat.choices)]
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
            body = await self._body(event)
            headers = [_JSON_HEADER, (b"content-length", b"%d" % len(body)), *self._headers]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await self._send(start)
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _body(self, done: Done) -> bytes:
        parts = [
            choice.whole(ended.text, ended.logprobs)
            for choice, ended in zip(self._choices, done.choices, strict=True)
        ]
        choices = [
            self._choice(choice, part, ended)
            for choice, part, ended in zip(self._choices, parts, done.choices, strict=True)
        ]
        body = {
            "id": f"chatcmpl-{self._id}",
            "object": "chat.completion",
            "created": self._created_s,
            "model": self._chat.model,
            "choices": choices,
            "usage": usage_of(done),
            "resultity": note_of(done.note, self._answer_text()),
        }
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        if self._chat.logprobs:
            for choice, part in zip(self._choices, parts, strict=True):
                mark = json.dumps(self._logprobs_mark(choice)).encode()
                data = data.replace(mark, await logprobs_in_turns(part.logprobs), 1)
        return data

    def _logprobs_mark(self, choice: ChoiceReader) -> str:
        """Stands in the body for the logprobs, which are many. No text can have it: quotes within
        texts are escaped, and the job's ID is told to nobody before."""
        return f"logprobs {self._id} {choice.index}"

    def _choice(self, choice: ChoiceReader, part: Part, ended: Ended) -> dict[str, object]:
        content, calls = text_of(part.pieces), calls_of(part.pieces)
        message: dict[str, object] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["content"] = content or None
            message["tool_calls"] = [
                call_object(f"chatcmpl-{self._id}", index, call, choice.index)
                for index, call in enumerate(calls)
            ]
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs_mark(choice) if self._chat.logprobs else None,
            "finish_reason": choice.finish_reason(ended.finish_reason),
        }

    def _answer_text(self) -> str | None:
        """The text that the receipt is over, where the answer does not show it as it is."""
        if len(self._choices) > 1:
            return texts_as_one([choice.answer_text for choice in self._choices])
        return self._choices[0].answer_text if self._choices[0].has_calls else None

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
            choices=len(self._choices),
        )
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": _SSE_HEADERS + self._headers,
        }
        await self._send(start)
        parts = [
            writer.opening(choice.index, has_tools=choice.has_tools) for choice in self._choices
        ]
        while events:
            deltas, ending = _sort(events)
            is_done = isinstance(ending, Done)
            for choice in self._choices:
                if is_done or choice.index in deltas:
                    part = choice.add(deltas.get(choice.index, ()), last=is_done)
                    parts += _chunks(writer, choice, part)
            if isinstance(ending, Done):
                reasons = [
                    choice.finish_reason(ended.finish_reason)
                    for choice, ended in zip(self._choices, ending.choices, strict=True)
                ]
                parts.append(writer.closing(ending, reasons, self._answer_text()))
            elif isinstance(ending, Failed):
                parts.append(error_event(ending.error.body()))
            if parts:
                await self._write(b"".join(parts), last=ending is not None)
                parts = []
                if self._pipe.abandoned:
                    return
                self._pipe.written_tokens += sum(
                    choice.written(last=is_done) for choice in self._choices
                )
            if ending is not None:
                self._pipe.finish()
                return
            events = await self._pipe.get_many()

    async def _write(self, data: bytes, *, last: bool) -> None:
        async with asyncio.timeout(CLIENT_WRITE_TIMEOUT_S):
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})


def _chunks(writer: ChunkWriter, choice: ChoiceReader, part: Part) -> list[bytes]:
    """The chunks of what a choice has new; the first one carries the logprobs."""
    chunks = []
    logprobs = logprobs_json(part.logprobs)
    for piece in part.pieces or ([""] if part.logprobs else []):
        if isinstance(piece, str):
            chunks.append(writer.text(piece, choice.index, logprobs))
        else:
            chunks.append(writer.call(choice.calls_written, piece, choice.index, logprobs))
            choice.calls_written += 1
        logprobs = b"null"
    return chunks


def _sort(events: list[JobEvent]) -> tuple[dict[int, list[Delta]], Done | Failed | None]:
    """Everything that is ready: the output of each choice, and the end if it came."""
    deltas: dict[int, list[Delta]] = {}
    ending: Done | Failed | None = None
    for event in events:
        if isinstance(event, Delta):
            deltas.setdefault(event.choice, []).append(event)
        else:
            ending = event
    return deltas, ending
