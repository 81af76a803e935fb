"""Owns the supply of random bytes for IDs, seeds and salts.

A system call for each of a request's five random numbers costs more than the numbers, most of all
because it gives the interpreter lock away each time. One call fetches enough for hundreds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

POOL_BYTES = 8192


class RandomPool:
    """Gives every byte of the system's randomness out once. Safe to use from several threads."""

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        """Draw from `source`, POOL_BYTES at a time."""
        self._source = source
        self._pool = b""
        self._position = 0
        self._lock = threading.Lock()

    def __call__(self, size_bytes: int) -> bytes:
        """Give fresh random bytes."""
        with self._lock:
            end = self._position + size_bytes
            if end > len(self._pool):
                self._pool = self._source(max(POOL_BYTES, size_bytes))
                self._position, end = 0, size_bytes
            data = self._pool[self._position : end]
            self._position = end
        return data
