"""Owns the secrets of webhooks: files that only their owner can read, strong or refused."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from p2p.files import write_atomically
from p2p.identity import KEY_FILE_MODE
from resultity.payments.errors import SecretError
from resultity.payments.limits import (
    SECRET_BYTES_MIN,
    SECRET_DISTINCT_MIN,
    SECRET_FILE_BYTES_MAX,
    SECRETS_MAX,
)


def check_secret(secret: bytes, where: str) -> None:
    """Refuse a secret that could be guessed. Raises: SecretError."""
    if len(secret) < SECRET_BYTES_MIN or len(set(secret)) < SECRET_DISTINCT_MIN:
        raise SecretError(
            f"{where}: a webhook's secret has at least {SECRET_BYTES_MIN} characters of random "
            "text; `resultity payments new-secret FILE` makes one"
        )


def load_secrets(path: Path) -> tuple[bytes, ...]:
    """Read a secret file: one secret in each line, at most two (the new one, the old one).

    Raises: SecretError (weak, damaged, readable by others), FileNotFoundError.
    """
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise SecretError(f"{path} can be read by others: run chmod 600 {path}")
    with path.open("rb") as file:
        lines = file.read(SECRET_FILE_BYTES_MAX + 1)
    found = tuple(line.strip() for line in lines.splitlines() if line.strip())
    if len(lines) > SECRET_FILE_BYTES_MAX or not 1 <= len(found) <= SECRETS_MAX:
        raise SecretError(f"{path} has one secret in a line, and at most {SECRETS_MAX} lines")
    for secret in found:
        check_secret(secret, str(path))
    return found


def store_new_secret(path: Path) -> None:
    """Make a secret of 256 bits, in a new file (0600). Raises: SecretError if there is one."""
    if path.exists():
        raise SecretError(f"{path} exists already: choose another name")
    write_atomically(path, secrets.token_hex(32).encode() + b"\n", KEY_FILE_MODE)
