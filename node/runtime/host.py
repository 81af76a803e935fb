"""Owns the main loop of the runtime process: frames in on stdin, frames out on the real stdout.

Theory of operation. The main thread reads frames; it prepares requests itself, so that tokenising
a long prompt does not stall the step that is computing. The engine's thread takes starts, cancels
and pings from a queue between two steps, and writes what each step brought as one frame. A pipe
that the agent does not empty blocks the engine, which bounds what can pile up. When stdin ends,
the agent has gone: the process exits at once, whatever the engine is doing (it holds nothing that
must be saved).

File descriptor 1 is moved away first and points to stderr from then on, so nothing that a library
prints can damage the protocol. SIGINT is ignored: Ctrl-C is the agent's to handle.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, NoReturn

from node.errors import NodeError, RuntimeRefusedError
from node.limits import (
    PIPE_FRAME_BYTES_MAX,
    PIPE_READ_BYTES,
    RUNTIME_JOBS_MAX,
    RUNTIME_TEXT_CHARACTERS_MAX,
)
from node.runtime.engine import Engine, EngineJob, JobRequest, StepResult
from node.runtime_messages import (
    Cached,
    Cancel,
    Ended,
    GpuFact,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Ready,
    Rejected,
    Start,
    StartFailed,
    Stats,
    Step,
    StepCostFact,
    StepItem,
)
from p2p.codec import Message, decode_messages, encode_messages
from p2p.wire import FrameDecoder, encode_frame


def run(open_engine: Callable[[], Engine]) -> NoReturn:
    """Serve an engine over this process's stdin and stdout; never returns."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    read_end, write_end = _take_pipes()
    host = Host(os.fdopen(write_end, "wb", buffering=0))
    threading.Thread(target=host.serve, args=(open_engine,), daemon=True, name="engine").start()
    try:
        _read_all(read_end, host)
    except Exception as error:
        sys.stderr.write(f"runtime: {type(error).__name__}: {error}\n")
        _exit(1)
    _exit(0)


def _exit(code: int) -> NoReturn:
    """Leave without waiting for the engine's thread, which may be deep inside a step."""
    sys.stderr.flush()
    os._exit(code)


def _take_pipes() -> tuple[int, int]:
    read_end, write_end = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout = sys.stderr
    return read_end, write_end


def _read_all(read_end: int, host: Host) -> None:
    decoder = FrameDecoder(PIPE_FRAME_BYTES_MAX)
    while data := os.read(read_end, PIPE_READ_BYTES):
        for frame in decoder.feed(data):
            for message in decode_messages(frame):
                host.handle(message)


class Host:
    """Connects one engine with the protocol.

    `handle` on the reading thread, `serve` on the engine's.
    """

    def __init__(self, out: BinaryIO) -> None:
        """Write frames to `out` (unbuffered)."""
        self._out = out
        self._out_lock = threading.Lock()
        self._engine: Engine | None = None
        self._prepared: dict[int, EngineJob] = {}
        self._started: set[int] = set()
        self._inbox: queue.SimpleQueue[EngineJob | Cancel | Ping] = queue.SimpleQueue()

    # --- reading thread -----------------------------------------------------------------------
    def handle(self, message: Message) -> None:
        """Act on one message of the agent."""
        if isinstance(message, Prepare):
            self._write(self._prepare(message))
        elif isinstance(message, Start):
            job = self._prepared.pop(message.number, None)
            if job is None:
                self._write(Ended(message.number, "failed", "the job was not prepared"))
            else:
                self._started.add(job.number)
                self._inbox.put(job)
        elif isinstance(message, Cancel):
            job = self._prepared.pop(message.number, None)
            if job is not None and self._engine is not None:
                self._engine.discard(job)
            else:
                self._inbox.put(message)
        elif isinstance(message, Ping):
            self._inbox.put(message)

    def _prepare(self, message: Prepare) -> Message:
        engine = self._engine
        if engine is None:
            return Rejected(message.number, "runtime", "the model is not loaded yet")
        if len(self._prepared) + len(self._started) >= RUNTIME_JOBS_MAX:
            return Rejected(message.number, "busy", f"{RUNTIME_JOBS_MAX} jobs are waiting already")
        if message.number in self._prepared or message.number in self._started:
            return Rejected(message.number, "bad_request", "the number is taken")
        request = JobRequest(
            message.number,
            message.request,
            message.output_tokens_max,
            message.seed,
            message.resume_tokens,
            message.cache_scope,
            message.task,
        )
        try:
            job = engine.prepare(request)
        except RuntimeRefusedError as error:
            reason = error.reason[:RUNTIME_TEXT_CHARACTERS_MAX]
            return Rejected(
                message.number, error.code, reason, error.input_tokens, error.context_tokens
            )
        self._prepared[job.number] = job
        return Prepared(job.number, job.input_tokens, job.output_tokens_max, job.sampling_hash)

    # --- engine's thread ----------------------------------------------------------------------
    def serve(self, open_engine: Callable[[], Engine]) -> NoReturn:
        """Load the engine and run its steps for ever; ends the process when it cannot go on."""
        try:
            engine = open_engine()
        except NodeError as error:
            self._write(StartFailed(str(error)[:RUNTIME_TEXT_CHARACTERS_MAX]))
            _exit(1)
        facts = engine.facts
        self._engine = engine
        self._write(
            Ready(
                facts.context_tokens,
                facts.slots,
                facts.model_description[:RUNTIME_TEXT_CHARACTERS_MAX],
                facts.build_info[:RUNTIME_TEXT_CHARACTERS_MAX],
                facts.threads,
                facts.vocabulary_size,
                facts.reproducible,
                tasks=facts.tasks,
                gpu_layers=facts.gpu_layers,
                gpus=tuple(
                    GpuFact(gpu.name[:RUNTIME_TEXT_CHARACTERS_MAX], gpu.memory_bytes)
                    for gpu in facts.gpus
                ),
                step_costs=tuple(
                    StepCostFact(cost.sequences, round(cost.seconds * 1e6)) for cost in facts.costs
                ),
                notes=tuple(note[:RUNTIME_TEXT_CHARACTERS_MAX] for note in facts.notes),
            )
        )
        try:
            while True:
                self._take_inbox(engine)
                if engine.busy:
                    self._report(engine.step())
        except Exception as error:
            # The engine's state is unknown after a bug: a fresh process is the only safe answer.
            sys.stderr.write(f"runtime: engine failed: {type(error).__name__}: {error}\n")
            _exit(1)

    def _take_inbox(self, engine: Engine) -> None:
        """Handle everything that waits; sleep while there is nothing to do at all."""
        while True:
            try:
                item = self._inbox.get(block=not engine.busy)
            except queue.Empty:
                return
            if isinstance(item, Cancel):
                engine.cancel(item.number)
            elif isinstance(item, Ping):
                self._write(Pong(item.number), self._stats(engine))
            else:
                engine.start(item)

    def _stats(self, engine: Engine) -> Stats:
        stats = engine.stats()
        return Stats(
            stats.running,
            stats.waiting,
            engine.facts.slots,
            stats.tokens_per_second,
            stats.steps,
            stats.prefill_tokens,
            stats.output_tokens,
            stats.cached_tokens,
        )

    def _report(self, result: StepResult) -> None:
        messages: list[Message] = []
        messages += [Cached(reuse.number, reuse.input_tokens) for reuse in result.reuses]
        if result.outputs:
            items = (
                StepItem(item.number, item.token_ids, item.text, item.logprobs)
                for item in result.outputs
            )
            messages.append(Step(tuple(items)))
        for end in result.ends:
            self._started.discard(end.number)
            messages.append(
                Ended(end.number, end.outcome, end.detail[:RUNTIME_TEXT_CHARACTERS_MAX])
            )
        if messages:
            self._write(*messages)

    # --- both ---------------------------------------------------------------------------------
    def _write(self, *messages: Message) -> None:
        """Write one frame; a broken pipe means that the agent has gone."""
        view = memoryview(encode_frame(encode_messages(messages), PIPE_FRAME_BYTES_MAX))
        with self._out_lock:
            try:
                while view:
                    view = view[self._out.write(view) :]
            except BrokenPipeError:
                _exit(0)
