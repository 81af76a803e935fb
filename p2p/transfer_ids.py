"""Owns the IDs of transfers that nobody chooses: each follows from the ID of what it ends. Pure.

Whoever asks first chooses a transfer's ID. A transfer that has no asker (an expiry) or that must
exist at most once (a correction) gets an ID that follows from its hold's. These begin alike, and no
chosen ID may begin like that: otherwise somebody could take such an ID before its time, and the
hold could never end.
"""

from __future__ import annotations

import hashlib

DERIVED_PREFIX = b"\xff\xff\xff"
"""One of 16,777,216 random IDs begins like this and is refused; a new one is made then."""
ID_BYTES = 16


def derived_id(domain: bytes, hold_id: bytes) -> bytes:
    """Give the ID that follows from a hold's, for one use of it."""
    digest = hashlib.sha256(domain + hold_id).digest()
    return DERIVED_PREFIX + digest[: ID_BYTES - len(DERIVED_PREFIX)]


def is_derived(transfer_id: bytes) -> bool:
    """Whether an ID is of the kind that nobody may choose."""
    return transfer_id.startswith(DERIVED_PREFIX)
