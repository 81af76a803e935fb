"""Owns the check of a consumer receipt by somebody who holds public things only.

Given are the network's ID, its signed configuration, the gateway's certificate chain, the request's
bytes, the answer's text and the receipt. What is proved: a gateway that the network's authority
certified says that it answered exactly this request with exactly this text, and it charged what the
network's prices say for the tokens that it names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from p2p.certificates import Certificate, Chain, verify_chain
from p2p.codec import decode_message
from p2p.errors import P2PError, StaleError
from p2p.ledger_messages import ConsumerReceipt
from p2p.network_configuration import NetworkConfiguration, open_configuration, terms_allowed
from p2p.prices import charge
from p2p.signing import Signed, open_signed
from p2p.types import NetworkId, Role
from resultity.errors import ReceiptError


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """A receipt that holds, and who signed it."""

    receipt: ConsumerReceipt
    gateway: Certificate
    configuration: NetworkConfiguration


def verify_receipt(
    *,
    network: NetworkId,
    configuration: Signed,
    gateway_chain: Chain,
    receipt: bytes,
    request: bytes,
    answer: str,
) -> VerifiedReceipt:
    """Check a receipt against everything that its holder knows.

    Raises: ReceiptError that says what does not fit.
    """
    try:
        opened = open_configuration(configuration, network)
        signed = decode_message(receipt, Signed)
        document = open_signed(signed, ConsumerReceipt, network)
        # The certificate must have been valid when the receipt was signed; it may be over by now.
        gateway = verify_chain(gateway_chain, network, signed.peer_id, document.at_ms)
    except StaleError as error:
        raise ReceiptError(f"the gateway was not certified at that time: {error}") from error
    except P2PError as error:
        raise ReceiptError(str(error)) from error
    if gateway.role is not Role.GATEWAY:
        raise ReceiptError(f"the signer is certified as {gateway.role}, not as a gateway")
    _check_content(document, request, answer)
    _check_price(document, opened)
    return VerifiedReceipt(document, gateway, opened)


def _check_content(document: ConsumerReceipt, request: bytes, answer: str) -> None:
    if document.request_hash != hashlib.sha256(request).digest():
        raise ReceiptError("this receipt is for another request")
    if document.output_hash != hashlib.sha256(answer.encode()).digest():
        raise ReceiptError("this receipt is for another answer")


def _check_price(document: ConsumerReceipt, configuration: NetworkConfiguration) -> None:
    terms = document.terms
    if terms.configuration_version == configuration.version and not terms_allowed(
        configuration, terms
    ):
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
