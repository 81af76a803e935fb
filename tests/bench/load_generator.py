"""Owns the load: a closed loop of HTTP requests over kept-alive connections, cheap for the machine.

It runs as a process of its own, so that its CPU time is not the gateway's, and reads sockets with
epoll and no HTTP library (on a machine of two cores a client library would otherwise be what is
measured). Each connection sends its next request when it has the whole answer to the one before
(closed loop), or, with `--interval-s`, that much after the one before, evenly spread over the
connections: the first shows what a saturated server gives, the second what a client sees while
there is room. Prints one JSON line.

An answer counts if its status is 200 and it holds what it should (`--expect`); anything else is an
error, and what the first one said is reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import select
import socket
import time
import urllib.parse
from dataclasses import dataclass, field

READ_BYTES = 1 << 16
SILENCE_S_MAX = 20.0
"""No answer on any connection for this long: what is being measured hangs."""
CONNECT_TIMEOUT_S = 5.0
ERROR_CHARACTERS_MAX = 300


@dataclass
class Load:
    """What one run saw. Times are in milliseconds, of answers that counted."""

    requests: int = 0
    errors: int = 0
    first_error: str = ""
    duration_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)

    def note_error(self, message: str) -> None:
        """Count an answer that does not count."""
        self.errors += 1
        self.first_error = self.first_error or message[:ERROR_CHARACTERS_MAX]


@dataclass
class Answer:
    """The bytes of one answer as they come, and how far they are understood."""

    data: bytearray = field(default_factory=bytearray)
    body_at: int = 0
    length: int = -1
    """Of the body; -1: chunked, ends with an empty chunk."""

    def add(self, data: bytes) -> bool:
        """Take bytes; tell whether the answer is complete."""
        self.data += data
        if not self.body_at:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return False
            self.body_at = end + 4
            head = bytes(self.data[:end]).lower()
            at = head.find(b"\r\ncontent-length:")
            if at >= 0:
                self.length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        if self.length >= 0:
            return len(self.data) - self.body_at >= self.length
        return self.data.endswith(b"0\r\n\r\n")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.data[9:12])


class Connection:
    """One kept-alive connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.answer = Answer()
        self.sent_s = 0.0
        self.first_token_s = 0.0
        self.counted = False
        self.busy = False
        self.due_s: float | None = None
        """When its next request starts, if that is not now."""

    def send(self, request: bytes, now_s: float, *, counted: bool) -> None:
        """Start the next request."""
        self.answer = Answer()
        self.sent_s, self.first_token_s = now_s, 0.0
        self.counted, self.busy = counted, True
        # A request is smaller than an empty socket buffer: it goes whole.
        sent = self.socket.send(request)
        assert sent == len(request), "the request does not fit the socket's buffer"


class Generator:
    """A closed loop with a fixed number of connections."""

    def __init__(
        self,
        address: tuple[str, int],
        request: bytes,
        connections: int,
        *,
        expect: bytes,
        stream: bool,
        interval_s: float,
    ) -> None:
        self._address = address
        self._request = request
        self._expect = expect
        self._stream = stream
        self._interval_s = interval_s
        self._left = 0
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self.load = Load()
        for _ in range(connections):
            self._connect()

    def _connect(self) -> Connection:
        connection = Connection(self._address)
        number = connection.socket.fileno()
        self._connections[number] = connection
        self._poll.register(number, select.EPOLLIN)
        return connection

    def run(self, *, duration_s: float | None, requests: int | None) -> Load:
        """Run until a time has passed or a number of requests was answered; then let rest end."""
        self._warm_up()
        started_s = time.perf_counter()
        deadline_s = started_s + duration_s if duration_s is not None else None
        self._left = requests if requests is not None else 1 << 62
        for number, connection in enumerate(list(self._connections.values())):
            connection.sent_s = started_s + self._interval_s * number / len(self._connections)
            connection.sent_s -= self._interval_s
            self._next(connection, started_s, deadline_s)
        self._drain(deadline_s)
        self.load.duration_s = time.perf_counter() - started_s
        return self.load

    def _warm_up(self) -> None:
        # One uncounted request on each connection: routes, caches and buffers exist afterwards.
        self._left = 0
        for connection in list(self._connections.values()):
            connection.send(self._request, time.perf_counter(), counted=False)
        self._drain(None)

    def _next(self, connection: Connection, now_s: float, deadline_s: float | None) -> None:
        connection.busy = False
        starts_s = max(now_s, connection.sent_s + self._interval_s)
        if self._left <= 0 or (deadline_s is not None and starts_s >= deadline_s):
            return
        self._left -= 1
        if starts_s > now_s:
            connection.due_s = starts_s
        else:
            connection.send(self._request, now_s, counted=True)

    def _drain(self, deadline_s: float | None) -> None:
        while True:
            connections = self._connections.values()
            due_s = min((one.due_s for one in connections if one.due_s is not None), default=None)
            if due_s is None and not any(one.busy for one in connections):
                return
            wait_s = SILENCE_S_MAX if due_s is None else max(0.0, due_s - time.perf_counter())
            events = self._poll.poll(wait_s)
            if not events and due_s is None:
                for connection in connections:
                    if connection.busy:
                        self.load.note_error(f"no answer within {SILENCE_S_MAX:g} s")
                return
            for number, _ in events:
                self._read(self._connections[number], deadline_s)
            if due_s is not None:
                self._send_due()

    def _send_due(self) -> None:
        now_s = time.perf_counter()
        for connection in self._connections.values():
            if connection.due_s is not None and connection.due_s <= now_s:
                connection.due_s = None
                connection.send(self._request, now_s, counted=True)

    def _read(self, connection: Connection, deadline_s: float | None) -> None:
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            self.load.first_error = self.load.first_error or str(error)
        now_s = time.perf_counter()
        if not data:
            self._lost(connection, deadline_s, now_s)
            return
        done = connection.answer.add(data)
        if self._stream and not connection.first_token_s and self._expect in connection.answer.data:
            connection.first_token_s = now_s
        if done:
            self._count(connection, now_s)
            self._next(connection, now_s, deadline_s)

    def _count(self, connection: Connection, now_s: float) -> None:
        answer = connection.answer
        if answer.status != 200 or self._expect not in answer.data:
            self.load.note_error(bytes(answer.data).decode("utf-8", "replace"))
        elif connection.counted:
            self.load.requests += 1
            self.load.latencies_ms.append((now_s - connection.sent_s) * 1000)
            if self._stream:
                self.load.first_token_ms.append(
                    (connection.first_token_s - connection.sent_s) * 1000
                )

    def _lost(self, connection: Connection, deadline_s: float | None, now_s: float) -> None:
        number = connection.socket.fileno()
        self._poll.unregister(number)
        connection.socket.close()
        del self._connections[number]
        if connection.busy:
            self.load.note_error("the connection was closed in the middle of an answer")
        self._next(self._connect(), now_s, deadline_s)


def http_request(url: str, key: str, body: bytes) -> tuple[tuple[str, int], bytes]:
    """Give the address and the bytes of a POST request."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None, f"no host in {url}"
    assert parts.port is not None, f"no port in {url}"
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (parts.hostname, parts.port), head.encode() + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--body", required=True, help="JSON of the request")
    parser.add_argument("--expect", required=True, help="what a good answer contains")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--duration-s", type=float)
    parser.add_argument("--requests", type=int)
    parser.add_argument(
        "--interval-s", type=float, default=0.0, help="between a connection's starts"
    )
    given = parser.parse_args()
    address, request = http_request(given.url, given.key, given.body.encode())
    stream = bool(json.loads(given.body).get("stream"))
    generator = Generator(
        address,
        request,
        given.connections,
        expect=given.expect.encode(),
        stream=stream,
        interval_s=given.interval_s,
    )
    load = generator.run(duration_s=given.duration_s, requests=given.requests)
    print(json.dumps(dataclasses.asdict(load)))


if __name__ == "__main__":
    main()
