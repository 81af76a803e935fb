"""Owns signatures: Ed25519 key pairs and signed documents, each purpose under its own domain.

Theory of operation. A document is a message (`p2p.codec`) that somebody answers for. It is encoded
once; those bytes are signed and sent, and the receiver verifies the bytes that came before it
decodes them: nothing is ever re-encoded to check a signature. What is signed is

    b"resultity/1\\0" + network ID + b"\\0" + purpose + b"\\0" + body

so that a signature for one purpose or one network is worth nothing for another. Ed25519 (RFC 8032)
through PyNaCl: 14 microseconds to sign, 36 to verify (measured). Replay is refused by what the
documents carry (IDs, sequence numbers, times), see `p2p.freshness`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

import nacl.exceptions
import nacl.signing

from p2p.codec import Limit, Message, decode_message, encode_message, message
from p2p.errors import UntrustedError
from p2p.limits import FRAME_BYTES_MAX
from p2p.types import PUBLIC_KEY_BYTES, NetworkId, PeerId, peer_id_from_public_key

SIGNATURE_BYTES = 64
SEED_BYTES = 32


class Document(Message):
    """Base of messages that are signed; `PURPOSE` is the domain string of their signature."""

    __slots__ = ()
    PURPOSE: ClassVar[str]


D = TypeVar("D", bound=Document)


@message(1)
@dataclass(frozen=True, slots=True)
class Signed(Message):
    """A document's bytes as sent, who signed them (public key), and the signature."""

    body: Annotated[bytes, Limit(FRAME_BYTES_MAX)]
    signer: Annotated[bytes, Limit(PUBLIC_KEY_BYTES, PUBLIC_KEY_BYTES)]
    signature: Annotated[bytes, Limit(SIGNATURE_BYTES, SIGNATURE_BYTES)]

    @property
    def peer_id(self) -> PeerId:
        """The signer as a peer ID."""
        return peer_id_from_public_key(self.signer)

    def digest(self) -> bytes:
        """SHA-256 of the body: names this document in other documents (32 bytes)."""
        return hashlib.sha256(self.body).digest()


def signed_bytes(network: NetworkId, purpose: str, body: bytes) -> bytes:
    """Give the bytes that a signature covers."""
    return b"resultity/1\0" + network.encode() + b"\0" + purpose.encode() + b"\0" + body


class KeyPair:
    """An Ed25519 key pair. The secret never leaves this object except through `seed`."""

    def __init__(self, seed: bytes) -> None:
        """Make the pair that a 32-byte seed determines."""
        self._key = nacl.signing.SigningKey(seed)
        self.public_key: bytes = bytes(self._key.verify_key)
        self.peer_id: PeerId = peer_id_from_public_key(self.public_key)

    @classmethod
    def generate(cls) -> KeyPair:
        """Make a new pair from the system's randomness."""
        return cls(bytes(nacl.signing.SigningKey.generate()))

    @property
    def seed(self) -> bytes:
        """The 32-byte secret, for storing it."""
        return bytes(self._key)

    def sign_bytes(self, network: NetworkId, purpose: str, body: bytes) -> bytes:
        """Sign raw bytes for one purpose in one network (64-byte signature)."""
        return self._key.sign(signed_bytes(network, purpose, body)).signature

    def sign(self, network: NetworkId, document: Document) -> Signed:
        """Encode a document and sign those bytes."""
        body = encode_message(document)
        return Signed(body, self.public_key, self.sign_bytes(network, document.PURPOSE, body))

    def __repr__(self) -> str:
        """Show the public part only."""
        return f"KeyPair({self.peer_id})"


def verify_bytes(
    network: NetworkId, purpose: str, body: bytes, public_key: bytes, signature: bytes
) -> None:
    """Check a signature over raw bytes.

    Raises: UntrustedError if it does not verify.
    """
    try:
        nacl.signing.VerifyKey(public_key).verify(signed_bytes(network, purpose, body), signature)
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
        raise UntrustedError(f"the signature of this {purpose} does not verify") from error


def open_signed(signed: Signed, cls: type[D], network: NetworkId, signer: bytes | None = None) -> D:
    """Verify a signed document and decode it.

    Args:
        signer: the public key that must have signed it, or None if the caller checks who did.
    Raises: UntrustedError (wrong signer or bad signature), MalformedError (not such a document).
    """
    if signer is not None and signed.signer != signer:
        raise UntrustedError(f"this {cls.PURPOSE} is signed by somebody else")
    verify_bytes(network, cls.PURPOSE, signed.body, signed.signer, signed.signature)
    return decode_message(signed.body, cls)
