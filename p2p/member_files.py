"""Owns the files that every certified peer keeps: its certificate chain."""

from __future__ import annotations

from pathlib import Path

from p2p.certificates import Chain
from p2p.codec import decode_messages, encode_messages
from p2p.errors import MalformedError
from p2p.files import write_atomically
from p2p.signing import Signed


def load_chain(path: Path) -> Chain:
    """Read a certificate chain, leaf first (it is not verified here).

    Raises: MalformedError, FileNotFoundError.
    """
    items = decode_messages(path.read_bytes())
    chain = tuple(item for item in items if isinstance(item, Signed))
    if len(chain) != len(items):
        raise MalformedError(f"{path} does not hold a certificate chain")
    return chain


def store_chain(path: Path, chain: Chain) -> None:
    """Write a certificate chain."""
    write_atomically(path, encode_messages(chain))
