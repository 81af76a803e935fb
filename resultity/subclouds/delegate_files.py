"""Owns what is kept on a delegate's machine: its key, and the newest revocation list seen.

The newest list is remembered because the next one is made from it: a gateway that answered with an
older one would otherwise bring back whom it had left out.
"""

from __future__ import annotations

from pathlib import Path

from p2p.codec import decode_message, encode_message
from p2p.errors import P2PError
from p2p.files import write_atomically
from p2p.identity import load_key, store_key
from p2p.signing import KeyPair, Signed
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.policy import SubcloudPolicy
from resultity.errors import DataFolderError, SettingsError


def create_delegate_key(path: Path) -> KeyPair:
    """Make a delegate's key file (0600). Raises: DataFolderError if there is one."""
    if path.exists():
        raise DataFolderError(f"{path} exists already: name a new file")
    key = KeyPair.generate()
    store_key(path, key)
    return key


def load_delegate_key(path: Path, policy: SubcloudPolicy) -> KeyPair:
    """Read a delegate's key and see that a policy names it.

    Raises: SettingsError, UntrustedError, MalformedError, OSError.
    """
    key = load_key(path)
    if key.public_key not in policy.delegate_public_keys:
        raise SettingsError(
            f"{path} is no delegate's key of {policy.subcloud_id}: its public key is not among "
            f"the policy's delegates ({key.public_key.hex()})"
        )
    return key


class RevocationMemory:
    """The newest revocation list of each subcloud that this machine has seen."""

    def __init__(self, folder: Path) -> None:
        """Keep them in a folder (made when the first is kept)."""
        self._folder = folder

    def newest(self, policy: SubcloudPolicy, found: RevocationList | None) -> RevocationList | None:
        """Give the newer of what was found and what is remembered. Raises: DataFolderError."""
        known = self._load(policy)
        if known is None or (found is not None and found.number >= known.number):
            return found
        return known

    def keep(self, policy: SubcloudPolicy, signed: Signed) -> None:
        """Remember a list."""
        write_atomically(self._path(policy), encode_message(signed), 0o600)

    def _load(self, policy: SubcloudPolicy) -> RevocationList | None:
        try:
            signed = decode_message(self._path(policy).read_bytes(), Signed)
            # Not verified: it is our own file, and bans outlast the delegate who signed them.
            return decode_message(signed.body, RevocationList)
        except FileNotFoundError:
            return None
        except P2PError as error:
            raise DataFolderError(
                f"{self._path(policy)} is damaged: remove it if no node is to stay banned"
            ) from error

    def _path(self, policy: SubcloudPolicy) -> Path:
        return self._folder / f"{policy.subcloud_id}.revocations"
