"""Owns a campaign against a runtime: random jobs with known answers, cancelled and cut off at
random."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import trio

from node.runtime_process import RuntimeProcess
from p2p.job_messages import CancelFrame, EndFrame, OutputFrame, RefuseFrame
from p2p.logprob_messages import TokenLogprob
from tests.fakes.job_desk import Desk

TOKENS_MAX = 40
BAD: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[]",
    b'{"messages": []}',
    b'{"messages": [{"role": "wizard", "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": 5}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}',
    b'{"messages": [{"role": "user", "content": "x"}], "top_k": -7}',
    b'{"messages": [{"role": "user", "content": "x"}], "stop": [""]}',
    b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"x": 1}}',
    b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "poem"}}',
    json.dumps({"messages": [{"role": "user", "content": "long " * 3000}]}).encode(),
)


@dataclass
class Heard:
    """A sink that keeps everything."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ended: trio.Event = field(default_factory=trio.Event)
    outcome: str = ""

    def on_cached(self, input_tokens: int) -> None:
        pass

    def on_input(self, input_tokens: int) -> None:
        pass

    def on_output(
        self,
        token_ids: tuple[int, ...],
        text: str,
        logprobs: tuple[TokenLogprob, ...] = (),
        choice: int = 0,
        finish: str = "",
    ) -> None:
        self.tokens += token_ids
        self.text += text

    def on_end(self, outcome: str, detail: str) -> None:
        self.outcome = outcome
        self.ended.set()


@dataclass(frozen=True)
class Known:
    """A request whose answer is known, because it was asked alone."""

    marker: str
    request: bytes
    seed: int
    tokens: tuple[int, ...]
    text: str


def _questions(draw: random.Random, count: int) -> list[tuple[str, dict[str, Any]]]:
    """Questions with a marker each: sums, and answers that a schema forces to be the marker."""
    found: list[tuple[str, dict[str, Any]]] = []
    pairs = [(a, b) for a in range(2, 13) for b in range(2, 13)]
    for a, b in draw.sample(pairs, count):
        fields: dict[str, Any] = {"temperature": draw.choice([0, 0, 0.7])}
        found.append((f"{a} + {b} = ", {"content": f"What is {a} + {b}?", **fields}))
    for number in range(count):
        marker = f"m{number:03}x"
        schema = {
            "type": "object",
            "properties": {"marker": {"enum": [marker]}},
            "required": ["marker"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "marker", "schema": schema}}
        content = f"Anna is {number} years old. Return JSON."
        found.append((marker, {"content": content, "temperature": 1, "response_format": form}))
    return found


async def ask_alone(runtime: RuntimeProcess, draw: random.Random, count: int) -> list[Known]:
    """Ask each question alone; keep those whose answer has its own marker and nobody else's."""
    known: list[Known] = []
    questions = _questions(draw, count)
    for marker, fields in questions:
        content = fields.pop("content")
        request = json.dumps({"messages": [{"role": "user", "content": content}], **fields})
        seed = draw.randrange(2**32)
        job = await runtime.prepare(request.encode(), output_tokens_max=TOKENS_MAX, seed=seed)
        heard = Heard()
        runtime.start(job.number, heard)
        await heard.ended.wait()
        if marker in heard.text:
            tokens = tuple(heard.tokens)
            known.append(Known(marker, request.encode(), seed, tokens, heard.text))
    for one in known:
        others = {other.marker for other in known if other is not one}
        assert not any(marker in one.text for marker in others if marker not in one.marker)
    return known


class Campaign:
    """Gives a desk random jobs, and checks what comes back."""

    def __init__(self, desk: Desk, known: list[Known], draw: random.Random) -> None:
        self.desk = desk
        self.known = known
        self.draw = draw
        self.outcomes: Counter[str] = Counter()
        self._number = 0

    async def session(self, jobs: int, *, at_once: int, cut_off: bool) -> None:
        """Run jobs in one session, which is cut off in their midst or closed at the end."""
        limit = trio.CapacityLimiter(at_once)
        self.desk.received.clear()
        async with self.desk.session():
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    for index in range(jobs):
                        await limit.acquire_on_behalf_of(index)
                        nursery.start_soon(self._job, limit, index)
                        await trio.sleep(self.draw.random() * 0.004)
                    if cut_off:
                        self.desk.stream.break_now()
                        self.outcomes["cut off"] += at_once
                        scope.cancel()
            if cut_off:
                await self.desk.ended.wait()
        self.desk.ended = trio.Event()

    async def _job(self, limit: trio.CapacityLimiter, index: int) -> None:
        self._number += 1
        number, kind = self._number, self.draw.random()
        try:
            if kind < 0.15:
                await self._bad(number)
            elif kind < 0.25:
                await self._never_paid(number)
            else:
                await self._answered(number, cancelled=kind < 0.5)
        finally:
            limit.release_on_behalf_of(index)

    def _offer(self, number: int, request: bytes, **changes: Any) -> Any:
        return self.desk.offer(
            number,
            request=request,
            request_hash=hashlib.sha256(request).digest(),
            output_tokens_max=TOKENS_MAX,
            **changes,
        )

    async def _bad(self, number: int) -> None:
        self.desk.send_offer(self._offer(number, self.draw.choice(BAD)), number)
        end = await self._end_of(number)
        assert isinstance(end, RefuseFrame), end
        self.outcomes[end.code] += 1

    async def _never_paid(self, number: int) -> None:
        known = self.draw.choice(self.known)
        self.desk.send_offer(self._offer(number, known.request), number)
        await trio.sleep(self.draw.random() * 0.02)
        self.desk.link.send(CancelFrame(number, "changed my mind"))
        await self._end_of(number)
        assert self._text_of(number) == ""
        self.outcomes["never paid"] += 1

    async def _answered(self, number: int, *, cancelled: bool) -> None:
        known = self.draw.choice(self.known)
        done = self.draw.randrange(len(known.tokens)) if self.draw.random() < 0.2 else 0
        offer = self._offer(
            number, known.request, seed=known.seed, resume_tokens=known.tokens[:done]
        )
        self.desk.send_offer(offer, number)
        self.desk.send_voucher(offer, number)
        if cancelled:
            await trio.sleep(self.draw.random() * 0.05)
            self.desk.link.send(CancelFrame(number, "enough"))
        end = await self._end_of(number)
        assert isinstance(end, EndFrame), end
        text, tokens = self._text_of(number), self._tokens_of(number)
        rest = known.tokens[done:]
        self.outcomes[end.outcome + (" resumed" if done else "")] += 1
        if end.outcome == "cancelled":
            assert (
                known.text.endswith(text)
                if done and len(tokens) == len(rest)
                else (text in known.text)
            )
            assert tokens == rest[: len(tokens)]
            return
        assert tokens == rest, f"{known.marker}: {text!r} is not {known.text!r}"
        assert known.text.endswith(text)
        assert done or text == known.text

    async def _end_of(self, number: int) -> EndFrame | RefuseFrame:
        while True:
            heard = self.desk._heard
            for item in self.desk.received:
                if isinstance(item, EndFrame | RefuseFrame) and item.number == number:
                    return item
            await heard.wait()

    def _frames_of(self, number: int) -> list[OutputFrame]:
        return [frame for frame in self.desk.of(OutputFrame) if frame.number == number]

    def _text_of(self, number: int) -> str:
        return "".join(frame.text for frame in self._frames_of(number))

    def _tokens_of(self, number: int) -> tuple[int, ...]:
        return tuple(token for frame in self._frames_of(number) for token in frame.token_ids)
