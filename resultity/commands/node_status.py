"""Owns `node status` and `node logs`: what an operator sees of the nodes on this machine."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path

import click
import psutil
from rich.console import Console, Group
from rich.live import Live

from p2p.clock import system_clock_ms
from resultity.commands.options import FOLDER
from resultity.errors import NotRunningError
from resultity.node_status import node_folders, running_status, status_table
from resultity.role_process import reported_errors

WATCH_INTERVAL_S = 1.0
FOLDER_HELP = "A node's folder; default: every node in the default data folder."


@click.command()
@click.option("--data-dir", type=FOLDER, help=FOLDER_HELP)
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One line for each node.")
def status(data_dir: Path | None, watch: bool, as_json: bool) -> None:
    """Show what the nodes on this machine do, earn, and wait for.

    Exit code 1 if one of them does not run.
    """
    with reported_errors():
        folders = node_folders(data_dir)
        if watch and not as_json:
            _watch(folders)
            return
        statuses = [running_status(folder) for folder in folders]
        if as_json:
            for folder, found in zip(folders, statuses, strict=True):
                content = json.loads(found.to_json()) if found else {}
                click.echo(
                    json.dumps({"folder": str(folder), "running": found is not None, **content})
                )
        else:
            Console(highlight=False).print(_tables(folders))
        if None in statuses:
            raise click.exceptions.Exit(1)


def _watch(folders: list[Path]) -> None:
    try:
        with Live(_tables(folders), console=Console(highlight=False), screen=False) as live:
            while True:
                time.sleep(WATCH_INTERVAL_S)
                live.update(_tables(folders))
    except KeyboardInterrupt:
        pass


def _tables(folders: list[Path]) -> Group:
    now_ms = system_clock_ms()
    return Group(*(status_table(folder.name, running_status(folder), now_ms) for folder in folders))


@click.command()
@click.option("--data-dir", type=FOLDER, help=FOLDER_HELP)
def drain(data_dir: Path | None) -> None:
    """Have the nodes on this machine finish their jobs, take no new ones, and end.

    Returns when they are gone.
    """
    with reported_errors():
        folders = node_folders(data_dir)
        running = {folder: running_status(folder) for folder in folders}
        if not any(running.values()):
            raise NotRunningError("no node runs here")
        processes = [psutil.Process(status.pid) for status in running.values() if status]
        for process in processes:
            process.terminate()
        said: dict[Path, int] = {}
        while left := [process for process in processes if process.is_running()]:
            for folder in folders:
                status = running_status(folder)
                if status is not None and status.draining:
                    jobs = status.jobs_running + status.jobs_waiting
                    if said.get(folder) != jobs:
                        click.echo(f"{folder.name}: {jobs} jobs are left", err=True)
                    said[folder] = jobs
            psutil.wait_procs(left, timeout=WATCH_INTERVAL_S)
        click.echo(f"{len(processes)} nodes have ended")


@click.command()
@click.option("--data-dir", type=FOLDER, help=FOLDER_HELP)
@click.option("--lines", type=click.IntRange(1, 100_000), default=50, show_default=True)
@click.option("--runtime", is_flag=True, help="Of the model's process instead.")
@click.option("--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
def logs(data_dir: Path | None, lines: int, runtime: bool, follow: bool) -> None:
    """Show the end of the nodes' logs."""
    with reported_errors():
        paths = [_log_of(folder, runtime) for folder in node_folders(data_dir)]
        for path in paths:
            if len(paths) > 1:
                click.echo(f"==> {path} <==")
            if path.exists():
                with path.open(errors="replace") as file:
                    for line in deque(file, lines):
                        click.echo(line, nl=False)
        if follow:
            _follow(paths)


def _log_of(folder: Path, runtime: bool) -> Path:
    if runtime:
        return folder / "runtime.log"
    own = folder / "logs" / "node.log"
    # `resultity up` keeps all logs in one place.
    return own if own.exists() else folder.parent / "logs" / f"{folder.name}.log"


def _follow(paths: list[Path]) -> None:
    ends = {path: path.stat().st_size if path.exists() else 0 for path in paths}
    try:
        while True:
            time.sleep(WATCH_INTERVAL_S / 4)
            for path, end in ends.items():
                ends[path] = _show_new(path, end)
    except KeyboardInterrupt:
        pass


def _show_new(path: Path, end: int) -> int:
    size = path.stat().st_size if path.exists() else 0
    if size == end:
        return end
    # A log that is shorter than it was has been rotated: it begins again.
    with path.open("rb") as file:
        file.seek(end if size > end else 0)
        click.echo(file.read().decode(errors="replace"), nl=False)
        return file.tell()
