"""Owns the identifiers and small value types that every part of the system shares."""

from __future__ import annotations

import enum
import functools
import hashlib
import re
from typing import NewType

import base58

from p2p.errors import MalformedError

PeerId = NewType("PeerId", str)
"""libp2p peer ID in base58: the identity multihash of an Ed25519 public key ("12D3Koo...")."""

NetworkId = NewType("NetworkId", str)
"""`<name>-<first 16 bytes of SHA-256 of the authority's public key, in hex>`."""

AccountId = NewType("AccountId", str)
"""`acct-<first 20 bytes of SHA-256 of the founding document, in hex>`."""

Microcredits = NewType("Microcredits", int)
"""An amount of money: 10**6 microcredits are one credit. Always an integer."""

PUBLIC_KEY_BYTES = 32
_PEER_ID_PREFIX = b"\x00\x24\x08\x01\x12\x20"
_NETWORK_NAME = re.compile(r"[a-z0-9]([a-z0-9.]{0,30}[a-z0-9])?")
_NETWORK_ID = re.compile(r"[a-z0-9]([a-z0-9.]{0,30}[a-z0-9])?-[0-9a-f]{32}")
_ACCOUNT_ID = re.compile(r"acct-[0-9a-f]{40}")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?")


class Role(enum.StrEnum):
    """What a certified peer may do in the network."""

    NODE = "node"
    GATEWAY = "gateway"
    BOOTSTRAP = "bootstrap"


@functools.lru_cache(maxsize=4096)  # base58 in Python costs 15 us
def peer_id_from_public_key(public_key: bytes) -> PeerId:
    """Give the peer ID of an Ed25519 public key.

    Source: libp2p peer ID specification (keys of at most 42 encoded bytes use the identity hash).

    Raises: MalformedError if the key does not have 32 bytes.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise MalformedError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode("ascii"))


@functools.lru_cache(maxsize=4096)
def public_key_of(peer_id: PeerId) -> bytes:
    """Give the 32-byte Ed25519 public key that a peer ID carries.

    Raises: MalformedError if the text is not the ID of an Ed25519 peer.
    """
    # One key has one ID: the decoder would ignore white space at the end.
    if not peer_id.isalnum():
        raise MalformedError("a peer ID is base58 text")
    try:
        raw = base58.b58decode(peer_id)
    except ValueError as error:
        raise MalformedError("a peer ID is base58 text") from error
    if len(raw) != len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES or raw[:6] != _PEER_ID_PREFIX:
        raise MalformedError("this is not the peer ID of an Ed25519 key")
    return raw[6:]


def network_id(name: str, authority_key: bytes) -> NetworkId:
    """Make the ID of a network from its name and its authority's public key.

    Raises: MalformedError if the name is not 1 to 32 of a-z, 0-9 and dots.
    """
    if not _NETWORK_NAME.fullmatch(name):
        raise MalformedError("a network name is 1 to 32 characters of a-z, 0-9 and dots")
    return NetworkId(f"{name}-{hashlib.sha256(authority_key).hexdigest()[:32]}")


def parse_network_id(text: str) -> NetworkId:
    """Check the form of a network ID that somebody typed.

    Raises: MalformedError if it is not `<name>-<32 hex digits>`.
    """
    if not _NETWORK_ID.fullmatch(text):
        raise MalformedError(f"not a network ID (name-<32 hex digits>): {text[:80]!r}")
    return NetworkId(text)


def authority_matches(network: NetworkId, authority_key: bytes) -> bool:
    """Tell whether a public key is the authority key that the network's ID commits to."""
    return network.rpartition("-")[2] == hashlib.sha256(authority_key).hexdigest()[:32]


def account_id_from_founding(founding_body: bytes) -> AccountId:
    """Give the ID of the account that a founding document (its bytes as signed) opens."""
    return AccountId(f"acct-{hashlib.sha256(founding_body).hexdigest()[:40]}")


def is_account_id(text: str) -> bool:
    """Tell whether a text has the form of an account ID."""
    return _ACCOUNT_ID.fullmatch(text) is not None


def is_namespace_name(text: str) -> bool:
    """Tell whether a text can name a namespace (1 to 64 of a-z, 0-9, `-` and `_`)."""
    return _NAMESPACE.fullmatch(text) is not None
