"""Owns the form of API keys and what is derived from them. Pure.

A key is `rk_<key ID>_<secret>`: the ID (16 characters, base32) is public, the secret has 256 bits.
Nobody stores the secret. The ledger keeps the **hold key** that is derived from it, which proves
possession (a MAC over each hold); a gateway keeps the key's SHA-256 while it serves it. Secrets are
compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from p2p.errors import MalformedError
from p2p.types import NetworkId, PeerId

_FORM = re.compile(r"rk_([a-z2-7]{16})_([A-Za-z0-9_-]{43})")
_KEY_ID = re.compile(r"[a-z2-7]{16}")
KEY_ID_RANDOM_BYTES = 10
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A whole API key. `repr` shows the ID only."""

    key_id: str
    secret: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The key as its owner types it."""
        secret = base64.urlsafe_b64encode(self.secret).rstrip(b"=").decode("ascii")
        return f"rk_{self.key_id}_{secret}"

    def hold_key(self) -> bytes:
        """The 32 bytes that the ledger keeps; knowing them does not give the API key."""
        return hmac.digest(self.secret, b"resultity/hold-key/1", hashlib.sha256)


def new_api_key(random_bytes: bytes) -> ApiKey:
    """Make a key from 42 random bytes."""
    assert len(random_bytes) == KEY_ID_RANDOM_BYTES + SECRET_BYTES
    key_id = base64.b32encode(random_bytes[:KEY_ID_RANDOM_BYTES]).decode("ascii").lower()
    return ApiKey(key_id, random_bytes[KEY_ID_RANDOM_BYTES:])


def parse_api_key(text: str) -> ApiKey:
    """Read a key that somebody presented.

    Raises: MalformedError if it does not have the form of a key (the message never repeats it).
    """
    match = _FORM.fullmatch(text)
    key = match and ApiKey(match[1], base64.urlsafe_b64decode(match[2] + "="))
    # 43 characters have two bits more than a secret: only one spelling of a key counts.
    if not key or key.text != text:
        raise MalformedError("this is not an API key of the form rk_<id>_<secret>")
    return key


def is_key_id(text: str) -> bool:
    """Tell whether a text has the form of a key's public ID."""
    return _KEY_ID.fullmatch(text) is not None


def hold_mac(
    hold_key: bytes,
    network: NetworkId,
    gateway_id: PeerId,
    hold_id: bytes,
    maximum: int,
    expires_ms: int,
) -> bytes:
    """The MAC that binds a hold to the key, the gateway, the maximum and the expiry (32 bytes)."""
    body = b"\0".join(
        [b"hold", network.encode(), gateway_id.encode(), hold_id.hex().encode()]
        + [str(maximum).encode(), str(expires_ms).encode()]
    )
    return hmac.digest(hold_key, body, hashlib.sha256)


def lease_mac(
    hold_key: bytes,
    network: NetworkId,
    gateway_id: PeerId,
    lease_id: bytes,
    amount: int,
    expires_ms: int,
) -> bytes:
    """The MAC that binds a lease to the key, the gateway, the amount and the expiry (32 bytes)."""
    body = b"\0".join(
        [b"lease", network.encode(), gateway_id.encode(), lease_id.hex().encode()]
        + [str(amount).encode(), str(expires_ms).encode()]
    )
    return hmac.digest(hold_key, body, hashlib.sha256)


def lookup_mac(
    hold_key: bytes, network: NetworkId, gateway_id: PeerId, nonce: bytes, issued_ms: int
) -> bytes:
    """The MAC by which a gateway shows that a consumer gave it the key (32 bytes)."""
    body = b"\0".join(
        [b"lookup", network.encode(), gateway_id.encode(), nonce.hex().encode()]
        + [str(issued_ms).encode()]
    )
    return hmac.digest(hold_key, body, hashlib.sha256)


def same(one: bytes, other: bytes) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(one, other)
