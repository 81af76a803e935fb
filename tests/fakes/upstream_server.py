"""Owns an OpenAI-compatible server for tests: real HTTP on the loopback, and faults on request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

WORDS = ("Two ", "and ", "two ", "is ", "four.")
DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a streamed answer."""
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    document = {"object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def usage(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 0}


def answer(
    words: Sequence[str] = WORDS,
    *,
    finish: str = "stop",
    tokens: tuple[Any, Any] | None = (9, None),
) -> list[bytes]:
    """A well-formed streamed answer; `tokens` are its usage, a None in it being right."""
    parts = [chunk({"role": "assistant", "content": ""})]
    parts += [chunk({"content": word}) for word in words]
    parts.append(chunk(finish=finish))
    if tokens is not None:
        prompt, completion = tokens
        counted = usage(prompt, len(words) + 1 if completion is None else completion)
        parts.append(b"data: " + json.dumps({"choices": [], "usage": counted}).encode() + b"\n\n")
    return [*parts, DONE]


@dataclass(slots=True)
class Reply:
    """What the server does with the next question.

    Attributes:
        parts: written one after the other. then: "end", "drop" (reset), "hang".
        hold: waited for before the first part, and `gate` before each further one.
    """

    parts: Sequence[bytes] = ()
    status: int = 200
    content_type: str = "text/event-stream"
    headers: Sequence[str] = ()
    then: str = "end"
    gate: trio.Event | None = None
    pause_s: float = 0.0


def error(status: int, message: str = "no", **fields: Any) -> Reply:
    body = json.dumps({"error": {"message": message, **fields}}).encode()
    return Reply([body], status=status, content_type="application/json")


@dataclass
class FakeUpstream:
    """One server."""

    models: list[dict[str, Any]] = field(
        default_factory=lambda: [{"id": "big", "owned_by": "vllm", "max_model_len": 4096}]
    )
    documents: dict[str, Any] = field(default_factory=dict)
    """Other addresses that it knows."""
    replies: list[Reply] = field(default_factory=list)
    """For the next questions; later ones are answered well."""
    reply: Reply | None = None
    """For all questions."""
    reply_to: Callable[[dict[str, Any]], Reply] | None = None
    """Instead, made for each question."""
    questions: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    left: int = 0
    """So many clients went away in the middle of an answer."""
    down: bool = False
    streams: bool = True
    tools: bool = True
    images: bool = True
    url: str = ""
    running: int = 0
    running_most: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        try:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = await stream.receive_some(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                text = head.decode("latin-1")
                self.heads.append(text)
                length = 0
                for line in text.split("\r\n"):
                    if line.lower().startswith("content-length:"):
                        length = int(line.split(":")[1])
                while len(data) < length:
                    data += await stream.receive_some(65536)
                body, data = data[:length], data[length:]
                if self.down:
                    return
                path = text.split(" ")[1]
                if path.startswith("/v1/chat/completions"):
                    await self._answer(stream, json.loads(body))
                else:
                    await self._document(stream, path)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.left += 1
        finally:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await stream.aclose()

    async def _document(self, stream: trio.SocketStream, path: str) -> None:
        if path == "/v1/models":
            document: Any = {"object": "list", "data": self.models}
        else:
            document = self.documents.get(path)
        if document is None:
            await self._write(stream, error(404))
        else:
            body = json.dumps(document).encode()
            await self._write(stream, Reply([body], content_type="application/json"))

    async def _answer(self, stream: trio.SocketStream, question: dict[str, Any]) -> None:
        self.questions.append(question)
        self.running += 1
        self.running_most = max(self.running_most, self.running)
        try:
            await self._write(stream, self._reply_to(question))
        finally:
            self.running -= 1

    def _reply_to(self, question: dict[str, Any]) -> Reply:
        if question.get("tools") and not self.tools:
            return error(400, "tools are not enabled")
        if "image_url" in json.dumps(question["messages"]) and not self.images:
            return error(400, "not a multimodal model")
        if self.reply_to is not None:
            return self.reply_to(question)
        if question["stream"] and self.replies:
            return self.replies.pop(0)
        if self.reply is not None:
            return self.reply
        if question["stream"] and self.streams:
            return Reply(answer())
        message = {"role": "assistant", "content": "".join(WORDS)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        document = {"choices": choices, "usage": usage(9, 6)}
        return Reply([json.dumps(document).encode()], content_type="application/json")

    async def _write(self, stream: trio.SocketStream, reply: Reply) -> None:
        lines = [
            f"HTTP/1.1 {reply.status} X",
            f"content-type: {reply.content_type}",
            "transfer-encoding: chunked",
            *reply.headers,
        ]
        await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n")
        for place, part in enumerate(reply.parts):
            if place and reply.gate is not None:
                await self._wait(stream, reply.gate)
            if reply.pause_s:
                await trio.sleep(reply.pause_s)
            await stream.send_all(b"%x\r\n%b\r\n" % (len(part), part))
        if reply.then == "drop":
            await stream.aclose()
            raise trio.ClosedResourceError
        if reply.then == "hang":
            await self._wait(stream, trio.Event())
        await stream.send_all(b"0\r\n\r\n")

    async def _wait(self, stream: trio.SocketStream, event: trio.Event) -> None:
        """Wait for the event, or until the client has gone."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                if not await stream.receive_some(1):
                    raise trio.BrokenResourceError("the client left")

            nursery.start_soon(watch)
            await event.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def run_upstream(server: FakeUpstream | None = None) -> AsyncIterator[FakeUpstream]:
    """Run a server on a free port of the loopback."""
    server = server or FakeUpstream()

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await server.serve(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            server.left += 1

    async def listen(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        await trio.serve_tcp(serve, 0, host="127.0.0.1", task_status=task_status)

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(listen)
        port = next(
            listener.socket.getsockname()[1]
            for listener in listeners
            if listener.socket.family == trio.socket.AF_INET
        )
        server.url = f"http://127.0.0.1:{port}"
        yield server
        nursery.cancel_scope.cancel()
