"""Owns the load on an engine: requests that begin together, by the pipe or by HTTP, and timed.

Both loads run in the benchmark's own process, on trio, and stream: every step's tokens arrive while
the answer goes on. An answer that has not exactly the tokens that were asked for is an error.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio
from processes import BenchError

from node.runtime_process import RuntimeProcess

ANSWER_TIMEOUT_S = 300.0
RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Shape:
    """What each request is: tokens of the prompt and of the answer; temperature."""

    prompt_tokens: int = 32
    output_tokens: int = 64
    temperature: float = 0.0


@dataclass(slots=True)
class Timed:
    """When one request's tokens came, in seconds after all began."""

    first_token_s: float = 0.0
    ended_s: float = 0.0
    tokens: int = 0


Ask = Callable[[str, Shape, float], Awaitable[Timed]]
"""Sends one request (prompt, shape, start of the clock) and waits for its end."""


@dataclass
class PromptBook:
    """Gives prompts that have no beginning in common, so that no cache helps anybody."""

    number: int = 0
    filler: str = field(default="the quiet harbour of the old town lies in the morning fog " * 200)

    def next(self, tokens: int) -> str:
        """A prompt of so many tokens (characters)."""
        self.number += 1
        # Reversed: consecutive numbers differ in their first digit.
        return (f"{self.number:06d}"[::-1] + self.filler)[:tokens]


async def together(ask: Ask, prompts: list[str], shape: Shape) -> tuple[float, list[Timed]]:
    """Send all prompts at once; gives the seconds until the last end, and each one's times."""
    results: list[Timed] = []
    started_s = time.perf_counter()

    async def one(prompt: str) -> None:
        results.append(await ask(prompt, shape, started_s))

    with trio.fail_after(ANSWER_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for prompt in prompts:
                nursery.start_soon(one, prompt)
    for result in results:
        if result.tokens != shape.output_tokens:
            raise BenchError(f"an answer has {result.tokens} tokens, not {shape.output_tokens}")
    return max(result.ended_s for result in results), results


async def tokens_per_s(
    ask: Ask, book: PromptBook, level: int, shape: Shape, requests_min: int
) -> float:
    """Aggregate tokens/s at one level; small levels repeat, so that a run lasts long enough."""
    rates = []
    for _ in range(max(1, requests_min // level)):
        prompts = [book.next(shape.prompt_tokens) for _ in range(level)]
        elapsed_s, _ = await together(ask, prompts, shape)
        rates.append(level * shape.output_tokens / elapsed_s)
    return statistics.median(rates)


# --- our runtime ------------------------------------------------------------------------------
@dataclass(slots=True)
class Collector:
    """The sink of one job."""

    started_s: float
    timed: Timed = field(default_factory=Timed)
    outcome: str = ""
    ended: trio.Event = field(default_factory=trio.Event)

    def on_output(self, token_ids: tuple[int, ...], text: str, *more: object) -> None:
        if token_ids and not self.timed.tokens:
            self.timed.first_token_s = time.perf_counter() - self.started_s
        self.timed.tokens += len(token_ids)

    def on_cached(self, input_tokens: int) -> None:
        pass

    def on_end(self, outcome: str, detail: str) -> None:
        self.timed.ended_s = time.perf_counter() - self.started_s
        self.outcome = outcome
        self.ended.set()


def runtime_asker(runtime: RuntimeProcess, scope: bytes = b"") -> Ask:
    """Ask our runtime through the pipe."""

    async def ask(prompt: str, shape: Shape, started_s: float) -> Timed:
        fields = {"messages": [{"role": "user", "content": prompt}]}
        body = json.dumps(fields | {"temperature": shape.temperature}).encode()
        job = await runtime.prepare(
            body, output_tokens_max=shape.output_tokens, seed=1, cache_scope=scope
        )
        sink = Collector(started_s)
        runtime.start(job.number, sink)
        await sink.ended.wait()
        if sink.outcome != "length":
            raise BenchError(f"the runtime ended a job with {sink.outcome}")
        return sink.timed

    return ask


# --- servers over HTTP ------------------------------------------------------------------------
def llama_server_asker(url: str) -> Ask:
    """Ask llama.cpp's server by its native completion; no default samplers, no prompt cache."""

    def body(prompt: str, shape: Shape) -> dict[str, object]:
        fields: dict[str, object] = {"prompt": prompt, "n_predict": shape.output_tokens}
        fields |= {"stream": True, "cache_prompt": False, "temperature": shape.temperature}
        fields |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "samplers": ["temperature"], "seed": 1}
        return fields

    return _http_asker(url, body, b'"tokens_predicted":')


def llama_cpp_server_asker(url: str) -> Ask:
    """Ask llama_cpp.server; it does not say how many tokens came: each is an event."""

    def body(prompt: str, shape: Shape) -> dict[str, object]:
        fields: dict[str, object] = {"prompt": prompt, "max_tokens": shape.output_tokens}
        fields |= {"stream": True, "temperature": shape.temperature}
        fields |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "seed": 1}
        return fields

    return _http_asker(url, body, None)


def _http_asker(
    url: str, body: Callable[[str, Shape], dict[str, object]], count_key: bytes | None
) -> Ask:
    """A lean HTTP client: the client shares the processors with the servers."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    host, port = parts.hostname, parts.port

    async def ask(prompt: str, shape: Shape, started_s: float) -> Timed:
        content = json.dumps(body(prompt, shape)).encode()
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        timed = Timed()
        received = bytearray()
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            await stream.send_all(head.encode() + content)
            while data := await stream.receive_some(RECEIVE_BYTES):
                received += data
                if not timed.first_token_s and b"data: " in received:
                    timed.first_token_s = time.perf_counter() - started_s
        timed.ended_s = time.perf_counter() - started_s
        if not received.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"a baseline answered {bytes(received[:200])!r}")
        if count_key is None:
            # The last two events are the end's reason and [DONE].
            timed.tokens = received.count(b"data: ") - 2
        else:
            after = received.rpartition(count_key)[2]
            timed.tokens = int(after.partition(b",")[0].strip(b" }") or 0)
        return timed

    return ask
