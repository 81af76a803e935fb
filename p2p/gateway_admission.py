"""Owns the messages by which an account's own gateway is admitted to a network.

Theory of operation. The account's owner signs a binding over the gateway's peer ID (offline, if
they like) and writes it to a file together with what proves the account's keys. The gateway shows
the file's content to a bootstrap, like a node that joins; the bootstrap looks into the ledger
whether the account exists and whether the key that signed is one of its keys now, and answers with
a certificate for as long as the binding holds at most. The chain that the gateway shows from then
on carries the binding too (`p2p.certificates`): a bootstrap cannot make such a gateway by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from p2p.account_proof import AccountProof
from p2p.certificates import Chain, check_gateway_binding
from p2p.certificates import GatewayBinding as GatewayBinding
from p2p.codec import Limit, decode_messages, encode_messages, message
from p2p.errors import MalformedError, UntrustedError
from p2p.freshness import check_times
from p2p.limits import CERTIFICATES_MAX, NAME_CHARACTERS_MAX
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.types import AccountId, NetworkId, PeerId

ADMIT_GATEWAY = "admission.gateway"
REQUEST_LIFETIME_MS = 60_000
PROOF_DOCUMENTS_MAX = CERTIFICATES_MAX - 2
"""Beside the two certificates."""


@message(88)
@dataclass(frozen=True, slots=True)
class GatewayAdmission(Document):
    """A gateway asks for a certificate for its account's namespaces. Signed by the gateway.

    `proof`: the GatewayBinding, the account's founding, its key changes.
    """

    PURPOSE: ClassVar[str] = "gateway-admission"
    proof: Annotated[tuple[Signed, ...], Limit(PROOF_DOCUMENTS_MAX, 2)]
    software: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int


@dataclass(frozen=True, slots=True)
class OwnGateway:
    """A gateway's admission that was verified, but for what the ledger alone knows: whether
    `account_key`, which signed the binding, is a key of the account now."""

    peer_id: PeerId
    account_id: AccountId
    account_key: bytes
    proof: tuple[Signed, ...]
    until_ms: int


def bind_gateway(
    key: KeyPair,
    network: NetworkId,
    account: AccountProof,
    peer_id: PeerId,
    *,
    account_id: AccountId,
    issued_ms: int,
    lifetime_s: float,
) -> tuple[Signed, ...]:
    """Sign a binding, and put what proves it behind it.

    Raises: MalformedError for an account that has changed its keys too often.
    """
    binding = GatewayBinding(account_id, peer_id, issued_ms, issued_ms + int(lifetime_s * 1000))
    proof = (key.sign(network, binding), account.founding, *account.changes)
    if len(proof) > PROOF_DOCUMENTS_MAX:
        raise MalformedError(
            f"an account that has changed its keys more than {PROOF_DOCUMENTS_MAX - 2} times "
            "cannot have gateways of its own"
        )
    return proof


def load_binding(path: Path) -> tuple[Signed, ...]:
    """Read a binding file; it is not verified here. Raises: MalformedError, OSError."""
    items = decode_messages(path.read_bytes())
    proof = tuple(item for item in items if isinstance(item, Signed))
    if len(proof) != len(items) or not 2 <= len(proof) <= PROOF_DOCUMENTS_MAX:
        raise MalformedError(f"{path} does not hold a gateway's binding")
    return proof


def encode_binding(proof: Sequence[Signed]) -> bytes:
    """Give the content of a binding file."""
    return encode_messages(proof)


def admission_request(
    gateway: KeyPair, network: NetworkId, proof: tuple[Signed, ...], software: str, now_ms: int
) -> Signed:
    """Ask a bootstrap for a certificate."""
    return gateway.sign(network, GatewayAdmission(proof, software, now_ms))


def open_admission_request(
    signed: Signed, network: NetworkId, caller: PeerId, now_ms: int
) -> OwnGateway:
    """Check that the gateway asks, and that a key of some account bound it.

    Raises: UntrustedError, StaleError, MalformedError.
    """
    request = open_signed(signed, GatewayAdmission, network)
    if signed.peer_id != caller:
        raise UntrustedError("a gateway's request for another peer")
    check_times(request.issued_ms, request.issued_ms + REQUEST_LIFETIME_MS, now_ms)
    named = open_signed(request.proof[0], GatewayBinding, network)
    binding = check_gateway_binding(request.proof, named.account_id, network, caller, now_ms)
    return OwnGateway(
        caller, binding.account_id, request.proof[0].signer, request.proof, binding.expires_ms
    )


def own_gateway_chain(certificate: Signed, bootstrap: Chain, proof: tuple[Signed, ...]) -> Chain:
    """Put the chain of an account's own gateway together."""
    return (certificate, *bootstrap, *proof)
