"""Owns the watch over a running node: once a second its status, as a file and for metrics."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import trio

from node.errors import MetricsPortError
from node.limits import EARNINGS_INTERVAL_S, STATUS_INTERVAL_S
from node.observation.metrics import serve_metrics
from node.observation.status import NodeStatus
from p2p.errors import P2PError
from p2p.files import write_atomically
from p2p.ledger_messages import EarningsStatement
from p2p.network import Stream, StreamHandler

log = logging.getLogger(__name__)


class Observer:
    """Keeps the latest status, and the file that shows it."""

    def __init__(
        self,
        path: Path,
        look: Callable[[int, EarningsStatement | None], NodeStatus],
        ask_earnings: Callable[[], Awaitable[EarningsStatement]],
    ) -> None:
        """Look once a second.

        Args:
            path: of the status file; it is removed at the end.
            look: gives the status, from the number of open sessions and the latest earnings.
            ask_earnings: asks the ledger. Raises: P2PError.
        """
        self.latest: NodeStatus | None = None
        self._path = path
        self._look = look
        self._ask_earnings = ask_earnings
        self._sessions = 0
        self._earnings: EarningsStatement | None = None

    def counting(self, handler: StreamHandler) -> StreamHandler:
        """Give a handler of sessions that counts those that are open."""

        async def serve(stream: Stream) -> None:
            self._sessions += 1
            try:
                await handler(stream)
            finally:
                self._sessions -= 1

        return serve

    async def run(self) -> None:
        """Look, and write what was seen, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_earnings)
                while True:
                    self.latest = self._look(self._sessions, self._earnings)
                    self._write(self.latest)
                    await trio.sleep(STATUS_INTERVAL_S)
        finally:
            self._path.unlink(missing_ok=True)

    async def serve_metrics(
        self, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve the status to Prometheus on the loopback until cancelled; starts with the port.

        Raises: MetricsPortError.
        """
        with ExitStack() as stack:
            try:
                taken = stack.enter_context(serve_metrics(lambda: self.latest, port))
            except OSError as error:
                raise MetricsPortError(
                    f"metrics cannot be served on port {port}: {error.strerror}"
                ) from error
            log.info("metrics on http://127.0.0.1:%d/metrics", taken)
            task_status.started(taken)
            await trio.sleep_forever()

    def _write(self, status: NodeStatus) -> None:
        try:
            # Not synchronised: after a crash it is out of date whatever it says.
            write_atomically(self._path, status.to_json(), durable=False)
        except OSError as error:
            log.warning("the status cannot be written: %s", error)

    async def _follow_earnings(self) -> None:
        while True:
            try:
                self._earnings = await self._ask_earnings()
            except P2PError as error:
                log.debug("the ledger did not say what was earned: %s", error)
            await trio.sleep(EARNINGS_INTERVAL_S)
