"""Owns the check of a consumer receipt by somebody who holds public things only.

Given are the network's ID, its signed configuration, the gateway's certificate chain, the request's
bytes, the answer's text and the receipt. What is proved: a gateway that the network's authority
certified says that it answered exactly this request with exactly this text, and it charged what the
network's prices say for the tokens that it names. A receipt of a job in a subcloud names the
version of its policy; given that policy's record, which verifies by itself, it is also proved that
its owner published these prices and this fee, and let this gateway in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from p2p.certificates import Certificate, Chain, verify_chain
from p2p.codec import decode_message
from p2p.errors import P2PError, StaleError
from p2p.ledger_messages import ConsumerReceipt
from p2p.network_configuration import NetworkConfiguration, open_configuration, terms_allowed
from p2p.prices import PriceTerms, charge
from p2p.signing import Signed, open_signed
from p2p.subclouds.records import KnownPolicy, PolicyRecord, verify_record
from p2p.subclouds.terms import (
    model_in_subcloud,
    price_is_below_ceiling,
    subcloud_terms,
)
from p2p.types import NetworkId, Role
from resultity.errors import ReceiptError


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """A receipt that holds, and who signed it."""

    receipt: ConsumerReceipt
    gateway: Certificate
    configuration: NetworkConfiguration
    policy: KnownPolicy | None = None
    """Of the subcloud that the job was one of."""


def verify_receipt(
    *,
    network: NetworkId,
    configuration: Signed,
    gateway_chain: Chain,
    receipt: bytes,
    request: bytes,
    answer: str,
    policy: PolicyRecord | None = None,
) -> VerifiedReceipt:
    """Check a receipt against everything that its holder knows.

    Args: policy: of the subcloud that the receipt names, in the version that it names.
    Raises: ReceiptError that says what does not fit.
    """
    try:
        opened = open_configuration(configuration, network)
        signed = decode_message(receipt, Signed)
        document = open_signed(signed, ConsumerReceipt, network)
        # The certificate must have been valid when the receipt was signed; it may be over by now.
        gateway = verify_chain(gateway_chain, network, signed.peer_id, document.at_ms)
        known = verify_record(policy, network) if policy is not None else None
    except StaleError as error:
        raise ReceiptError(f"the gateway was not certified at that time: {error}") from error
    except P2PError as error:
        raise ReceiptError(str(error)) from error
    if gateway.role is not Role.GATEWAY:
        raise ReceiptError(f"the signer is certified as {gateway.role}, not as a gateway")
    _check_content(document, request, answer)
    if gateway.own_namespaces_only and document.account_id != gateway.account_id:
        raise ReceiptError("this gateway is certified for the namespaces of another account only")
    _check_price(document, opened)
    if not document.terms.subcloud_id:
        return VerifiedReceipt(document, gateway, opened)
    known = _policy_of(document.terms, known)
    _check_subcloud(document.terms, opened, known, gateway)
    return VerifiedReceipt(document, gateway, opened, known)


def _check_content(document: ConsumerReceipt, request: bytes, answer: str) -> None:
    if document.request_hash != hashlib.sha256(request).digest():
        raise ReceiptError("this receipt is for another request")
    if document.output_hash != hashlib.sha256(answer.encode()).digest():
        raise ReceiptError("this receipt is for another answer")


def _check_price(document: ConsumerReceipt, configuration: NetworkConfiguration) -> None:
    terms = document.terms
    in_force = terms.configuration_version == configuration.version
    if in_force and not terms.subcloud_id and not terms_allowed(configuration, terms):
        raise ReceiptError("the prices are not those of the network's configuration")
    if terms.configuration_version > configuration.version:
        raise ReceiptError(
            f"the receipt names configuration {terms.configuration_version}, "
            f"this is {configuration.version}: get the newer one"
        )
    cached_tokens = document.cached_input_tokens
    if cached_tokens > document.input_tokens:
        raise ReceiptError("more input tokens are counted as cached than there are")
    owed = charge(terms, document.input_tokens, document.output_tokens, cached_tokens)
    if document.charged > owed:
        raise ReceiptError(f"{document.charged} microcredits were charged, {owed} are right")


def _policy_of(terms: PriceTerms, known: KnownPolicy | None) -> KnownPolicy:
    """Give the policy that terms name. Raises: ReceiptError."""
    wanted = terms.policy_digest.hex()
    if known is None:
        raise ReceiptError(
            f"this job ran in the subcloud {terms.subcloud_id}: its policy ({wanted[:16]}...) is "
            "needed too"
        )
    if known.identity != terms.subcloud_id:
        raise ReceiptError(
            f"the receipt is of the subcloud {terms.subcloud_id}, this is the policy of "
            f"{known.identity}"
        )
    if known.digest != wanted:
        raise ReceiptError(
            f"the receipt names another version of the policy ({wanted[:16]}...) than version "
            f"{known.policy.version}, which is given"
        )
    return known


def _check_subcloud(
    terms: PriceTerms,
    configuration: NetworkConfiguration,
    known: KnownPolicy,
    gateway: Certificate,
) -> None:
    """Compare terms with what the policy says, and with the configuration if it is the one named.

    Raises: ReceiptError.
    """
    policy = known.policy
    model = model_in_subcloud(configuration, policy, terms.model_name)
    is_own = any(own is model for own in policy.models.own)
    if is_own or terms.configuration_version == configuration.version:
        expected = model and subcloud_terms(configuration, policy, known.digest, model)
        if not expected or terms != replace(
            expected, configuration_version=terms.configuration_version
        ):
            raise ReceiptError("the prices are not those of the subcloud's policy")
    if terms.owner_fee_basis_points != policy.price.owner_fee_basis_points:
        raise ReceiptError("the owner's share is not what the subcloud's policy says")
    if not price_is_below_ceiling(policy, terms):
        raise ReceiptError("the prices are above what the subcloud's policy allows")
    if not policy.admits_gateway(gateway.peer_id, gateway.account_id):
        raise ReceiptError("the subcloud's policy does not let this gateway send jobs")
