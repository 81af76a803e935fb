"""Owns what a subcloud's owner and its delegates say beside certificates and lists.

A SubcloudRequest asks for what is not public: join requests, the log of joins, the owner's view. It
is fresh and passes once at each peer that answers. Who carries it can show it to another one within
a minute, and reads there what the owner could have read. A JoinDenial answers a node's request with
no.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, message
from p2p.errors import UntrustedError
from p2p.freshness import NonceGuard, check_times
from p2p.job_messages import Id
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import KnownPolicy
from p2p.types import NetworkId, PeerId

REQUEST_LIFETIME_MS = 60_000
REASON_CHARACTERS_MAX = 300

Subcloud = Annotated[SubcloudId, Limit(NAME_CHARACTERS_MAX)]


@message(197)
@dataclass(frozen=True, slots=True)
class SubcloudRequest(Document):
    """Asks for `what` of a subcloud (`requests`, `joins`, `view`, ...), after `after`.

    Signed by a key of the owner's account or by a delegate.
    """

    PURPOSE: ClassVar[str] = "subcloud-request"
    subcloud_id: Subcloud
    what: Annotated[str, Limit(32, 1)]
    nonce: Id
    issued_ms: int
    after: Annotated[str, Limit(NAME_CHARACTERS_MAX)] = ""


@message(198)
@dataclass(frozen=True, slots=True)
class JoinDenial(Document):
    """A delegate does not admit a node that asked; it need not ask again before `until_ms`."""

    PURPOSE: ClassVar[str] = "join-denial"
    subcloud_id: Subcloud
    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int
    until_ms: int
    reason: Annotated[str, Limit(REASON_CHARACTERS_MAX)] = ""


def sign_request(
    key: KeyPair, network: NetworkId, subcloud: SubcloudId, what: str, now_ms: int, after: str = ""
) -> Signed:
    """Make a request with a fresh nonce."""
    return key.sign(network, SubcloudRequest(subcloud, what, os.urandom(16), now_ms, after))


def may_ask(known: KnownPolicy, public_key: bytes) -> bool:
    """Tell whether a key is the owner's account's or a delegate's."""
    return public_key in known.owner.signing_keys or public_key in known.policy.delegate_public_keys


def check_request(
    signed: Signed,
    known: KnownPolicy,
    network: NetworkId,
    what: str,
    now_ms: int,
    nonces: NonceGuard,
) -> SubcloudRequest:
    """Check that the owner or a delegate asks for this, now, for the first time.

    Raises: UntrustedError, StaleError, MalformedError.
    """
    if not may_ask(known, signed.signer):
        raise UntrustedError("only the subcloud's owner and its delegates may ask for this")
    request = open_signed(signed, SubcloudRequest, network)
    if request.subcloud_id != known.identity or request.what != what:
        raise UntrustedError("a request for something else")
    expires_ms = request.issued_ms + REQUEST_LIFETIME_MS
    check_times(request.issued_ms, expires_ms, now_ms)
    nonces.check((signed.signer, request.nonce), expires_ms, now_ms)
    return request


def open_denial(signed: Signed, policy: SubcloudPolicy) -> JoinDenial:
    """Check that a delegate of a policy denied a node. Raises: UntrustedError, MalformedError."""
    if signed.signer not in policy.delegate_public_keys:
        raise UntrustedError("this denial is not signed by a delegate")
    denial = open_signed(signed, JoinDenial, NetworkId(policy.network_id))
    if denial.subcloud_id != policy.subcloud_id:
        raise UntrustedError("a denial of another subcloud")
    return denial
