"""Owns the reading of the key of an upstream server: from a file, or the environment."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from node.upstream.errors import UpstreamSetupError
from node.upstream.limits import KEY_BYTES_MAX

KEY_VARIABLE = "RESULTITY_NODE_UPSTREAM_KEY"


def read_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The server's key: from a file that only its owner can read, else from the environment.

    Raises: UpstreamSetupError.
    """
    if file is None:
        text = environment.get(KEY_VARIABLE, "").strip()
        return _checked(text, KEY_VARIABLE) if text else None
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise UpstreamSetupError(f"{file} is no file")
            if mode & 0o077:
                raise UpstreamSetupError(
                    f"{file} can be read by others than its owner: chmod 600 it"
                )
            data = stream.read(KEY_BYTES_MAX + 1)
    except OSError as error:
        raise UpstreamSetupError(f"{file} cannot be read: {error.strerror}") from error
    return _checked(data.decode("utf-8", "replace").strip(), str(file))


def _checked(text: str, where: str) -> str:
    if not text or len(text) > KEY_BYTES_MAX or not text.isascii() or not text.isprintable():
        raise UpstreamSetupError(f"{where} holds no key: one line of printable characters")
    return text
