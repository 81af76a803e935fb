"""Owns the identity of a subcloud: a label and who founded it. Pure.

The ID commits to the founding owner, so that nobody else can publish a first version under it,
whatever a bootstrap says. The label alone (`eu-legal`) is what the name registry at the bootstraps
gives to the first who asks; the ID (`eu-legal-<32 hex digits>`) works everywhere without it.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from p2p.errors import MalformedError
from p2p.types import AccountId, NetworkId

SubcloudId = NewType("SubcloudId", str)
"""`<label>-<first 16 bytes of SHA-256 of network, founding owner and label, in hex>`."""

LABEL_CHARACTERS_MAX = 40
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_DIGEST_CHARACTERS = 32


def subcloud_id(network: NetworkId, owner: AccountId, label: str) -> SubcloudId:
    """Make the ID of a subcloud that an account founds.

    Raises: MalformedError if the label is not 1 to 40 of a-z, 0-9 and inner dashes.
    """
    check_label(label)
    content = "\0".join(("resultity/subcloud", network, owner, label)).encode()
    return SubcloudId(f"{label}-{hashlib.sha256(content).hexdigest()[:_DIGEST_CHARACTERS]}")


def check_label(label: str) -> str:
    """Give a label back if its form is right. Raises: MalformedError."""
    if not _LABEL.fullmatch(label):
        raise MalformedError(
            f"a subcloud's name is 1 to {LABEL_CHARACTERS_MAX} of a-z, 0-9 and dashes inside"
        )
    return label


def label_of(identity: SubcloudId) -> str:
    """Give the label in an ID."""
    return identity.rpartition("-")[0]


def parse_subcloud_id(text: str) -> SubcloudId:
    """Check the form of an ID that somebody typed. Raises: MalformedError."""
    label, dash, digest = text.rpartition("-")
    if not dash or not _LABEL.fullmatch(label) or not re.fullmatch(r"[0-9a-f]{32}", digest):
        raise MalformedError(f"not a subcloud's ID (name-<32 hex digits>): {text[:80]!r}")
    return SubcloudId(text)
