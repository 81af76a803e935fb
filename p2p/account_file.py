"""Owns account files: an account's signing key and founding document, kept 0600 by the owner."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

from p2p.clock import Clock
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.files import write_atomically
from p2p.identity import KEY_FILE_MODE, store_key
from p2p.ledger_messages import AccountFounding
from p2p.signing import KeyPair, Signed, open_signed
from p2p.types import AccountId, NetworkId, account_id_from_founding

FORMAT = "resultity/account/1"


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """What an account's owner holds: a signing key and the signed founding document.

    The key is the one that the document names, or one that was added to the account later.
    """

    signing: KeyPair
    founding: Signed

    @property
    def account_id(self) -> AccountId:
        """The account's ID: the hash of its founding document."""
        return account_id_from_founding(self.founding.body)


def create_account(
    network: NetworkId, clock_ms: Clock, nonce: bytes
) -> tuple[AccountKeys, KeyPair]:
    """Make a new account: its keys, and the recovery key that belongs offline."""
    signing, recovery = KeyPair.generate(), KeyPair.generate()
    founding = AccountFounding(signing.public_key, recovery.public_key, clock_ms(), nonce)
    return AccountKeys(signing, signing.sign(network, founding)), recovery


def store_account(path: Path, keys: AccountKeys) -> None:
    """Write an account file with mode 0600."""
    content = {
        "format": FORMAT,
        "account_id": keys.account_id,
        "signing_seed": keys.signing.seed.hex(),
        "public_key": keys.signing.public_key.hex(),
        "founding": base64.b64encode(encode_message(keys.founding)).decode("ascii"),
    }
    write_atomically(path, json.dumps(content, indent=1).encode() + b"\n", KEY_FILE_MODE)


def load_account(path: Path, network: NetworkId) -> AccountKeys:
    """Read an account file.

    Raises: UntrustedError (readable by others), MalformedError (damaged, or of another network),
        FileNotFoundError.
    """
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise UntrustedError(f"{path} can be read by others: run chmod 600 {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        signing = KeyPair(bytes.fromhex(content["signing_seed"]))
        founding = decode_message(base64.b64decode(content["founding"]), Signed)
        document = open_signed(founding, AccountFounding, network, document_key(founding))
        # Files of before keys could be changed have the first key.
        public_key = bytes.fromhex(content.get("public_key", document.signing_key.hex()))
    except (ValueError, KeyError, TypeError, P2PError) as error:
        raise MalformedError(
            f"{path} is damaged or was made for another network: {error}"
        ) from error
    if public_key != signing.public_key:
        raise MalformedError(f"{path} is damaged: its key is not the one that it says")
    return AccountKeys(signing, founding)


def document_key(founding: Signed) -> bytes:
    """The signing key that a founding document names (it must have signed the document itself)."""
    return decode_message(founding.body, AccountFounding).signing_key


def load_or_create_account(path: Path, network: NetworkId, clock_ms: Clock) -> AccountKeys:
    """Read an account file, or make an account with its recovery key beside it.

    Raises: as `load_account`.
    """
    if path.exists():
        return load_account(path, network)
    keys, recovery = create_account(network, clock_ms, os.urandom(16))
    store_key(path.with_name(f"{path.stem}.recovery.key"), recovery)
    store_account(path, keys)
    return keys
