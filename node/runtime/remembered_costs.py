"""Owns the file in which measured step costs are remembered, so that a restart need not measure.

One JSON object: key (what was measured, with what, on what) -> {sequences: microseconds, threads}.
Whatever is not as expected is as good as nothing: the runtime measures again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_BYTES_MAX = 256 * 1024
ENTRIES_MAX = 256
COST_US_MAX = 600_000_000


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """What a step costs with so many threads: sequences -> seconds."""

    threads: int
    costs_s: dict[int, float]


def cost_key(model_key: str, build_info: str, mode: str, threads: str, gpu_layers: int) -> str:
    """Name what was measured: everything that changes the figures."""
    parts = json.dumps([model_key, build_info, mode, threads, gpu_layers])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def recall(path: Path, key: str) -> MeasuredCosts | None:
    """Give what was measured under a key, or None."""
    try:
        entry = _read(path)[key]
        threads, pairs = entry["threads"], entry["costs_us"]
        costs_s = {int(count): int(cost) / 1e6 for count, cost in pairs.items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
    valid = all(0 < count <= 1024 and 0 < s <= COST_US_MAX / 1e6 for count, s in costs_s.items())
    if not costs_s or not valid or type(threads) is not int or not 0 < threads <= 4096:
        return None
    return MeasuredCosts(threads, costs_s)


def remember(path: Path, key: str, measured: MeasuredCosts) -> None:
    """Keep what was measured; a file that cannot be written is no harm."""
    entries = _read(path)
    entries.pop(key, None)
    costs_us = {str(count): max(1, round(s * 1e6)) for count, s in measured.costs_s.items()}
    entries[key] = {"threads": measured.threads, "costs_us": costs_us}
    kept = dict(list(entries.items())[-ENTRIES_MAX:])
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        partial.write_text(json.dumps(kept))
        partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        found = json.loads(data) if len(data) <= FILE_BYTES_MAX else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return dict(found) if isinstance(found, Mapping) else {}
