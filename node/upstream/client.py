"""Owns HTTP with an upstream server: bounded, without redirects, under deadlines.

No proxy of the environment is used, no compression is asked for (a small answer could become a
large one), and nothing of what is sent or received is logged.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import trio

from node.upstream.errors import BrokenAnswerError, UpstreamError, refused
from node.upstream.limits import (
    CLOSE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    ERROR_BYTES_MAX,
    FIRST_BYTE_TIMEOUT_S,
    JSON_BYTES_MAX,
    PROBE_TIMEOUT_S,
    STALL_TIMEOUT_S,
)


@dataclass(frozen=True, slots=True)
class UpstreamTimes:
    """How long is waited (reasons in `node.upstream.limits`)."""

    connect_s: float = CONNECT_TIMEOUT_S
    first_byte_s: float = FIRST_BYTE_TIMEOUT_S
    stall_s: float = STALL_TIMEOUT_S
    probe_s: float = PROBE_TIMEOUT_S


class Body:
    """A response's body, part by part."""

    def __init__(self, response: httpx.Response, times: UpstreamTimes) -> None:
        """Read from the beginning."""
        self._response = response
        self._raw = response.aiter_raw()
        self._times = times
        self._begun = False

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of events."""
        kind = str(self._response.headers.get("content-type", ""))
        return kind.partition(";")[0].strip().lower() == "text/event-stream"

    def text_began(self) -> None:
        """From now on silence is a stall. (Servers may send a first event before they read the
        prompt.)"""
        self._begun = True

    async def next(self) -> bytes | None:
        """The next part, None at the end. Raises: UpstreamError (silence), httpx.HTTPError."""
        try:
            with trio.fail_after(self._times.stall_s if self._begun else self._times.first_byte_s):
                return await anext(self._raw, None)
        except trio.TooSlowError:
            raise UpstreamError("failed", "the server fell silent", sick=True) from None

    async def whole(self, bytes_max: int, *, cut: bool = False) -> bytes:
        """All of it; what is longer is cut, or an error. Raises: as `next`, BrokenAnswerError."""
        body = b""
        while (part := await self.next()) is not None:
            body += part
            if len(body) > bytes_max:
                if cut:
                    return body[:bytes_max]
                raise BrokenAnswerError(f"has more than {bytes_max} bytes")
        return body

    async def close(self) -> None:
        """End the request. The generators inside httpx end only by what they read."""
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT_S):
            try:
                await self._response.aclose()
                while await anext(self._raw, None) is not None:
                    pass
            except (httpx.HTTPError, httpx.StreamError):
                pass


class _Sent(httpx.AsyncByteStream):
    """A request's body. (httpx's own is a generator, which stays open when a job is cancelled while
    it is being sent.)"""

    def __init__(self, data: bytes) -> None:
        self._parts = [data]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class UpstreamClient:
    """Speaks to one server."""

    def __init__(
        self, root: str, *, key: str | None, connections: int, times: UpstreamTimes | None = None
    ) -> None:
        """Use at most `connections` at once; `root` is the address without `/v1`."""
        self.root = root
        self._times = times or UpstreamTimes()
        headers = {"accept-encoding": "identity", "user-agent": "resultity-node"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        self._http = httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            timeout=httpx.Timeout(
                self._times.first_byte_s,
                connect=self._times.connect_s,
                pool=self._times.connect_s,
            ),
            limits=httpx.Limits(
                max_connections=connections + 2, max_keepalive_connections=connections
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT_S):
            await self._http.aclose()

    async def get_json(self, path: str) -> Any:
        """Ask for a document. Raises: UpstreamError."""
        return await self._json("GET", path, None, self._times.probe_s)

    async def post_json(self, path: str, body: Any, timeout_s: float | None = None) -> Any:
        """Post a document and read the answer as one. Raises: UpstreamError."""
        data = json.dumps(body).encode()
        return await self._json("POST", path, data, timeout_s or self._times.probe_s)

    async def _json(self, method: str, path: str, data: bytes | None, timeout_s: float) -> Any:
        try:
            with trio.fail_after(timeout_s):
                async with self._respond(method, path, data) as response:
                    body = await response.whole(JSON_BYTES_MAX)
        except trio.TooSlowError:
            text = f"the server did not answer within {timeout_s:g} s"
            raise UpstreamError("runtime", text, sick=True) from None
        value = _parsed(body)
        if value is None:
            raise BrokenAnswerError("is no JSON")
        return value

    @asynccontextmanager
    async def _respond(self, method: str, path: str, data: bytes | None) -> AsyncIterator[Body]:
        """The body of a response with status 200. Leaving ends the request.

        Raises: UpstreamError, also for what happens to the connection inside.
        """
        if self._http.is_closed:
            raise UpstreamError("runtime", "the node stops")
        headers = {"content-type": "application/json"} if data is not None else {}
        request = self._http.build_request(method, self.root + path, content=data, headers=headers)
        if data is not None:
            request.stream = _Sent(data)
        try:
            response = await self._http.send(request, stream=True)
            body = Body(response, self._times)
            try:
                if response.status_code != 200:
                    said = b""
                    if response.status_code >= 400:
                        said = await body.whole(ERROR_BYTES_MAX, cut=True)
                    raise refused(response.status_code, _parsed(said))
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise BrokenAnswerError("is compressed, which was not asked for")
                yield body
            finally:
                await body.close()
        except (httpx.HTTPError, OSError) as error:
            raise _unreachable(error) from error

    @asynccontextmanager
    async def answering(self, question: bytes) -> AsyncIterator[Body]:
        """Ask for an answer. Leaving ends the request; raises as the others do."""
        async with self._respond("POST", "/v1/chat/completions", question) as body:
            yield body


def _parsed(body: bytes) -> Any:
    """A body as JSON; None if it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _unreachable(error: httpx.HTTPError | OSError) -> UpstreamError:
    """What a failure of the connection means."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return UpstreamError("runtime", "the server cannot be reached", sick=True)
    if isinstance(error, httpx.TimeoutException):
        return UpstreamError("failed", "the server fell silent", sick=True)
    if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError):
        return UpstreamError("failed", "the server broke off or breaks HTTP", sick=True)
    return UpstreamError("failed", "the connection to the server broke", sick=True)
