"""Owns the bridge: the only way between the HTTP thread (asyncio) and the peer (trio).

Theory of operation. Trio runs in the main thread, uvicorn in one worker thread. Waking the other
side costs a system call and a fight for the interpreter lock, so both directions coalesce:
everything that the HTTP thread submits in one turn of its loop wakes trio once, and everything
that trio produces in one of its turns wakes asyncio once, for however many requests. Per request
there is a `Pipe` (trio to asyncio): `put` never waits, because a job's output is bounded by its
token limit; `get_many` takes all that has collected. A request that its client abandons tells the
trio side at once (`Pipe.abandon`); a pipe that nobody reads takes nothing more.

Thread safety rests on `collections.deque` (append and popleft are atomic) and on flags that are
cleared before the queue they guard is emptied: a late append schedules a wake-up that finds
nothing, never the other way round."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from gateway.errors import GatewayError, InternalError, StoppingError
from gateway.limits import PIPE_EVENTS_MAX, REQUESTS_IN_FLIGHT_MAX

log = logging.getLogger(__name__)
E = TypeVar("E")
T = TypeVar("T")


class PipeFullError(Exception):
    """More events wait in a pipe than any job may produce."""


class Pipe(Generic[E]):
    """Carries one request's events from trio to asyncio, and its abandonment back."""

    __slots__ = (
        "_abandoned",
        "_bridge",
        "_dirty",
        "_events",
        "_on_abandon",
        "_on_finish",
        "_waiter",
        "finished",
        "written_tokens",
    )

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._events: deque[E] = deque()
        self._dirty = False
        self._waiter: asyncio.Future[None] | None = None
        self._abandoned = False
        self._on_abandon: Callable[[], None] | None = None
        self._on_finish: Callable[[], None] | None = None
        self.finished = False
        """Set by the HTTP thread when everything it was given has been written."""
        self.written_tokens = 0
        """Counted by the HTTP thread: tokens whose text went to the client's socket."""

    # --- trio side ------------------------------------------------------------------------------
    @property
    def abandoned(self) -> bool:
        """Whether the client has gone."""
        return self._abandoned

    def listen(self, on_abandon: Callable[[], None], on_finish: Callable[[], None]) -> None:
        """Have these called (in trio) when the client goes, or when all has been written."""
        self._on_abandon, self._on_finish = on_abandon, on_finish

    def stop_listening(self) -> None:
        """Call nobody any more (and keep nobody alive that was to be called)."""
        self._on_abandon = self._on_finish = None

    def put(self, event: E) -> None:
        """Hand an event over; dropped if the client has gone. Raises: PipeFullError."""
        if self._abandoned:
            return
        if len(self._events) >= PIPE_EVENTS_MAX:
            raise PipeFullError("the client does not keep up with its own answer")
        self._events.append(event)
        if not self._dirty:
            self._dirty = True
            self._bridge.mark(self)

    def tell_abandoned(self) -> None:
        """Called in trio after `abandon`."""
        if self._on_abandon is not None:
            self._on_abandon()

    def tell_finished(self) -> None:
        """Called in trio after `finish`."""
        if self._on_finish is not None:
            self._on_finish()

    # --- asyncio side ---------------------------------------------------------------------------
    def wake(self) -> None:
        """Let `get_many` return."""
        self._dirty = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get_many(self) -> list[E]:
        """Wait for events and take all of them; an empty list means that the client has gone."""
        while not self._events and not self._abandoned:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._waiter = None
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def abandon(self) -> None:
        """The client has gone: tell trio, and let `get_many` return. Idempotent."""
        if not self._abandoned and not self.finished:
            self._abandoned = True
            self._bridge.tell(self.tell_abandoned)
            self.wake()

    def finish(self) -> None:
        """Everything was written: tell trio. Idempotent."""
        if not self.finished and not self._abandoned:
            self.finished = True
            self._bridge.tell(self.tell_finished)


class Bridge:
    """Both directions of the traffic. Made in trio; `attach` is called in the HTTP thread."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._loop: asyncio.AbstractEventLoop | None = None
        # asyncio -> trio
        self._inbox: deque[Callable[[trio.Nursery], None]] = deque()
        self._flush_scheduled = False
        self._inbox_event = trio.Event()
        self._in_flight = 0
        self._closed = False
        # trio -> asyncio
        self._ready: deque[Pipe[object]] = deque()
        self._ready_event = trio.Event()
        self._idle_event = trio.Event()

    # --- trio side ------------------------------------------------------------------------------
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve both directions until cancelled; requests run as tasks in here."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wake_http_thread)
            task_status.started()
            while True:
                await self._inbox_event.wait()
                self._inbox_event = trio.Event()
                while self._inbox:
                    self._inbox.popleft()(nursery)

    @property
    def requests_in_flight(self) -> int:
        """How many requests run now."""
        return self._in_flight

    def close(self) -> None:
        """Take no new requests (running ones go on)."""
        self._closed = True

    async def wait_idle(self) -> None:
        """Wait until no request runs."""
        while self._in_flight:
            self._idle_event = trio.Event()
            await self._idle_event.wait()

    def mark(self, pipe: Pipe[E]) -> None:
        """A pipe has news: its reader is woken at the end of this turn of trio's loop."""
        self._ready.append(pipe)  # type: ignore[arg-type]
        self._ready_event.set()

    async def _wake_http_thread(self) -> None:
        while True:
            await self._ready_event.wait()
            self._ready_event = trio.Event()
            if self._loop is not None and self._ready:
                try:
                    self._loop.call_soon_threadsafe(self._wake_readers)
                except RuntimeError:  # the loop is closed: nobody reads any more
                    self._ready.clear()

    async def _serve(self, pipe: Pipe[E], work: Callable[[Pipe[E]], Awaitable[None]]) -> None:
        try:
            await work(pipe)
        except Exception:
            # One request must not end the gateway; the client is told by the pipe's reader.
            log.exception("a request failed")
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle_event.set()

    # --- asyncio side ---------------------------------------------------------------------------
    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """This loop reads the pipes from now on."""
        self._loop = loop

    def submit(self, work: Callable[[Pipe[E]], Awaitable[None]]) -> Pipe[E]:
        """Start a request in trio. Raises: StoppingError if the gateway stops or is full."""
        if self._closed:
            raise StoppingError("this gateway is stopping", retry_after_s=1)
        if self._in_flight >= REQUESTS_IN_FLIGHT_MAX:
            raise StoppingError("this gateway is full", retry_after_s=1)
        pipe: Pipe[E] = Pipe(self)

        def start(nursery: trio.Nursery) -> None:
            self._in_flight += 1
            nursery.start_soon(self._serve, pipe, work)

        self._post(start)
        return pipe

    def tell(self, function: Callable[[], None]) -> None:
        """Have a function called in trio (soon, in order)."""
        self._post(lambda nursery: function())

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function in trio and give its result; cancelled if the caller is.

        Raises: what it raises, if that is a GatewayError; InternalError otherwise.
        """

        async def answer(pipe: Pipe[tuple[T | None, GatewayError | None]]) -> None:
            with trio.CancelScope() as scope:
                pipe.listen(scope.cancel, lambda: None)
                try:
                    pipe.put((await work(), None))
                except GatewayError as error:
                    pipe.put((None, error))
                except Exception:
                    log.exception("a call from the HTTP thread failed")
                    pipe.put((None, InternalError("an internal error; it is in the log")))

        pipe = self.submit(answer)
        try:
            events = await pipe.get_many()
        except asyncio.CancelledError:
            pipe.abandon()
            raise
        pipe.finished = True
        result, error = events[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def _post(self, item: Callable[[trio.Nursery], None]) -> None:
        self._inbox.append(item)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        try:
            self._token.run_sync_soon(self._open_inbox)
        except trio.RunFinishedError:
            self._inbox.clear()

    def _open_inbox(self) -> None:
        self._inbox_event.set()

    def _wake_readers(self) -> None:
        while self._ready:
            self._ready.popleft().wake()
