"""Owns how long work on files is shown: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import click

from node.model_file import Progress

LINE_INTERVAL_S = 5.0
BAR_UPDATES_PER_S = 8


class TransferProgress:
    """Shows stages, one after the other; everything goes to stderr. Use it as a context manager."""

    def __init__(self, *, terminal: bool | None = None, quiet: bool = False) -> None:
        """Begin; `terminal` None finds out by itself."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._quiet = quiet
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=BAR_UPDATES_PER_S,
            disable=quiet or not self._terminal,
        )

    def __enter__(self) -> TransferProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def stage(self, name: str) -> Progress:
        """Begin a stage; gives who to tell how far it is (of 0: nobody knows how much there is)."""
        return self._bar_stage(name) if self._terminal else self._line_stage(name)

    def say(self, text: str) -> None:
        """Show one line, above the bar if there is one."""
        if self._quiet:
            return
        if self._terminal:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)

    def _bar_stage(self, name: str) -> Progress:
        task = self._bar.add_task(name, total=None)

        def progress(done: int, total: int) -> None:
            self._bar.update(task, completed=done, total=total or None)

        return progress

    def _line_stage(self, name: str) -> Progress:
        next_s = time.monotonic() + LINE_INTERVAL_S

        def progress(done: int, total: int) -> None:
            nonlocal next_s
            if time.monotonic() < next_s and done != total:
                return
            next_s = time.monotonic() + LINE_INTERVAL_S
            share = f" of {total:,} bytes ({100 * done // total} %)" if total else " bytes"
            self.say(f"{name}: {done:,}{share}")

        return progress
