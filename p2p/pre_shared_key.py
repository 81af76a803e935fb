"""Owns the file of a pre-shared key: 32 bytes in hex that every peer of a private network knows.

Whoever does not have it cannot say a word to the network's peers, not even hello. It keeps others
out and hides what kind of traffic this is; it does not replace certificates, and it is no libp2p
standard (py-libp2p's cipher differs from the specification's): all peers have to be ours.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from p2p.errors import MalformedError, UntrustedError
from p2p.files import write_atomically
from p2p.identity import KEY_FILE_MODE
from p2p.limits import PRE_SHARED_KEY_BYTES


def create_pre_shared_key(path: Path) -> None:
    """Write a new key, readable by its owner only. Raises: FileExistsError."""
    if path.exists():
        raise FileExistsError(path)
    content = secrets.token_hex(PRE_SHARED_KEY_BYTES).encode() + b"\n"
    write_atomically(path, content, KEY_FILE_MODE)


def load_pre_shared_key(path: Path | None) -> bytes | None:
    """Read a key; None for no file.

    Raises: UntrustedError (others may read it), MalformedError (no such file, or no key in it).
    """
    if path is None:
        return None
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise MalformedError(f"the pre-shared key {path}: {error.strerror}") from error
    except ValueError as error:
        raise MalformedError(f"{path} should hold a pre-shared key in hex") from error
    if os.name == "posix" and mode & 0o077:
        raise UntrustedError(f"{path} can be read by others: run chmod 600 {path}")
    if len(key) != PRE_SHARED_KEY_BYTES or len(set(key)) == 1:
        raise MalformedError(
            f"{path} should hold {PRE_SHARED_KEY_BYTES} random bytes in hex: make one with "
            "`resultity network new-pre-shared-key`"
        )
    return key
