"""Owns a web server on the loopback that serves model files, as badly as a test wants it to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Behaviour:
    """What the server does; the lists are used up request by request (of files, not of the API).

    `die_after`: close the connection after so many bytes of the body. `statuses`: answer with these
    instead. `gate`: set it to let a body go on beyond `gate_after` bytes.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    die_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    heeds_if_range: bool = True
    chunked: bool = False
    no_length: bool = False
    claimed_length: int | None = None
    stall_after: int | None = None
    gate_after: int | None = None
    gate: threading.Event = field(default_factory=threading.Event)


@dataclass
class ModelServer:
    """The running server; `asked` has each request: method, path, headers (lower case)."""

    url: str
    does: Behaviour
    asked: list[tuple[str, str, dict[str, str]]]

    def requests_of(self, path: str) -> list[dict[str, str]]:
        return [headers for _, asked, headers in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        does, path = self.server.does, self.path
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, path, headers))
        if path in does.answers:
            self._short(200, json.dumps(does.answers[path]).encode())
        elif path in does.redirects:
            self.send_response(302)
            for name, value in does.headers.get(path, {}).items():
                self.send_header(name, value)
            self.send_header("Location", does.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif does.statuses and body:
            self._short(does.statuses.pop(0), b"")
        elif path.partition("?")[0] in does.files:
            self._file(path.partition("?")[0], headers, body)
        else:
            self._short(404, b"")

    def _short(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _file(self, path: str, headers: dict[str, str], body: bool) -> None:
        does = self.server.does
        content, etag = does.files[path], does.etags.get(path, "")
        start = 0
        asked = headers.get("range", "")
        same = headers.get("if-range", etag) == etag or not does.heeds_if_range
        if does.ranges and asked and same:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            self._short(416, b"")
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if etag:
            self.send_header("ETag", etag)
        for name, value in does.headers.get(path, {}).items():
            self.send_header(name, value)
        rest = content[start:]
        if does.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif not does.no_length:
            length = len(rest) if does.claimed_length is None else does.claimed_length - start
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if body:
            self._body(rest)

    def _body(self, rest: bytes) -> None:
        does = self.server.does
        end = does.die_after.pop(0) if does.die_after else None
        shown = rest if end is None else rest[:end]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sent = 0
            while sent < len(shown):
                if does.stall_after is not None and sent >= does.stall_after:
                    self.server.ending.wait(30)
                    return
                if does.gate_after is not None and sent >= does.gate_after:
                    does.gate.wait(30)
                data = shown[sent : sent + 16_384]
                if does.chunked:
                    self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                else:
                    self.wfile.write(data)
                self.wfile.flush()
                sent += len(data)
            if does.chunked and end is None:
                self.wfile.write(b"0\r\n\r\n")
        if end is not None or does.no_length or does.claimed_length is not None:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, does: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.does = does
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.ending = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of these tests leave in the middle all the time."""


@contextlib.contextmanager
def model_server() -> Iterator[ModelServer]:
    does = Behaviour()
    server = _Server(does)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield ModelServer(f"http://127.0.0.1:{server.server_port}", does, server.asked)
    finally:
        server.ending.set()
        does.gate.set()
        server.shutdown()
        thread.join(10)
        server.server_close()
