"""Owns `up` as a whole: start, then either leave the processes alone or watch them until a signal.

Whoever starts or watches holds the lock `run/up.lock` and stands in the state as its supervisor, so
that `down` can end it first: otherwise it would start again what `down` stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import trio

from resultity.errors import DataFolderError, GatewayCallError, ResultityError
from resultity.folder_lock import locked_folder
from resultity.http_json import gateway_root, get_json
from resultity.local.folders import LocalFolders
from resultity.local.processes import log_tail, stop_processes
from resultity.local.start import LocalNetwork
from resultity.local.state import ProcessRecord, find_process, read_state, record_of, write_state

LOCK = "up.lock"
WATCH_INTERVAL_S = 0.5
STATUS_TIMEOUT_S = 3.0
RESTART_PAUSE_S_MIN, RESTART_PAUSE_S_MAX = 0.5, 30.0
STEADY_AFTER_S = 60.0
"""A process that ran this long is restarted at once; one that keeps dying waits longer."""


@contextlib.contextmanager
def supervised(network: LocalNetwork) -> Iterator[None]:
    """Be the one that works on this data folder. Raises: DataFolderError if somebody else does."""
    folders = network.folders
    folders.make()
    with locked_folder(folders.run, LOCK):
        # What another `up` did before we had the lock is what counts.
        network.state = read_state(folders)
        network.change(supervisor=record_of("up", "up", os.getpid()))
        try:
            yield
        finally:
            network.change(supervisor=None)


async def start_or_stop(network: LocalNetwork) -> None:
    """Start what is missing; if that fails or a signal comes, stop what was started.

    Raises: what `LocalNetwork.start` raises; KeyboardInterrupt after a signal.
    """
    completed = False
    try:
        async with _ended_by_signal():
            await network.start()
            completed = True
    finally:
        if not completed:
            with trio.CancelScope(shield=True):
                await _stop(network, network.started)
    if not completed:
        raise KeyboardInterrupt


async def watch(network: LocalNetwork, show: Callable[[dict[str, Any]], None]) -> None:
    """Keep the network running until a signal comes, then stop all of it.

    Args:
        show: called about once a second with the answer of the gateway's /status/network.
    """
    try:
        async with _ended_by_signal(), trio.open_nursery() as nursery:
            nursery.start_soon(_keep_alive, network)
            nursery.start_soon(_poll_status, network, show)
    finally:
        with trio.CancelScope(shield=True):
            await _stop(network, [record.name for record in network.state.processes])


@contextlib.asynccontextmanager
async def _ended_by_signal() -> AsyncIterator[None]:
    """Cancel the block at the first SIGINT, SIGTERM or SIGHUP."""

    async def wait(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for _ in signals:
            scope.cancel()

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with trio.open_signal_receiver(*wanted) as signals:
        async with trio.open_nursery() as watchers:
            with trio.CancelScope() as scope:
                watchers.start_soon(wait, signals, scope)
                yield
            watchers.cancel_scope.cancel()


async def _stop(network: LocalNetwork, names: list[str]) -> None:
    records = [record for record in network.state.processes if record.name in names]
    await trio.to_thread.run_sync(stop_processes, records, network.progress.say)
    left = tuple(record for record in network.state.processes if record.name not in names)
    network.change(processes=left)


async def _keep_alive(network: LocalNetwork) -> None:
    """Start again what dies, and say so."""
    pauses: dict[str, float] = {}
    not_before: dict[str, float] = {}
    while True:
        for record in network.state.processes:
            if find_process(record) is not None or time.monotonic() < not_before.get(
                record.name, 0
            ):
                continue
            await _restart(network, record)
            ran_s = time.time() - record.started_s
            pause_s = RESTART_PAUSE_S_MIN if ran_s > STEADY_AFTER_S else pauses.get(record.name, 0)
            not_before[record.name] = time.monotonic() + pause_s
            pauses[record.name] = min(max(2 * pause_s, RESTART_PAUSE_S_MIN), RESTART_PAUSE_S_MAX)
        await trio.sleep(WATCH_INTERVAL_S)


async def _restart(network: LocalNetwork, record: ProcessRecord) -> None:
    network.progress.say(
        f"{record.name} died: {log_tail(network.folders, record.name)}; starting it again"
    )
    try:
        await network.ensure(record.name, network.state.http_port)
    except ResultityError as error:
        network.progress.say(f"{error}; will be tried again")
    else:
        network.progress.say(f"{record.name} is back")


async def _poll_status(network: LocalNetwork, show: Callable[[dict[str, Any]], None]) -> None:
    url = f"{gateway_root(network.base_url)}/status/network"
    while True:
        try:
            show(await trio.to_thread.run_sync(lambda: get_json(url, timeout_s=STATUS_TIMEOUT_S)))
        except GatewayCallError as error:
            show({"error": str(error)})
        await trio.sleep(1.0)


def stop_network(folders: LocalFolders, say: Callable[[str], None], timeout_s: float) -> list[str]:
    """End everything that runs in a data folder: what `down` does.

    Returns: the names of what was stopped.
    Raises: DataFolderError if an `up` is at work and does not end.
    """
    stopped = []
    supervisor = read_state(folders).working_supervisor()
    if supervisor is not None and supervisor.pid != os.getpid():
        process = find_process(supervisor)
        if process is not None:
            stopped += [record.name for record in read_state(folders).alive()]
            say(f"stopping `resultity up` (pid {process.pid}) and what it started")
            process.terminate()
            _wait_gone(supervisor, timeout_s)
    state = read_state(folders)
    stopped += stop_processes(state.processes, say)
    if state.processes:
        write_state(folders, dataclasses.replace(state, processes=(), supervisor=None))
    return stopped


def _wait_gone(supervisor: ProcessRecord, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while find_process(supervisor) is not None:
        if time.monotonic() > deadline:
            raise DataFolderError(
                f"`resultity up` (pid {supervisor.pid}) did not end within {timeout_s:g} s: "
                f"kill -9 {supervisor.pid}, then run `resultity down` again"
            )
        time.sleep(0.1)
