"""The bridge between trio and asyncio: batches, cancellation, bounds, and nothing left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from gateway.bridge import Bridge, Pipe, PipeFullError
from gateway.errors import GatewayError, InternalError, NoNodeError, StoppingError
from gateway.limits import PIPE_EVENTS_MAX


class HttpThread:
    """An asyncio loop in a thread, as the gateway has one."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.bridge.attach(self.loop)
        self.loop.run_forever()
        self.loop.close()

    async def do(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run a coroutine function in the thread and give its result in trio."""
        done, box = trio.Event(), list[Any]()
        token = trio.lowlevel.current_trio_token()

        async def wrapped() -> None:
            try:
                box.append(await work())
            except Exception as error:
                box.append(error)
            token.run_sync_soon(done.set)

        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(wrapped()))
        with trio.fail_after(10):
            await done.wait()
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]


@asynccontextmanager
async def bridged() -> AsyncIterator[tuple[Bridge, HttpThread]]:
    bridge = Bridge()
    http = HttpThread(bridge)
    async with trio.open_nursery() as nursery:
        await nursery.start(bridge.run)
        http.thread.start()
        try:
            yield bridge, http
        finally:
            http.loop.call_soon_threadsafe(http.loop.stop)
            await trio.to_thread.run_sync(http.thread.join)
            nursery.cancel_scope.cancel()


async def test_events_arrive_in_order_and_in_batches() -> None:
    async with bridged() as (bridge, http):

        async def work(pipe: Pipe[int]) -> None:
            for burst in range(20):
                for number in range(50):
                    pipe.put(burst * 50 + number)
                await trio.lowlevel.checkpoint()

        async def read() -> tuple[list[int], int]:
            pipe = bridge.submit(work)
            seen: list[int] = []
            wakes = 0
            while len(seen) < 1000:
                seen += await pipe.get_many()
                wakes += 1
            return seen, wakes

        seen, wakes = await http.do(read)
        assert seen == list(range(1000))
        assert wakes <= 21
        await bridge.wait_idle()


async def test_abandoned_request_is_told_at_once() -> None:
    told = trio.Event()
    async with bridged() as (bridge, http):

        async def work(pipe: Pipe[int]) -> None:
            pipe.listen(told.set, lambda: None)
            await told.wait()
            pipe.put(1)  # into the void

        async def leave() -> list[int]:
            pipe = bridge.submit(work)
            asyncio.get_running_loop().call_later(0.05, pipe.abandon)
            return await pipe.get_many()

        assert await http.do(leave) == []
        with trio.fail_after(5):
            await told.wait()
            await bridge.wait_idle()


async def test_abandoned_before_it_began() -> None:
    async with bridged() as (bridge, http):
        began: list[bool] = []

        async def work(pipe: Pipe[int]) -> None:
            began.append(pipe.abandoned)

        async def leave() -> None:
            bridge.submit(work).abandon()

        await http.do(leave)
        await trio.sleep(0.05)
        assert began == [True]


async def test_calls() -> None:
    async with bridged() as (bridge, http):

        async def good() -> int:
            await trio.sleep(0.01)
            return 42

        async def refused() -> int:
            raise NoNodeError("none")

        async def broken() -> int:
            raise ValueError("a bug")

        assert await http.do(lambda: bridge.call(good)) == 42
        with pytest.raises(NoNodeError):
            await http.do(lambda: bridge.call(refused))
        with pytest.raises(InternalError):
            await http.do(lambda: bridge.call(broken))


async def test_a_cancelled_call_ends_in_trio() -> None:
    ended = trio.Event()
    async with bridged() as (bridge, http):

        async def forever() -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        async def give_up() -> str:
            try:
                await asyncio.wait_for(bridge.call(forever), 0.05)
            except TimeoutError:
                return "gave up"
            return "?"

        assert await http.do(give_up) == "gave up"
        with trio.fail_after(5):
            await ended.wait()


async def test_bounds_and_closing() -> None:
    async with bridged() as (bridge, http):
        full = trio.Event()

        async def flood(pipe: Pipe[int]) -> None:
            try:
                for number in range(PIPE_EVENTS_MAX + 1):
                    pipe.put(number)
            except PipeFullError:
                full.set()

        async def never_read() -> None:
            bridge.submit(flood)

        await http.do(never_read)
        with trio.fail_after(10):
            await full.wait()
        bridge.close()
        with pytest.raises(StoppingError):
            await http.do(lambda: bridge.call(trio.sleep_forever))


async def test_a_failing_request_harms_nobody() -> None:
    async with bridged() as (bridge, http):

        async def bug(pipe: Pipe[int]) -> None:
            raise KeyError("a bug")

        async def fine() -> str:
            return "fine"

        async def both() -> str:
            bridge.submit(bug)
            return await bridge.call(fine)

        assert await http.do(both) == "fine"
        with trio.fail_after(5):
            await bridge.wait_idle()
    assert issubclass(InternalError, GatewayError)
