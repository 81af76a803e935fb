"""Owns uvicorn: the bound socket, the thread that serves it, and how it stops."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import Callable
from typing import Any

import httptools
import trio
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.backend import Backend
from gateway.errors import InvalidRequestError, PortInUseError
from gateway.http.app import make_app
from gateway.limits import CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT_S, KEEP_ALIVE_S

_BACKLOG = 2048


def bind_http_socket(host: str, port: int) -> socket.socket:
    """Bind the HTTP address; port 0 takes a free one. Raises: PortInUseError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise PortInUseError(f"cannot listen on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise PortInUseError(
            f"cannot listen on {host} port {port}: {reason}. Is another gateway running? "
            "Choose another port with --http-port."
        ) from error
    listener.setblocking(False)
    return listener


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's parser with a bound on the size of a request's head and on its time."""

    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Give a new connection a time within which its first head must arrive."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer with the connection."""
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:  # a later request on a kept connection begins
                self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_too_late)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and self.transport is not None:
            self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse a head whose headers alone are too large."""
        self._header_bytes = getattr(self, "_header_bytes", 0) + len(name) + len(value)
        if self._header_bytes > HEAD_BYTES_MAX:
            raise httptools.HttpParserError("the request's head is too large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        self._head_bytes = 0
        self._header_bytes = 0
        self._cancel_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What follows is the next head."""
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the shape of all errors."""
        content = json.dumps(InvalidRequestError(msg).body()).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()

    def _head_too_late(self) -> None:
        self._head_timer = None
        waits = self.cycle is None or self.cycle.response_complete
        if self._in_head and waits and self.transport is not None:
            self.transport.close()

    def _cancel_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class HttpServer:
    """uvicorn in a worker thread."""

    def __init__(self, backend: Backend, listener: socket.socket, *, stop_grace_s: float) -> None:
        """Serve this backend on a socket that is bound already."""
        self._backend = backend
        self._listener = listener
        config = uvicorn.Config(
            make_app(backend),
            loop="none",
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            backlog=_BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(stop_grace_s),
        )
        self._server = uvicorn.Server(config)
        self._stopped = trio.Event()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._listener.getsockname()[1])

    def stop(self) -> None:
        """Finish what runs (up to the grace) and end; `run` returns then."""
        self._server.should_exit = True

    async def wait_stopped(self) -> None:
        """Wait until the thread has ended."""
        await self._stopped.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`; when cancelled, end without waiting for anybody."""
        token = trio.lowlevel.current_trio_token()
        started = trio.Event()

        async def announce() -> None:
            await started.wait()
            task_status.started()

        async def end_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                self._server.should_exit = self._server.force_exit = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(announce)
            nursery.start_soon(end_when_cancelled)
            try:
                await trio.to_thread.run_sync(
                    self._thread, lambda: token.run_sync_soon(started.set)
                )
            finally:
                self._stopped.set()
            nursery.cancel_scope.cancel()

    def _thread(self, on_start: Callable[[], None]) -> None:
        async def main() -> None:
            self._backend.bridge.attach(asyncio.get_running_loop())
            asyncio.get_running_loop().call_later(0, self._when_started, on_start)
            await self._server.serve(sockets=[self._listener])

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    def _when_started(self, on_start: Callable[[], None]) -> None:
        if self._server.started:
            on_start()
        else:
            asyncio.get_running_loop().call_later(0.005, self._when_started, on_start)
