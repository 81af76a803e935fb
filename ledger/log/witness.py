"""Owns witness cosignatures in the format of C2SP tlog-cosignature (cosignature/v1). Pure.

Theory of operation. A witness signs, with an Ed25519 key of its own, the text of a checkpoint
behind two lines that say what it is and when (`cosignature/v1`, `time <seconds>`). Its signature
line is `— <name> base64(key ID || time, 8 bytes big-endian || signature)`; the key ID is the first
4 bytes of SHA-256(name || 0x0A || 0x04 || public key). It says: at that time this checkpoint was
consistent with every checkpoint that this witness had signed before (c2sp.org/tlog-witness).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import nacl.exceptions
import nacl.signing

from ledger.log.errors import ProofError
from p2p.signing import KeyPair

_COSIGNATURE = b"\4"
_DASH = "— "
_KEY_ID_BYTES, _TIME_BYTES, _SIGNATURE_BYTES = 4, 8, 64


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness by the name of its signature lines, and its public key."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that name the key in a line."""
        data = self.name.encode() + b"\n" + _COSIGNATURE + self.public_key
        return hashlib.sha256(data).digest()[:_KEY_ID_BYTES]

    @property
    def verifier_key(self) -> str:
        """The key as other tools read it: `<name>+<key ID>+<base64>`."""
        text = base64.b64encode(_COSIGNATURE + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{text}"


@dataclass(frozen=True, slots=True)
class Witnessed:
    """That a witness cosigned a checkpoint, and when (seconds since 1970, by its clock)."""

    name: str
    at_s: int


def text_of(note: bytes) -> bytes:
    """Give the text of a signed note: what signatures cover. Raises: ProofError."""
    text, separator, _ = note.rpartition(b"\n\n")
    if not separator:
        raise ProofError("this is not a signed note")
    return text + b"\n"


def cosign(note: bytes, name: str, key_pair: KeyPair, at_s: int) -> bytes:
    """Make a witness's signature line (with its line end). Raises: ProofError."""
    signed = nacl.signing.SigningKey(key_pair.seed).sign(_message(text_of(note), at_s))
    key = WitnessKey(name, key_pair.public_key)
    data = key.key_id + at_s.to_bytes(_TIME_BYTES, "big") + signed.signature
    return f"{_DASH}{name} {base64.b64encode(data).decode()}\n".encode()


def verify_line(note: bytes, line: bytes, key: WitnessKey) -> Witnessed:
    """Check one line of a witness under a checkpoint. Raises: ProofError."""
    data = _line_data(line, key)
    if data is None:
        raise ProofError(f"this is no cosignature of the witness {key.name}")
    at_s = int.from_bytes(data[_KEY_ID_BYTES : _KEY_ID_BYTES + _TIME_BYTES], "big")
    signature = data[_KEY_ID_BYTES + _TIME_BYTES :]
    try:
        verifier = nacl.signing.VerifyKey(key.public_key)
        verifier.verify(_message(text_of(note), at_s), signature)
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
        raise ProofError(f"the cosignature of the witness {key.name} does not verify") from error
    return Witnessed(key.name, at_s)


def witnesses_of(note: bytes, keys: Sequence[WitnessKey]) -> list[Witnessed]:
    """Find which of these witnesses cosigned a checkpoint. Lines of others are left alone.

    Raises: ProofError if a line has the name and key ID of one of them and does not verify.
    """
    lines = note.rpartition(b"\n\n")[2].splitlines(keepends=True)
    found: dict[str, Witnessed] = {}
    for key in keys:
        for line in lines:
            if _line_data(line, key) is not None:
                found[key.name] = verify_line(note, line, key)
    return list(found.values())


def has_line(note: bytes, line: bytes) -> bool:
    """Tell whether a note carries this very line."""
    return line in note.rpartition(b"\n\n")[2].splitlines(keepends=True)


def _message(text: bytes, at_s: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % at_s + text


def _line_data(line: bytes, key: WitnessKey) -> bytes | None:
    """Give what a line signs with, if it is one of this key; None for any other."""
    try:
        words = line.decode()
    except UnicodeDecodeError:
        return None
    start = f"{_DASH}{key.name} "
    if not words.startswith(start) or not words.endswith("\n"):
        return None
    try:
        data = base64.b64decode(words[len(start) : -1], validate=True)
    except ValueError:
        return None
    wanted = _KEY_ID_BYTES + _TIME_BYTES + _SIGNATURE_BYTES
    if len(data) != wanted or data[:_KEY_ID_BYTES] != key.key_id:
        return None
    # Only one spelling counts.
    return data if base64.b64encode(data).decode() == words[len(start) : -1] else None
