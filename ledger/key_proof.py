"""Owns whether a request for credit comes from who has the API key, and if the key is good."""

from __future__ import annotations

from collections.abc import Callable

from ledger.book import Book
from ledger.errors import KeyExpiredError, KeyProofError, KeyRevokedError, KeyUnknownError
from ledger.key_limits import check_allowed
from ledger.records import ApiKeyEntry
from p2p.api_keys import same
from p2p.lease_messages import LeaseRequest
from p2p.ledger_messages import HoldRequest
from p2p.types import PeerId

MakeMac = Callable[[bytes], bytes]
"""Computes the MAC that a hold key (32 bytes) would have made for a request."""


def proved_key(
    book: Book,
    gateway_id: PeerId,
    document: HoldRequest | LeaseRequest,
    make_mac: MakeMac,
    now_ms: int,
) -> ApiKeyEntry:
    """Give the key that a request for credit proves to have and may use.

    Raises: KeyUnknownError, KeyProofError, KeyRevokedError, KeyExpiredError, KeyNotAllowedError.
    """
    key = book.keys.get(document.key_id)
    if key is None:
        raise KeyUnknownError(f"there is no API key {document.key_id}")
    # The proof comes first: who does not have the key learns nothing about it.
    if proof_ends_ms(key, make_mac, document.mac, now_ms) is None:
        raise KeyProofError(f"the MAC does not prove possession of API key {key.key_id}")
    check_key_usable(key, now_ms)
    check_allowed(key, gateway_id, document)
    return key


def proof_ends_ms(key: ApiKeyEntry, make_mac: MakeMac, mac: bytes, now_ms: int) -> int | None:
    """Say until when a MAC proves possession of a key: with its secret, or the one before it.

    Args: make_mac: computes the MAC that is expected from a hold key.
    Returns: 0 for the current secret (no end), the end of the grace, or None: it proves nothing.
    """
    if same(make_mac(key.hold_key), mac):
        return 0
    if now_ms < key.previous_until_ms and same(make_mac(key.previous_hold_key), mac):
        return key.previous_until_ms
    return None


def check_key_usable(key: ApiKeyEntry, now_ms: int) -> None:
    """Refuse a key that was revoked or whose time is over.

    Raises: KeyRevokedError, KeyExpiredError.
    """
    if key.revoked_ms:
        raise KeyRevokedError(f"API key {key.key_id} was revoked")
    if key.expires_ms and key.expires_ms <= now_ms:
        raise KeyExpiredError(f"API key {key.key_id} has expired")
