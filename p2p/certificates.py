"""Owns role certificates: who may act as node, gateway or bootstrap, and how that is proved. Pure.

Theory of operation. The authority key is offline; the network's ID commits to it. It certifies
bootstraps and gateways. A bootstrap's certificate is also its delegation: it may certify nodes, at
admission. A chain is therefore one certificate (bootstrap, gateway) or two (node, then the
bootstrap that admitted it), leaf first. Every certificate names the network, the peer, its role,
its account and an end.

A gateway may also be an account's own: for that account's namespaces only. The account says so by a
`GatewayBinding`, and a bootstrap admits it like a node. Its chain goes on with the binding and with
what proves the account's keys, so that neither can do it without the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.account_proof import prove_account
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
    """One peer's right to one role until `expires_ms` (milliseconds since 1970).

    `own_namespaces_only`: a gateway that serves its own account's namespaces and no others.
    """

    PURPOSE: ClassVar[str] = "certificate"
    TRIMMED: ClassVar[int] = 1
    network_id: Annotated[NetworkId, Limit(NAME_CHARACTERS_MAX)]
    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    role: Role
    account_id: Annotated[AccountId, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int
    expires_ms: int
    own_namespaces_only: bool = False


@message(87)
@dataclass(frozen=True, slots=True)
class GatewayBinding(Document):
    """An account says that a peer is its own gateway. Signed by a key of the account."""

    PURPOSE: ClassVar[str] = "gateway-binding"
    account_id: Annotated[AccountId, Limit(NAME_CHARACTERS_MAX)]
    peer_id: Annotated[PeerId, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int
    expires_ms: int


Chain = tuple[Signed, ...]
"""Certificates, leaf first, and what goes with them; at most CERTIFICATES_MAX documents."""


def issue_certificate(
    issuer: KeyPair,
    network: NetworkId,
    peer_id: PeerId,
    role: Role,
    account_id: AccountId,
    *,
    issued_ms: int,
    lifetime_s: float,
    own_namespaces_only: bool = False,
) -> Signed:
    """Sign a certificate (by the authority's key pair, or a bootstrap's for whom it admits)."""
    expires_ms = issued_ms + int(lifetime_s * 1000)
    document = Certificate(
        network, peer_id, role, account_id, issued_ms, expires_ms, own_namespaces_only
    )
    return issuer.sign(network, document)


def verify_chain(
    chain: Sequence[Signed], network: NetworkId, peer_id: PeerId, now_ms: int
) -> Certificate:
    """Check that a chain certifies a peer now, and give the peer's own certificate.

    Raises: WrongNetworkError, StaleError (expired), UntrustedError (anything else), MalformedError.
    """
    if not 1 <= len(chain) <= CERTIFICATES_MAX:
        raise UntrustedError(f"a certificate chain has 1 to {CERTIFICATES_MAX} documents")
    links = chain[:2]
    opened = [_open_one(signed, network, now_ms) for signed in links]
    leaf = opened[0]
    if leaf.peer_id != peer_id:
        raise UntrustedError("this certificate belongs to another peer")
    if not authority_matches(network, links[-1].signer):
        raise UntrustedError("this certificate does not lead to the network's authority")
    if len(opened) == 1:
        if leaf.role is Role.NODE or leaf.own_namespaces_only:
            raise UntrustedError("a node, or an account's own gateway, is certified by a bootstrap")
        return leaf
    _check_delegation(links, opened)
    if leaf.own_namespaces_only:
        check_gateway_binding(chain[2:], leaf.account_id, network, peer_id, now_ms)
    elif len(chain) > 2:
        raise UntrustedError("a certificate chain has one or two certificates")
    return leaf


def _check_delegation(chain: Sequence[Signed], opened: Sequence[Certificate]) -> None:
    leaf = opened[0]
    if leaf.role is not (Role.GATEWAY if leaf.own_namespaces_only else Role.NODE):
        raise UntrustedError("only nodes, and accounts' own gateways, are certified by a bootstrap")
    if opened[1].role is not Role.BOOTSTRAP:
        raise UntrustedError("this certificate is not signed by a bootstrap")
    if chain[0].signer != public_key_of(opened[1].peer_id):
        raise UntrustedError("the bootstrap of this chain did not sign its first certificate")


def check_gateway_binding(
    proof: Sequence[Signed], account_id: AccountId, network: NetworkId, peer_id: PeerId, now_ms: int
) -> GatewayBinding:
    """Check that an account made a peer its own gateway.

    Args: proof: the binding, the account's founding, its key changes.
    Raises: UntrustedError, StaleError, MalformedError.
    """
    if len(proof) < 2:
        raise UntrustedError(
            "an account's own gateway shows its binding and its account's founding"
        )
    signed, founding, *changes = proof
    account = prove_account(founding, changes, network)
    binding = open_signed(signed, GatewayBinding, network)
    if (account.account_id, binding.account_id) != (account_id, account_id):
        raise UntrustedError("the binding is of another account")
    if signed.signer not in account.signing_keys:
        raise UntrustedError("the binding is not signed by a key of the account")
    if binding.peer_id != peer_id:
        raise UntrustedError("the binding is of another gateway")
    check_times(binding.issued_ms, binding.expires_ms, now_ms)
    return binding


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
