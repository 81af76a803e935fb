"""Owns the IDs of transfers that nobody chooses: each follows from the ID of what it ends. Pure.

Whoever asks first chooses a transfer's ID. A transfer that has no asker (an expiry), that must
exist at most once (a correction), or that is promised before the ledger knows of it (a job's part
of a lease) gets an ID that follows from others. These begin alike, and no chosen ID may begin like
that: otherwise somebody could take such an ID before its time, and a hold could never end, or a job
never be paid.
"""

from __future__ import annotations

import hashlib

DERIVED_PREFIX = b"\xff\xff\xff"
"""One of 16,777,216 random IDs begins like this and is refused; a new one is made then."""
ID_BYTES = 16


def derived_id(domain: bytes, ids: bytes) -> bytes:
    """Give the ID that follows from another, or from several of fixed length, for one use."""
    digest = hashlib.sha256(domain + ids).digest()
    return DERIVED_PREFIX + digest[: ID_BYTES - len(DERIVED_PREFIX)]


def is_derived(transfer_id: bytes) -> bool:
    """Whether an ID is of the kind that nobody may choose."""
    return transfer_id.startswith(DERIVED_PREFIX)
