"""Owns `POST /v1/embeddings`.

Theory of operation. As for a chat that does not stream (`gateway.http.chat`): the endpoint parses
and validates, submits a job over the bridge and waits for its one event. A client that leaves
before it abandons the pipe, which cancels the job. Numbers are written out in a thread: a large
answer takes seconds, and other requests must not wait for it. Large ones take turns: together they
would take most of the interpreter's time and much memory, and cost their senders little.
"""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from gateway.backend import Backend
from gateway.bridge import Pipe
from gateway.http.embedding_types import EmbeddingsRequest, answer_body, parse_embeddings_request
from gateway.http.errors import failure_response
from gateway.http.requests import JOB_ID_BYTES, api_key_of, read_body
from gateway.http.resultity_options import caller_token_of
from gateway.jobs import Done, Failed, JobEvent
from gateway.limits import BODY_BYTES_MAX, CLIENT_WRITE_TIMEOUT_S

LARGE_TEXT_BYTES = 512 * 1024
"""Of vectors as they come from a node: more takes longer than a tenth of a second to write out."""


class EmbeddingsEndpoint:
    """The ASGI application behind the route."""

    def __init__(self, backend: Backend) -> None:
        """Submit jobs to this backend."""
        self._backend = backend
        self._turn = asyncio.Semaphore(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        job_id = self._backend.random_bytes(JOB_ID_BYTES)
        request_id = f"req-{job_id.hex()}"
        try:
            key = api_key_of(request)
            body = await read_body(request, BODY_BYTES_MAX)
            wanted = parse_embeddings_request(body)
            source = request.client.host if request.client is not None else ""
            token = caller_token_of(wanted.resultity, request)
            job = wanted.job(job_id=job_id, key=key, body=body, source=source, caller_token=token)
            answer = await self._answer(wanted, self._backend.submit(job), receive)
            if answer is None:
                return
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(answer)),
                (b"x-request-id", request_id.encode()),
            ]
        except ClientDisconnect:
            return
        except Exception as error:
            await failure_response(error, request_id)(scope, receive, send)
            return
        try:
            async with asyncio.timeout(CLIENT_WRITE_TIMEOUT_S):
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": answer, "more_body": False})
        except TimeoutError:
            pass  # the client reads nothing: as good as gone

    async def _answer(
        self, wanted: EmbeddingsRequest, pipe: Pipe[JobEvent], receive: Receive
    ) -> bytes | None:
        """Wait for the job's end; None if the client has gone. Raises: GatewayError."""
        watcher = asyncio.create_task(_watch(pipe, receive))
        try:
            events = await pipe.get_many()
            if not events:
                return None
            # The capture does not wait for the write, as for a chat that does not stream.
            pipe.finished = True
            event = events[0]
            if isinstance(event, Failed):
                raise event.error
            assert isinstance(event, Done)
            if len(event.choices[0].text) <= LARGE_TEXT_BYTES:
                return await asyncio.to_thread(answer_body, wanted, event)
            async with self._turn:
                return await asyncio.to_thread(answer_body, wanted, event)
        finally:
            watcher.cancel()
            pipe.abandon()  # does nothing after an answer that was finished


async def _watch(pipe: Pipe[JobEvent], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    pipe.abandon()
