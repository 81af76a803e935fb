"""Owns what a person sees while a local network starts: lines, or a live table on a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

REFRESH_PER_SECOND = 8


class Progress(Protocol):
    """Told what is going on; `name` is a process or a step."""

    def begin(self, name: str, text: str) -> None:
        """Something starts."""

    def done(self, name: str, text: str) -> None:
        """It is ready."""

    def say(self, text: str) -> None:
        """A remark."""


class LineProgress:
    """Writes one line for each event: for logs, pipes and detached starts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[str, float] = {}

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def begin(self, name: str, text: str) -> None:
        """Say that something starts."""
        self._began[name] = time.monotonic()
        self._line(f"{name}: {text}")

    def done(self, name: str, text: str) -> None:
        """Say that it is ready and how long it took."""
        took_s = time.monotonic() - self._began.get(name, time.monotonic())
        self._line(f"{name}: {text} ({took_s:.1f} s)")

    def say(self, text: str) -> None:
        """Say something."""
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveProgress:
    """Shows a table that changes while things start, with the seconds that each takes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, tuple[str, float, float | None]] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=console, get_renderable=self._table, refresh_per_second=REFRESH_PER_SECOND
        )

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def begin(self, name: str, text: str) -> None:
        """Add a row."""
        self._rows[name] = (text, time.monotonic(), None)

    def done(self, name: str, text: str) -> None:
        """Mark a row as ready."""
        began = self._rows.get(name, ("", time.monotonic(), None))[1]
        self._rows[name] = (text, began, time.monotonic())

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, markup=False, highlight=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for name, (text, began, ended) in self._rows.items():
            mark: Text | Spinner = Text("✓", style="green") if ended else self._spinner
            took_s = (ended or time.monotonic()) - began
            table.add_row(mark, Text(name, style="bold"), text, Text(f"{took_s:.1f} s", "dim"))
        return table


def progress_on(console: Console) -> LineProgress | LiveProgress:
    """Choose by where the output goes."""
    return LiveProgress(console) if console.is_terminal else LineProgress(console)
