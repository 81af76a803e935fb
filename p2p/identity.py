"""Owns key files: an Ed25519 seed in hex, readable by its owner only (0600)."""

from __future__ import annotations

import os
from pathlib import Path

from p2p.errors import MalformedError, UntrustedError
from p2p.files import write_atomically
from p2p.signing import SEED_BYTES, KeyPair

KEY_FILE_MODE = 0o600


def load_key(path: Path) -> KeyPair:
    """Read a key file.

    Raises: UntrustedError if others may read it, MalformedError if it does not hold a key,
        FileNotFoundError.
    """
    status = path.stat()
    if os.name == "posix" and status.st_mode & 0o077:
        raise UntrustedError(f"{path} can be read by others: run chmod 600 {path}")
    try:
        seed = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (ValueError, UnicodeDecodeError) as error:
        raise MalformedError(f"{path} is damaged: it should hold one key in hex") from error
    if len(seed) != SEED_BYTES:
        raise MalformedError(f"{path} is damaged: it should hold {SEED_BYTES} bytes in hex")
    return KeyPair(seed)


def store_key(path: Path, key_pair: KeyPair) -> None:
    """Write a key file with mode 0600, durably and at once."""
    write_atomically(path, key_pair.seed.hex().encode() + b"\n", KEY_FILE_MODE)


def load_or_create_key(path: Path) -> KeyPair:
    """Read a key file, or make one if there is none. Raises: as `load_key`."""
    if path.exists():
        return load_key(path)
    key_pair = KeyPair.generate()
    store_key(path, key_pair)
    return key_pair
