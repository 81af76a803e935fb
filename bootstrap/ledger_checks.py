"""Owns what is checked of a ledger call before it reaches the ledger: who calls, who signed what.

Signatures are verified here, on the trio side (about 50 microseconds each), so that the writing
thread only decides. What is left to the rules is whether the signer may do it.
"""

from __future__ import annotations

import functools

from ledger.errors import NotAuthorizedError, ReceiptError
from ledger.limits import LOOKUP_AGE_MS_MAX
from ledger.operations import (
    CaptureHold,
    ChangeAccountKeys,
    CreateKey,
    FoundAccount,
    Leg,
    MakeGrant,
    OpenNamespace,
    Operation,
    RevokeKey,
    RotateKey,
)
from p2p.account_messages import AccountKeyChange, ApiKeyRotation
from p2p.calls import Caller
from p2p.certificates import Certificate
from p2p.codec import decode_any_message
from p2p.errors import MalformedError, RefusedError, StaleError, UntrustedError
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.ledger_messages import (
    AccountFounding,
    CaptureLeg,
    CaptureRequest,
    Grant,
    KeyCreation,
    KeyRevocation,
    NamespaceOpening,
)
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, PeerId, Role, peer_id_from_public_key, public_key_of

# Base58 of a key costs as much as a third of a signature, and the same few peers come all the time.
cached_peer_id = functools.lru_cache(maxsize=4096)(peer_id_from_public_key)
cached_public_key = functools.lru_cache(maxsize=4096)(public_key_of)


def require_role(caller: Caller, *roles: Role) -> Certificate:
    """Give the certificate of a caller who has one of these roles.

    Raises: RefusedError `not_entitled`.
    """
    certificate = caller.certificate
    if certificate is None or certificate.role not in roles:
        wanted = " or ".join(role.value for role in roles)
        raise RefusedError("not_entitled", f"only a certified {wanted} may ask this")
    return certificate


def require_signer(caller: Caller, signed: Signed) -> None:
    """Refuse a document that somebody else than the caller signed. Raises: RefusedError."""
    if signed.signer != cached_public_key(caller.peer_id):
        raise RefusedError("not_entitled", "this must be signed by the peer that sends it")


def check_fresh(issued_ms: int, now_ms: int) -> None:
    """Refuse an old question, which somebody may be repeating. Raises: StaleError."""
    if abs(now_ms - issued_ms) > LOOKUP_AGE_MS_MAX:
        raise StaleError(
            f"this question was signed {abs(now_ms - issued_ms)} ms away from now: check the clocks"
        )


def capture_operation(
    network: NetworkId, signed: Signed, document: CaptureRequest, gateway_id: PeerId
) -> CaptureHold:
    """Verify both signatures of each leg.

    Raises: ReceiptError naming the leg.
    """
    legs = tuple(
        _open_leg(network, number, leg, signed.signer) for number, leg in enumerate(document.legs)
    )
    return CaptureHold(signed, document, gateway_id, legs)


def _open_leg(network: NetworkId, number: int, leg: CaptureLeg, gateway_key: bytes) -> Leg:
    try:
        receipt = open_signed(leg.receipt, NodeReceipt, network)
        delivery = open_signed(leg.delivery, DeliveryCount, network, signer=gateway_key)
        return Leg(cached_peer_id(leg.receipt.signer), receipt, delivery)
    except (UntrustedError, MalformedError) as error:
        raise ReceiptError(f"leg {number + 1}: {error}") from error


def account_operation(
    network: NetworkId, signed: Signed, configuration: NetworkConfiguration
) -> Operation:
    """Open a signed account operation or grant.

    Raises: UntrustedError (signature), MalformedError, NotAuthorizedError (a grant by a key that
    the configuration does not name).
    """
    match decode_any_message(signed.body):
        case AccountFounding():
            return FoundAccount(signed, open_signed(signed, AccountFounding, network))
        case NamespaceOpening():
            return OpenNamespace(signed, open_signed(signed, NamespaceOpening, network))
        case KeyCreation():
            return CreateKey(signed, open_signed(signed, KeyCreation, network))
        case KeyRevocation():
            return RevokeKey(signed, open_signed(signed, KeyRevocation, network))
        case ApiKeyRotation():
            return RotateKey(signed, open_signed(signed, ApiKeyRotation, network))
        case AccountKeyChange():
            return ChangeAccountKeys(signed, open_signed(signed, AccountKeyChange, network))
        case Grant():
            if signed.signer not in configuration.mint_public_keys:
                raise NotAuthorizedError("this grant is not signed by a mint key of the network")
            grant = open_signed(signed, Grant, network)
            cap = configuration.limits.grant_microcredits_per_mint_key_and_day_max
            return MakeGrant(signed, grant, cap)
        case other:
            raise MalformedError(f"a {type(other).__name__} is no account operation")
