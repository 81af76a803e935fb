"""Owns role certificates: who may act as node, gateway or bootstrap, and how that is proved. Pure.

Theory of operation. The authority key is offline; the network's ID commits to it. It certifies
bootstraps and gateways. A bootstrap's certificate is also its delegation: it may certify nodes, at
admission. A chain is therefore one certificate (bootstrap, gateway) or two (node, then the
bootstrap that admitted it), leaf first. Every certificate names the network, the peer, its role,
its account and an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, message
from p2p.errors import StaleError, UntrustedError, WrongNetworkError
from p2p.freshness import check_times
from p2p.limits import CERTIFICATES_MAX, NAME_CHARACTERS_MAX
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.types import (
    AccountId,
    NetworkId,
    PeerId,
    Role,
    authority_matches,
    is_account_id,
    public_key_of,
)


@message(10)
@dataclass(frozen=True, slots=True)
class Certificate(Document):
    """One peer's right to one role until `expires_ms` (milliseconds since 1970)."""

    PURPOSE: ClassVar[str] = "certificate"
    network_id: Annotated[NetworkId, Limit(NAME_CHARACTERS_MAX)]
    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    role: Role
    account_id: Annotated[AccountId, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int
    expires_ms: int


Chain = tuple[Signed, ...]
"""Certificates, leaf first; at most CERTIFICATES_MAX of them."""


def issue_certificate(
    issuer: KeyPair,
    network: NetworkId,
    peer_id: PeerId,
    role: Role,
    account_id: AccountId,
    *,
    issued_ms: int,
    lifetime_s: float,
) -> Signed:
    """Sign a certificate (by the authority's key pair, or a bootstrap's for a node)."""
    expires_ms = issued_ms + int(lifetime_s * 1000)
    return issuer.sign(
        network, Certificate(network, peer_id, role, account_id, issued_ms, expires_ms)
    )


def verify_chain(
    chain: Sequence[Signed], network: NetworkId, peer_id: PeerId, now_ms: int
) -> Certificate:
    """Check that a chain certifies a peer now, and give the peer's own certificate.

    Raises: WrongNetworkError, StaleError (expired), UntrustedError (anything else), MalformedError.
    """
    if not 1 <= len(chain) <= CERTIFICATES_MAX:
        raise UntrustedError("a certificate chain has one or two certificates")
    opened = [_open_one(signed, network, now_ms) for signed in chain]
    leaf = opened[0]
    if leaf.peer_id != peer_id:
        raise UntrustedError("this certificate belongs to another peer")
    if not authority_matches(network, chain[-1].signer):
        raise UntrustedError("this certificate does not lead to the network's authority")
    if len(opened) == 1:
        if leaf.role is Role.NODE:
            raise UntrustedError("a node is certified by a bootstrap")
        return leaf
    _check_delegation(chain, opened)
    return leaf


def _check_delegation(chain: Sequence[Signed], opened: Sequence[Certificate]) -> None:
    if len(opened) != 2 or opened[0].role is not Role.NODE:
        raise UntrustedError("only a node's certificate comes through a bootstrap")
    if opened[1].role is not Role.BOOTSTRAP:
        raise UntrustedError("a node's certificate is signed by a bootstrap")
    if chain[0].signer != public_key_of(opened[1].peer_id):
        raise UntrustedError("the bootstrap of this chain did not sign the node's certificate")


def _open_one(signed: Signed, network: NetworkId, now_ms: int) -> Certificate:
    certificate = open_signed(signed, Certificate, network)
    if certificate.network_id != network:
        raise WrongNetworkError(f"a certificate of network {certificate.network_id}")
    if not is_account_id(certificate.account_id):
        raise UntrustedError("a certificate without a valid account ID")
    public_key_of(certificate.peer_id)
    try:
        check_times(certificate.issued_ms, certificate.expires_ms, now_ms)
    except StaleError as error:
        raise StaleError(f"certificate of {certificate.peer_id}: {error}") from error
    return certificate
