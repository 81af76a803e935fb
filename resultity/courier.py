"""Owns the way of signed documents to the ledger: through any gateway's courier endpoint.

An account's owner and a mint key's holder have no certificate and need none: what they sign speaks
for itself, the gateway only carries it to a bootstrap and brings the answer back.
"""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

from p2p.codec import Message, decode_message, encode_message
from p2p.errors import P2PError
from p2p.ledger_messages import TransferResult
from p2p.signing import Signed
from resultity.errors import GatewayCallError
from resultity.http_json import gateway_root, post_json

M = TypeVar("M", bound=Message)


class Courier:
    """Carries signed documents to the ledger through one gateway (blocking calls)."""

    def __init__(self, gateway_url: str) -> None:
        """Use the gateway with this base URL (with or without /v1). Raises: SettingsError."""
        self._root = gateway_root(gateway_url)

    def operation(self, document: Signed) -> TransferResult:
        """Have the ledger carry out a document; a repetition gives the first result again.

        Args:
            document: a signed AccountFounding, NamespaceOpening, KeyCreation, KeyRevocation,
                ApiKeyRotation, AccountKeyChange, InvitedFounding, Referral or Grant.
        Raises: GatewayCallError with the ledger's code and reason.
        """
        return self.send("operation", document, TransferResult)

    def send(self, what: str, document: Message, answer: type[M]) -> M:
        """Send a document (or a question that needs no signature), and read the answer.

        Args:
            what: `operation`, `statement`, `earnings`, `usage`, `rcp`, ...
        Raises: GatewayCallError.
        """
        try:
            return decode_message(self.carry(what, document), answer)
        except P2PError as error:
            raise GatewayCallError(f"{self._root} gave an answer that cannot be read") from error

    def carry(self, what: str, document: Message) -> bytes:
        """Send a document or a question, and give the answer as it came.

        Raises: GatewayCallError.
        """
        text = base64.b64encode(encode_message(document)).decode("ascii")
        result = post_json(f"{self._root}/resultity/v1/ledger/{what}", {"signed": text})
        try:
            return base64.b64decode(result["result"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise GatewayCallError(f"{self._root} gave an answer that cannot be read") from error
