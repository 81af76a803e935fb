"""Owns what a steward remembers between its runs: how far it has told who joined and left.

Losing it costs nothing but lines of a log. What was decided is in signed documents at the
bootstraps.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2p.files import write_atomically
from p2p.subclouds.identity import SubcloudId
from resultity.errors import DataFolderError


class StewardMemory:
    """One small JSON file."""

    def __init__(self, path: Path) -> None:
        """Begin with what the file holds. Raises: DataFolderError."""
        self._path = path
        self._last: dict[str, int] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self._last = {str(name): int(number) for name, number in content["joins"].items()}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataFolderError(f"{path} is damaged: remove it") from error

    def last_join(self, identity: SubcloudId) -> int | None:
        """The last line of a subcloud's log of joins that was told; None before the first run."""
        return self._last.get(identity)

    def set_last_join(self, identity: SubcloudId, number: int) -> None:
        """Remember the last line that was told."""
        self._last[identity] = number
        write_atomically(self._path, json.dumps({"joins": self._last}).encode(), 0o600)
