"""Owns what the benchmark prints: figures beside targets, as a table or as JSON."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from measuring import KINDS, Measurements, added, median, median_cpu_ms
from rich.console import Console
from rich.table import Table

GROWTH_PERCENT_MAX = 5.0
"""Growth over the second half of the long run that still counts as flat (allocator and caches)."""
PROCESSES = ("gateway", "node", "runtime", "bootstrap")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report. `target` is the largest value (or smallest, if `at_least`)."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False
    beside: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        if math.isnan(self.value):
            return False
        return self.value >= self.target if self.at_least else self.value <= self.target

    @property
    def verdict(self) -> str:
        """The target and whether it is reached, in words."""
        if self.target is None:
            return ""
        limit = f"{'at least' if self.at_least else 'at most'} {self.target:g}"
        return f"{limit}: {'reached' if self.reached else 'NOT reached'}"


def figures(measurements: Measurements) -> list[Figure]:
    """Compute every figure from what was measured."""
    return [
        *_cpu_figures(measurements),
        *_speed_figures(measurements),
        *_memory_figures(measurements),
        Figure("answers that were not right", measurements.errors, "", target=0),
    ]


def _cpu_figures(measurements: Measurements) -> list[Figure]:
    lines = []
    for process in PROCESSES:
        by_kind = {
            kind.name: median_cpu_ms(measurements.gateway[kind.name], process) for kind in KINDS
        }
        bare = median_cpu_ms(measurements.baseline["c16"], "baseline")
        others = ", ".join(f"{name} {by_kind[name]:.2f}" for name in ("c1", "c64", "s16"))
        lines.append(
            Figure(
                f"{process}: CPU per request, 16 connections",
                by_kind["c16"],
                "ms",
                target=1.5 if process == "gateway" else None,
                beside=f"{others}" + (f"; baseline {bare:.2f}" if process == "gateway" else ""),
            )
        )
    return lines


def _speed_figures(measurements: Measurements) -> list[Figure]:
    ours, bare = measurements.gateway, measurements.baseline
    lines = [
        Figure(
            "added p50, 1 connection",
            added(measurements, "c1", "p50_ms"),
            "ms",
            beside=f"{median(ours['c1'], 'p50_ms'):.2f} - {median(bare['c1'], 'p50_ms'):.2f}",
        )
    ]
    for kind, target in (("c1", None), ("c16", 300.0), ("c64", None)):
        lines.append(
            Figure(
                f"requests/s, {kind[1:]} connections",
                median(ours[kind], "requests_per_s"),
                "/s",
                target=target,
                at_least=True,
                beside=f"baseline {median(bare[kind], 'requests_per_s'):.0f}; "
                f"p50 {median(ours[kind], 'p50_ms'):.1f} ms, "
                f"p99 {median(ours[kind], 'p99_ms'):.1f} ms",
            )
        )
    for kind, how in (("s16 paced", "64 starts/s"), ("s16", "as fast as they go")):
        lines.append(
            Figure(
                f"added time to first token, 16 streams, {how}",
                added(measurements, kind, "first_token_p50_ms"),
                "ms",
                target=5.0,
                beside=f"{median(ours[kind], 'first_token_p50_ms'):.2f} - "
                f"{median(bare[kind], 'first_token_p50_ms'):.2f}; "
                f"{median(ours[kind], 'requests_per_s'):.0f} streams/s",
            )
        )
    return lines


def _memory_figures(measurements: Measurements) -> list[Figure]:
    start, middle, end = measurements.memory_mb
    lines = []
    for process, target in (("gateway", 200.0), ("bootstrap", 150.0), ("node", 150.0)):
        first, half, last = start[process], middle[process], end[process]
        name = "node agent" if process == "node" else process
        lines.append(
            Figure(
                f"{name}: memory after {measurements.memory_requests} requests",
                last,
                "MB",
                target=target,
                beside=f"start {first:.0f}, half-way {half:.0f}",
            )
        )
        lines.append(
            Figure(
                f"{name}: growth in the second half",
                (last - half) / half * 100,
                "%",
                target=GROWTH_PERCENT_MAX,
            )
        )
    return lines


def print_table(lines: list[Figure], measurements: Measurements, title: str) -> None:
    """Print the report for people."""
    table = Table(title=title, title_justify="left")
    for heading, justify in (("figure", "left"), ("median", "right"), ("target", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("beside it")
    for line in lines:
        style = "red" if line.reached is False else None
        table.add_row(
            line.name, f"{line.value:.2f} {line.unit}", line.verdict, line.beside, style=style
        )
    console = Console(width=None if os.isatty(1) else 150)
    console.print(table)
    for message in measurements.first_errors:
        console.print(f"wrong answer: {message}", style="red", markup=False)
    if measurements.errors:
        console.print("There were wrong answers: the figures above are not valid.", style="red")


def as_json(
    lines: list[Figure], measurements: Measurements, machine: dict[str, Any]
) -> dict[str, Any]:
    """Give the report for machines."""
    return {
        "machine": machine,
        "valid": not measurements.errors,
        "figures": [
            {
                "name": line.name,
                "value": None if math.isnan(line.value) else round(line.value, 3),
                "unit": line.unit,
                "target": line.target,
                "reached": line.reached,
                "beside": line.beside,
            }
            for line in lines
        ],
        "wrong_answers": measurements.first_errors,
    }
