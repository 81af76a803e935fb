"""Owns the dispatcher: it runs all jobs, and is the clockwork that watches them.

One ticker looks at all running jobs four times a second: deadlines of attempts and jobs, and
every two seconds a signed delivery count for each job that streams. A job itself therefore needs
no timers and no tasks beside its own."""

from __future__ import annotations

import logging

import trio

from gateway.bridge import Pipe
from gateway.jobs import ChatJob, JobEvent
from gateway.limits import TICK_S
from gateway.peer.job_run import JobRun
from gateway.peer.services import Services

log = logging.getLogger(__name__)


class Dispatcher:
    """Runs jobs."""

    def __init__(self, services: Services) -> None:
        """Run jobs with these services."""
        self._services = services
        self._running: set[JobRun] = set()
        self.jobs_done = 0

    @property
    def jobs_running(self) -> int:
        """How many jobs run or are being settled."""
        return len(self._running)

    async def run_job(self, job: ChatJob, pipe: Pipe[JobEvent]) -> None:
        """Run one job from admission to settlement; everything it has to say goes into the pipe."""
        run = JobRun(self._services, job, pipe)
        self._running.add(run)
        try:
            await run.run()
        finally:
            self._running.discard(run)
            run.close()
            self.jobs_done += 1

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the running jobs until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(TICK_S)
            now_s = self._services.now_s()
            for run in list(self._running):
                run.tick(now_s)
