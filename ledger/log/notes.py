"""Owns signed notes and checkpoints in the formats of C2SP: signed-note and tlog-checkpoint. Pure.

Theory of operation. A checkpoint's text is three lines (origin, size, base64 of the root); a note
is a text, an empty line and signature lines `— <key name> base64(key ID || signature)`. The key ID
is the first 4 bytes of SHA-256(name || 0x0A || 0x01 || public key) and the signature Ed25519 (RFC
8032) over the text, so any implementation of c2sp.org/signed-note can verify ours with the
verifier key that `verifier_key` gives. Lines of other keys (witnesses) are left alone.

The signature has no domain of ours before it: a log key signs nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

import nacl.exceptions
import nacl.signing

from ledger.log.errors import ProofError
from ledger.log.merkle import HASH_BYTES
from p2p.log_messages import NOTE_BYTES_MAX
from p2p.signing import KeyPair
from p2p.types import NetworkId

_ED25519 = b"\1"
_DASH = "— "
_KEY_ID_BYTES = 4
SIZE_MAX = 2**62


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What a checkpoint says: whose log, how many leaves, and the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Give the note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def log_origin(network: NetworkId) -> str:
    """Name the log of a network; it is the key name of its log keys too."""
    return f"resultity/{network}"


def key_id(name: str, public_key: bytes) -> bytes:
    """Give the 4 bytes that name an Ed25519 key in a signature line."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:_KEY_ID_BYTES]


def verifier_key(name: str, public_key: bytes) -> str:
    """Give a public key as other tools read it: `<name>+<key ID>+<base64>`."""
    text = base64.b64encode(_ED25519 + public_key).decode()
    return f"{name}+{key_id(name, public_key).hex()}+{text}"


def sign_checkpoint(head: TreeHead, key_pair: KeyPair) -> bytes:
    """Make the signed note of a tree head, under the key name of its origin."""
    text = head.text()
    signature = nacl.signing.SigningKey(key_pair.seed).sign(text.encode()).signature
    line = base64.b64encode(key_id(head.origin, key_pair.public_key) + signature).decode()
    return f"{text}\n{_DASH}{head.origin} {line}\n".encode()


def open_note(note: bytes, name: str, public_key: bytes) -> str:
    """Verify that this key signed a note, and give its text.

    Raises: ProofError.
    """
    try:
        whole = note.decode("utf-8") if len(note) <= NOTE_BYTES_MAX else ""
    except UnicodeDecodeError as error:
        raise ProofError("this is not a signed note: it is not UTF-8") from error
    text, separator, lines = whole.rpartition("\n\n")
    if not separator or not lines.endswith("\n") or any(c < " " and c != "\n" for c in whole):
        raise ProofError("this is not a signed note")
    text += "\n"
    expected = key_id(name, public_key)
    for line in lines[:-1].split("\n"):
        line_name, signature = _signature_line(line)
        if line_name == name and signature[:_KEY_ID_BYTES] == expected:
            _verify(text, public_key, signature[_KEY_ID_BYTES:])
            return text
    raise ProofError(f"this note is not signed by the log key {expected.hex()} of {name}")


def open_checkpoint(note: bytes, origin: str, public_key: bytes) -> TreeHead:
    """Verify a checkpoint of this origin by this log key, and read it.

    Raises: ProofError.
    """
    return _read_text(open_note(note, origin, public_key), origin)


def read_head(note: bytes, origin: str) -> TreeHead:
    """Read a checkpoint of ours without verifying who signed it. Raises: ProofError."""
    text, separator, _ = note.partition(b"\n\n")
    try:
        return _read_text(text.decode() + "\n" if separator else "", origin)
    except UnicodeDecodeError as error:
        raise ProofError("this is not a signed note: it is not UTF-8") from error


def _read_text(text: str, origin: str) -> TreeHead:
    lines = text.split("\n")
    if len(lines) < 4 or not all(lines[:-1]):
        raise ProofError("this checkpoint has fewer than three lines, or an empty one")
    if lines[0] != origin:
        raise ProofError("this checkpoint is of another log")
    if not (lines[1].isascii() and lines[1].isdigit() and str(int(lines[1][:20])) == lines[1]):
        raise ProofError("this checkpoint's size is not a number")
    root = _base64(lines[2])
    if len(root) != HASH_BYTES or int(lines[1]) > SIZE_MAX:
        raise ProofError("this checkpoint's root or size cannot be right")
    return TreeHead(origin, int(lines[1]), root)


def _signature_line(line: str) -> tuple[str, bytes]:
    name, _, text = line.removeprefix(_DASH).partition(" ")
    data = _base64(text)
    if not line.startswith(_DASH) or not name or len(data) <= _KEY_ID_BYTES:
        raise ProofError("a signature line of this note is malformed")
    return name, data


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofError("a line of this note is not base64") from error
    # Only one spelling counts.
    if base64.b64encode(data).decode() != text:
        raise ProofError("a line of this note is not base64")
    return data


def _verify(text: str, public_key: bytes, signature: bytes) -> None:
    try:
        nacl.signing.VerifyKey(public_key).verify(text.encode(), signature)
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
        raise ProofError("the signature of this note does not verify") from error
