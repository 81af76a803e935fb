"""Owns how tests put model files into a store, from files and servers, and damage them there."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from node.store.adding import Adder, Wishes
from node.store.http_client import open_client
from node.store.hub import Hub
from node.store.manifest import StoredModel
from node.store.sources import FileSource, parse_source
from node.store.store import ModelStore


def add_file(store: ModelStore, path: Path, **wishes: Any) -> StoredModel:
    adder = Adder(store, lambda name: lambda done, total: None, print, Hub(""), open_client)
    return adder.add(FileSource(path), Wishes(**wishes))


def flip(path: Path) -> None:
    """Change the last byte, and put the time of modification back."""
    found = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([byte ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


class StoreWorld:
    """A store, and what was said and waited for while something was added."""

    def __init__(self, folder: Path) -> None:
        self.store = ModelStore(folder)
        self.said: list[str] = []
        self.pauses: list[float] = []
        self.progress: list[tuple[str, int, int]] = []
        self.hub = Hub("http://127.0.0.1:1")
        self.stall_timeout_s = 10.0

    def add(self, text: str, wishes: Wishes | None = None) -> str:
        def stage(name: str) -> object:
            return lambda done, total: self.progress.append((name, done, total))

        client = partial(open_client, stall_timeout_s=self.stall_timeout_s)
        adder = Adder(self.store, stage, self.said.append, self.hub, client, self.pauses.append)  # type: ignore[arg-type]
        wishes = wishes or Wishes()
        return adder.add(parse_source(text, allow_http=wishes.allow_http), wishes).name

    def part_sizes(self) -> list[int]:
        return [path.stat().st_size for path in self.store.folders.partial.glob("*.part")]
