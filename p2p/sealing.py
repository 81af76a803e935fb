"""Owns sealing bytes to the holders of Ed25519 keys, so that nobody else can read them.

A random key encrypts the (compressed) bytes in a libsodium secret box; it is sealed to each reader
in a libsodium sealed box, by the X25519 form of the reader's key. The sender stays anonymous and
cannot read it again. https://doc.libsodium.org/advanced/ed25519-curve25519
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import nacl.exceptions
import nacl.public
import nacl.secret
import nacl.signing
import nacl.utils

from p2p.dispute_messages import EVIDENCE_BYTES_MAX, SealedEvidence, SealedKey
from p2p.errors import MalformedError, UntrustedError
from p2p.signing import KeyPair

CONTENT_BYTES_MAX = 4 << 20
"""Uncompressed: what a reader unpacks at most."""


def seal(content: bytes, readers: Sequence[bytes]) -> SealedEvidence:
    """Encrypt bytes to the holders of these Ed25519 public keys.

    Raises: MalformedError (too large, or a key that is none).
    """
    if len(content) > CONTENT_BYTES_MAX:
        raise MalformedError(f"evidence has at most {CONTENT_BYTES_MAX} bytes")
    key = nacl.utils.random(nacl.secret.SecretBox.KEY_SIZE)
    box = bytes(nacl.secret.SecretBox(key).encrypt(zlib.compress(content, 9)))
    if len(box) > EVIDENCE_BYTES_MAX:
        raise MalformedError(
            f"the evidence has {len(box)} bytes when compressed, at most {EVIDENCE_BYTES_MAX} are "
            "taken: attach less"
        )
    return SealedEvidence(tuple(SealedKey(reader, _sealed(key, reader)) for reader in readers), box)


def _sealed(key: bytes, reader: bytes) -> bytes:
    try:
        public_key = nacl.signing.VerifyKey(reader).to_curve25519_public_key()
        return bytes(nacl.public.SealedBox(public_key).encrypt(key))
    except (nacl.exceptions.CryptoError, ValueError, TypeError, RuntimeError) as error:
        raise MalformedError(f"{reader.hex()} is not a key that can be sealed to") from error


def unseal(sealed: SealedEvidence, reader: KeyPair) -> bytes:
    """Decrypt what was sealed to a key. Raises: UntrustedError (not to this key, or damaged)."""
    own = next((one for one in sealed.keys if one.decider == reader.public_key), None)
    if own is None:
        raise UntrustedError("this evidence is not sealed to this key")
    private_key = nacl.signing.SigningKey(reader.seed).to_curve25519_private_key()
    unpacker = zlib.decompressobj()
    try:
        key = nacl.public.SealedBox(private_key).decrypt(own.sealed)
        content = unpacker.decompress(
            nacl.secret.SecretBox(key).decrypt(sealed.box), CONTENT_BYTES_MAX
        )
    except (nacl.exceptions.CryptoError, ValueError, TypeError, zlib.error) as error:
        raise UntrustedError("this evidence cannot be opened: it is damaged") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise UntrustedError("this evidence is larger than any that is made")
    return content
