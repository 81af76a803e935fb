"""Owns how an owner's files and the ledger change keys together, so that no step loses a key.

Theory of operation. A new key is on disk before the ledger hears of it, beside the file that it
will replace (`<file>.new`), and replaces it when the ledger has taken it. A run that was broken off
is continued by running the same command again: what is found in `<file>.new` is used, and the
ledger says whether it knows it already.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol, TypeVar

from p2p.account_file import AccountKeys, load_account, store_account
from p2p.account_messages import AccountKeyChange, AccountRequest, AccountStatement
from p2p.account_proof import AccountProof, prove_account
from p2p.codec import Message
from p2p.errors import P2PError
from p2p.identity import load_key, load_or_create_key
from p2p.ledger_messages import TransferResult
from p2p.signing import KeyPair, Signed
from p2p.types import AccountId, NetworkId, account_id_from_founding
from resultity.errors import DataFolderError, GatewayCallError, SettingsError

M = TypeVar("M", bound=Message)
RECOVERY_STEP = 1000
"""Numbers that a recovery skips: a thief's changes, one after the other, are not in its way."""


class Carrier(Protocol):
    """Brings signed documents to the ledger (`resultity.courier.Courier`)."""

    def operation(self, document: Signed) -> TransferResult:
        """Have a document carried out."""
        ...

    def send(self, what: str, document: Signed, answer: type[M]) -> M:
        """Send a question, give the answer."""
        ...


class OwnersDesk:
    """Changes the keys of accounts of one network, through one carrier."""

    def __init__(self, carrier: Carrier, network: NetworkId, now_ms: int) -> None:
        """Work through a carrier; `now_ms` (milliseconds since 1970) is when documents are made."""
        self._carrier = carrier
        self._network = network
        self._now_ms = now_ms

    def view(self, signer: KeyPair, account_id: AccountId) -> AccountStatement:
        """See an account, by one of its keys or its recovery key. Raises: GatewayCallError."""
        document = AccountRequest(account_id, os.urandom(16), self._now_ms)
        signed = signer.sign(self._network, document)
        found = self._carrier.send("account", signed, AccountStatement)
        if account_id_from_founding(found.founding.body) != account_id:
            raise GatewayCallError("the gateway answered with another account")
        return found

    def proof(self, signer: KeyPair, account_id: AccountId) -> AccountProof:
        """Get what proves to strangers whose keys are the account's.

        Raises: GatewayCallError (also for an answer that proves something else).
        """
        found = self.view(signer, account_id)
        try:
            proven = prove_account(found.founding, found.changes, self._network)
        except P2PError as error:
            raise GatewayCallError(f"the gateway's account does not verify: {error}") from error
        if proven.length != found.key_changes or signer.public_key not in proven.signing_keys:
            raise GatewayCallError(
                f"the gateway does not prove that this key is one of {account_id} after its key "
                f"change {found.key_changes}"
            )
        return AccountProof(found.founding, found.changes)

    def add(self, path: Path, new_path: Path) -> AccountKeys:
        """Make a second account file with a key of its own (for another person or machine).

        Raises: DataFolderError, GatewayCallError, P2PError.
        """
        keys = load_account(path, self._network)
        new, taken = self._pending(new_path, keys.founding)
        if not taken:
            self._change(keys.signing, keys.account_id, added=[new])
        return new

    def remove(self, path: Path, public_key: bytes) -> None:
        """Take a signing key away from the account. Raises: GatewayCallError, P2PError."""
        keys = load_account(path, self._network)
        self._change(keys.signing, keys.account_id, removed=[public_key])

    def rotate(self, path: Path) -> AccountKeys:
        """Replace the key in an account file by a new one.

        Raises: DataFolderError, GatewayCallError, P2PError. The old file stays as it is then.
        """
        keys = load_account(path, self._network)
        pending = path.with_name(f"{path.name}.new")
        new, taken = self._pending(pending, keys.founding)
        if not taken:
            self._change(
                keys.signing, keys.account_id, added=[new], removed=[keys.signing.public_key]
            )
        os.replace(pending, path)
        return new

    def recover(
        self,
        new_path: Path,
        account_id: AccountId,
        recovery_path: Path,
        keep: Collection[bytes] = (),
    ) -> AccountKeys:
        """Take an account back by its recovery key: a new signing key, a new recovery key.

        Args:
            new_path: the account file to make.
            keep: public keys that stay; all other signing keys are removed.
        Raises: DataFolderError, GatewayCallError, P2PError.
        """
        recovery = load_key(recovery_path)
        pending = recovery_path.with_name(f"{recovery_path.name}.new")
        if new_path.exists() and pending.exists():
            new, taken = self._pending(new_path, None)
            if taken and new.account_id == account_id:
                os.replace(pending, recovery_path)
                return new
        before = self.view(recovery, account_id)
        new, taken = self._pending(new_path, before.founding)
        if taken:
            raise DataFolderError(f"{new_path} has a key of the account already: name a new file")
        next_recovery = load_or_create_key(pending)
        document = AccountKeyChange(
            account_id,
            before.key_changes + RECOVERY_STEP,
            (new.signing.public_key,),
            tuple(key for key in before.signing_keys if key not in keep),
            self._now_ms,
            next_recovery.public_key,
        )
        self._carrier.operation(recovery.sign(self._network, document))
        os.replace(pending, recovery_path)
        return new

    def _change(
        self,
        signer: KeyPair,
        account_id: AccountId,
        *,
        added: Collection[AccountKeys] = (),
        removed: Collection[bytes] = (),
    ) -> None:
        document = AccountKeyChange(
            account_id,
            self.view(signer, account_id).key_changes + 1,
            tuple(keys.signing.public_key for keys in added),
            tuple(removed),
            self._now_ms,
        )
        self._carrier.operation(signer.sign(self._network, document))

    def _pending(self, path: Path, founding: Signed | None) -> tuple[AccountKeys, bool]:
        """Make an account file with a new key, or find it; tell whether the ledger knows its key.

        Raises: DataFolderError if the file is another account's.
        """
        if not path.exists():
            assert founding is not None
            keys = AccountKeys(KeyPair.generate(), founding)
            store_account(path, keys)
            return keys, False
        keys = load_account(path, self._network)
        if founding is not None and founding.body != keys.founding.body:
            raise DataFolderError(f"{path} is another account's: name another file")
        try:
            found = self.view(keys.signing, keys.account_id)
        except GatewayCallError as error:
            if error.code != "not_authorized":
                raise
            return keys, False
        return keys, keys.signing.public_key in found.signing_keys


def parse_public_key(text: str) -> bytes:
    """Read a public key in hex. Raises: SettingsError."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise SettingsError(f"not a public key (64 hex digits): {text[:80]!r}")
    return key
