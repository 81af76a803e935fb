"""Owns the form of strings that carry something secret: a prefix, base64url, a checksum. Pure.

A string that was not copied whole is told before anybody is asked about it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from p2p.errors import MalformedError

_CHECKSUM_BYTES = 4


def as_text(prefix: str, body: bytes) -> str:
    """Give the string of some bytes: one line."""
    raw = body + _checksum(prefix, body)
    return prefix + base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def from_text(prefix: str, text: str, characters_max: int, what: str) -> bytes:
    """Read such a string; line breaks and spaces that came in by copying do no harm.

    Args: what: how a message calls it, like `invite`.
    Raises: MalformedError (another string, or damaged).
    """
    if len(text) > 2 * characters_max:
        raise MalformedError(f"not an {what}: it has at most {characters_max} characters")
    text = "".join(text.split())
    if not text.startswith(prefix) or len(text) > characters_max:
        raise MalformedError(f"not an {what}: it begins with {prefix} and is one line")
    encoded = text.removeprefix(prefix)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise MalformedError(_damaged(prefix, what)) from error
    body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if checksum != _checksum(prefix, body) or as_text(prefix, body) != text:
        raise MalformedError(_damaged(prefix, what))
    return body


def _damaged(prefix: str, what: str) -> str:
    return f"this {what} is damaged or not whole: copy all of it, from {prefix} on"


def _checksum(prefix: str, body: bytes) -> bytes:
    return hashlib.sha256(f"resultity/{prefix}\0".encode() + body).digest()[:_CHECKSUM_BYTES]
