"""Owns one child process of the agent's runtime.

Its start, its pipes as frames, and its certain end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import trio

from node.errors import RuntimeStartError
from node.limits import PIPE_BATCH_BYTES_MAX, PIPE_FRAME_BYTES_MAX, PIPE_READ_BYTES
from node.runtime_messages import Prepare, Ready, StartFailed
from p2p.codec import Message, decode_messages, encode_messages
from p2p.errors import MalformedError
from p2p.wire import FrameDecoder, encode_frame

_ENVIRONMENT_NAMES = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")
_ENVIRONMENT_PREFIXES = ("CUDA_", "GGML_", "OMP_", "HIP_", "ROCR_")
_TOKEN_BYTES_MAX = 9


class RuntimeChild:
    """An async context manager around one child; leaving it ends the child and collects it."""

    def __init__(
        self, command: Sequence[str], log_file: IO[bytes] | None, stop_timeout_s: float
    ) -> None:
        self._command = command
        self._log_file = log_file
        self._stop_timeout_s = stop_timeout_s
        self._process: trio.Process | None = None
        self._decoder = FrameDecoder(PIPE_FRAME_BYTES_MAX)

    async def __aenter__(self) -> RuntimeChild:
        """Start the process. Raises: RuntimeStartError if the system cannot."""
        try:
            self._process = await trio.lowlevel.open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log_file,
                env=child_environment(),
                process_group=0,
            )
        except OSError as error:
            raise RuntimeStartError(f"cannot start {self._command[0]}: {error.strerror}") from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._process
        if process is None:
            return
        with trio.CancelScope(shield=True):
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()
            process.terminate()
            with trio.move_on_after(self._stop_timeout_s):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.wait()

    @property
    def pid(self) -> int:
        """The process ID."""
        assert self._process is not None
        return self._process.pid

    async def wait_ready(self, timeout_s: float) -> Ready:
        """Wait until the model is loaded.

        Raises: RuntimeStartError with the child's reason, its exit status, or the time that passed.
        """
        try:
            with trio.fail_after(timeout_s):
                while (messages := await self.receive()) is not None:
                    for message in messages:
                        if isinstance(message, Ready):
                            return message
                        if isinstance(message, StartFailed):
                            raise RuntimeStartError(message.reason)
                assert self._process is not None
                status = await self._process.wait()
        except trio.TooSlowError as error:
            raise RuntimeStartError(f"the runtime was not ready after {timeout_s:g} s") from error
        except MalformedError as error:
            raise RuntimeStartError(f"the runtime does not speak our protocol: {error}") from error
        raise RuntimeStartError(
            f"the runtime ended with status {status} before it was ready (its log says why)"
        )

    async def receive(self) -> list[Message] | None:
        """Give the messages of all frames that have arrived, or None when the child has ended.

        Raises: MalformedError if the child breaks the protocol.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            try:
                data = await self._process.stdout.receive_some(PIPE_READ_BYTES)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            messages: list[Message] = []
            for frame in self._decoder.feed(bytes(data)):
                messages += decode_messages(frame)
            if messages:
                return messages

    async def write(self, data: bytes) -> None:
        """Write bytes; if the child has gone nothing happens, because `receive` tells it."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(data)
        except trio.BrokenResourceError:
            return


class Outbox:
    """Collects messages for a child and writes all that wait at once.

    Bounded by the jobs that a runtime takes: each one has at most a Prepare, a Start and a Cancel.
    """

    def __init__(self) -> None:
        self._waiting: list[Message] = []
        self._wake = trio.Event()

    def put(self, message: Message) -> None:
        """Add a message; it leaves in order."""
        self._waiting.append(message)
        self._wake.set()

    async def run(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write for ever."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            waiting, self._waiting = self._waiting, []
            if waiting:
                await write(_encode(waiting))


def _encode(messages: Sequence[Message]) -> bytes:
    """Give frames that hold all messages, none of them larger than the limit."""
    frames: list[bytes] = []
    group: list[Message] = []
    estimate = 0
    for message in messages:
        size = 64
        if isinstance(message, Prepare):
            size += len(message.request) + _TOKEN_BYTES_MAX * len(message.resume_tokens)
        if group and estimate + size > PIPE_BATCH_BYTES_MAX:
            frames.append(encode_frame(encode_messages(group), PIPE_FRAME_BYTES_MAX))
            group, estimate = [], 0
        group.append(message)
        estimate += size
    frames.append(encode_frame(encode_messages(group), PIPE_FRAME_BYTES_MAX))
    return b"".join(frames)


def child_environment() -> dict[str, str]:
    """Give the child what it needs of our environment, and no secrets that may stand in it."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT_NAMES or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    environment["GGML_NO_BACKTRACE"] = "1"
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
