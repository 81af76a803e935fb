"""Owns what is checked of a ledger call before it reaches the ledger: who calls, who signed what.

Signatures are verified here, on the trio side (about 50 microseconds each), so that the writing
thread only decides. What is left to the rules is whether the signer may do it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from bootstrap.failure_proofs import failed_nodes
from ledger.errors import NotAuthorizedError, ReceiptError
from ledger.limits import LOOKUP_AGE_MS_MAX
from ledger.operations import (
    AnswerDispute,
    CaptureHold,
    CaptureLeased,
    ChangeAccountKeys,
    ChangeKeyLimits,
    CreateKey,
    Leg,
    MakeGrant,
    OpenNamespace,
    Operation,
    ReferAccount,
    ResolveDispute,
    RevokeKey,
    RotateKey,
)
from p2p.account_messages import AccountKeyChange, ApiKeyRotation, KeyLimitsChange
from p2p.calls import Caller
from p2p.certificates import Certificate
from p2p.codec import decode_any_message, decode_message
from p2p.dispute_messages import DisputeAnswer, DisputeResolution
from p2p.errors import MalformedError, RefusedError, StaleError, UntrustedError
from p2p.job_messages import DeliveryCount, NodeReceipt
from p2p.lease_messages import LeasedCapture, LeasedHold
from p2p.ledger_messages import (
    CaptureLeg,
    CaptureRequest,
    Grant,
    KeyCreation,
    KeyRevocation,
    NamespaceOpening,
)
from p2p.network_configuration import NetworkConfiguration
from p2p.opening_messages import Referral
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


def from_gateway(caller: Caller, body: bytes, configuration: NetworkConfiguration) -> Signed:
    """Give what a certified gateway, which nobody shut out, asks in its own name.

    Raises: RefusedError `not_entitled`, MalformedError.
    """
    require_may_spend(caller, configuration)
    signed = decode_message(body, Signed)
    require_signer(caller, signed)
    return signed


def require_may_spend(caller: Caller, configuration: NetworkConfiguration) -> None:
    """Refuse whoever is no gateway, or was shut out. Raises: RefusedError `not_entitled`."""
    require_role(caller, Role.GATEWAY)
    if configuration.is_banned(caller.peer_id):
        raise RefusedError("not_entitled", "the network's authority has shut this gateway out")


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
    legs = _open_legs(network, document.legs, signed.signer)
    failures = failed_nodes(network, document, legs)
    return CaptureHold(signed, document, gateway_id, legs, failures)


def leased_capture_operation(
    network: NetworkId, signed: Signed, document: LeasedCapture, gateway_id: PeerId
) -> CaptureLeased:
    """Verify the gateway's signature on the leased hold, and both of each leg.

    Raises: ReceiptError naming the leg, or the hold.
    """
    try:
        hold = open_signed(document.hold, LeasedHold, network, signer=signed.signer)
    except (UntrustedError, MalformedError) as error:
        raise ReceiptError(f"the leased hold: {error}") from error
    legs = _open_legs(network, document.legs, signed.signer)
    failures = failed_nodes(network, document, legs)
    return CaptureLeased(signed, document, hold, gateway_id, legs, failures)


def _open_legs(
    network: NetworkId, legs: Sequence[CaptureLeg], gateway_key: bytes
) -> tuple[Leg, ...]:
    return tuple(_open_leg(network, number, leg, gateway_key) for number, leg in enumerate(legs))


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
        case Referral():
            window_ms = configuration.participation.referral_within_s * 1000
            return ReferAccount(signed, open_signed(signed, Referral, network), window_ms)
        case NamespaceOpening():
            return OpenNamespace(signed, open_signed(signed, NamespaceOpening, network))
        case KeyCreation():
            return CreateKey(signed, open_signed(signed, KeyCreation, network))
        case KeyRevocation():
            return RevokeKey(signed, open_signed(signed, KeyRevocation, network))
        case ApiKeyRotation():
            return RotateKey(signed, open_signed(signed, ApiKeyRotation, network))
        case KeyLimitsChange():
            return ChangeKeyLimits(signed, open_signed(signed, KeyLimitsChange, network))
        case AccountKeyChange():
            return ChangeAccountKeys(signed, open_signed(signed, AccountKeyChange, network))
        case DisputeAnswer():
            return AnswerDispute(signed, open_signed(signed, DisputeAnswer, network))
        case DisputeResolution():
            if signed.signer not in configuration.dispute_public_keys:
                raise NotAuthorizedError("this is not signed by a dispute key of the network")
            return ResolveDispute(signed, open_signed(signed, DisputeResolution, network))
        case Grant():
            if signed.signer not in configuration.mint_public_keys:
                raise NotAuthorizedError("this grant is not signed by a mint key of the network")
            grant = open_signed(signed, Grant, network)
            cap = configuration.limits.grant_microcredits_per_mint_key_and_day_max
            return MakeGrant(signed, grant, cap)
        case other:
            raise MalformedError(f"a {type(other).__name__} is no account operation")
