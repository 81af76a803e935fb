"""Owns the files of a network's founder: keys, signed configuration, certificates.

authority.key          0600; signs configurations and certificates; belongs offline
mint.key               0600; signs grants; its public key stands in the configuration
dispute.key            0600; decides disputes and reads their evidence; likewise
configuration.signed   the newest signed configuration, as bootstraps publish it
network.id             name-<hash of the authority's public key>
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from p2p.certificates import Chain, issue_certificate
from p2p.clock import Clock
from p2p.codec import decode_message, decode_messages, encode_message, encode_messages
from p2p.errors import MalformedError
from p2p.files import write_atomically
from p2p.identity import load_key, load_or_create_key
from p2p.network_configuration import (
    ApprovedModel,
    NetworkConfiguration,
    check_successor,
    configuration_digest,
    open_configuration,
    sign_configuration,
)
from p2p.signing import KeyPair, Signed
from p2p.types import (
    AccountId,
    NetworkId,
    PeerId,
    Role,
    authority_matches,
    network_id,
    parse_network_id,
)
from resultity.errors import DataFolderError, SettingsError

AUTHORITY, MINT, DISPUTE = "authority.key", "mint.key", "dispute.key"
CONFIGURATION, NETWORK = "configuration.signed", "network.id"
CERTIFICATE_LIFETIME_S = 365 * 86_400.0
CONFIGURATION_FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class NetworkFiles:
    """The folder of a network's founder."""

    folder: Path

    @property
    def authority_path(self) -> Path:
        """The authority's key file."""
        return self.folder / AUTHORITY

    @property
    def mint_path(self) -> Path:
        """The mint's key file."""
        return self.folder / MINT

    @property
    def dispute_path(self) -> Path:
        """The key file of who decides disputes."""
        return self.folder / DISPUTE

    @property
    def configuration_path(self) -> Path:
        """The signed configuration that bootstraps publish."""
        return self.folder / CONFIGURATION

    @property
    def exists(self) -> bool:
        """Whether a network was founded here (the configuration is written last)."""
        return self.configuration_path.exists()

    def network(self) -> NetworkId:
        """Read the network's ID. Raises: DataFolderError, MalformedError."""
        path = self.folder / NETWORK
        try:
            return parse_network_id(path.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise DataFolderError(
                f"{self.folder} holds no network: run `resultity network init` for it"
            ) from error

    def authority(self) -> KeyPair:
        """Read the authority's key. Raises: DataFolderError, UntrustedError, MalformedError."""
        try:
            key_pair = load_key(self.authority_path)
        except FileNotFoundError as error:
            raise DataFolderError(f"{self.authority_path} is missing: only it can sign") from error
        if not authority_matches(self.network(), key_pair.public_key):
            raise DataFolderError(f"{self.authority_path} is not the key of {self.network()}")
        return key_pair

    def configuration(self) -> tuple[Signed, NetworkConfiguration]:
        """Read and verify the newest configuration. Raises: DataFolderError, P2PError."""
        signed = read_signed(self.configuration_path)
        return signed, open_configuration(signed, self.network())


def found_network(
    folder: Path, name: str, models: Sequence[ApprovedModel], clock_ms: Clock
) -> NetworkFiles:
    """Make the keys of a new network and its first configuration.

    Raises: DataFolderError if there is one already, MalformedError (the name), SettingsError.
    """
    files = NetworkFiles(folder)
    if files.exists:
        raise DataFolderError(f"{folder} holds a network already: choose another --data-dir")
    # The configuration is written last: after an interrupted start the same keys are used again.
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = load_or_create_key(files.authority_path)
    mint = load_or_create_key(files.mint_path)
    decider = load_or_create_key(files.dispute_path)
    network = network_id(name, authority.public_key)
    try:
        configuration = NetworkConfiguration(
            network_id=network,
            version=1,
            issued_ms=clock_ms(),
            models=tuple(models),
            mint_keys=(mint.public_key.hex(),),
            dispute_keys=(decider.public_key.hex(),),
        )
    except pydantic.ValidationError as error:
        raise SettingsError(_first_complaint(error)) from error
    signed = sign_configuration(authority, configuration)
    write_atomically(folder / NETWORK, f"{network}\n".encode())
    write_atomically(files.configuration_path, encode_message(signed))
    return files


def sign_next(files: NetworkFiles, document: str, clock_ms: Clock) -> NetworkConfiguration:
    """Sign an edited configuration as the next version of what is in force.

    Version, predecessor, time and network are filled in; whatever the document says of them is
    replaced.

    Args:
        document: the configuration as JSON.
    Raises: SettingsError that names the field, DataFolderError, P2PError.
    """
    current_signed, current = files.configuration()
    digest = configuration_digest(current_signed)
    filled_in = {
        "network_id": current.network_id,
        "version": current.version + 1,
        "predecessor_digest": digest,
        "issued_ms": clock_ms(),
    }
    try:
        edited = json.loads(document)
        if not isinstance(edited, dict):
            raise SettingsError("network configuration: not a JSON object")
        configuration = NetworkConfiguration.model_validate(edited | filled_in)
    except pydantic.ValidationError as error:
        raise SettingsError(_first_complaint(error)) from error
    except ValueError as error:
        raise SettingsError(f"network configuration: not valid JSON: {error}") from error
    _check_fields(edited, configuration.model_dump(mode="json"), "")
    signed = sign_configuration(files.authority(), configuration)
    check_successor(current, digest, configuration, configuration_digest(signed))
    write_atomically(files.configuration_path, encode_message(signed))
    return configuration


def _check_fields(edited: Any, known: Any, where: str) -> None:
    """See that a person's edit has no field that does not exist. Raises: SettingsError."""
    if isinstance(edited, dict) and isinstance(known, dict):
        for name, value in edited.items():
            if name not in known:
                raise SettingsError(f"network configuration: there is no field {where}{name}")
            _check_fields(value, known[name], f"{where}{name}.")
    elif isinstance(edited, list) and isinstance(known, list):
        for number, (item, known_item) in enumerate(zip(edited, known, strict=False)):
            _check_fields(item, known_item, f"{where}{number}.")


def certify(
    files: NetworkFiles, peer_id: PeerId, role: Role, account_id: AccountId, clock_ms: Clock
) -> Chain:
    """Certify a bootstrap or a gateway for a year, by the authority. Raises: as `authority`."""
    assert role is not Role.NODE, "a node is certified by a bootstrap"
    certificate = issue_certificate(
        files.authority(),
        files.network(),
        peer_id,
        role,
        account_id,
        issued_ms=clock_ms(),
        lifetime_s=CERTIFICATE_LIFETIME_S,
    )
    return (certificate,)


def read_signed(path: Path) -> Signed:
    """Read one signed document from a file. Raises: DataFolderError, MalformedError."""
    try:
        if path.stat().st_size > CONFIGURATION_FILE_BYTES_MAX:
            raise DataFolderError(f"{path} is too large to be a signed document")
        return decode_message(path.read_bytes(), Signed)
    except OSError as error:
        raise DataFolderError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    except MalformedError as error:
        raise MalformedError(f"{path} is damaged: {error}") from error


def read_chain(data: bytes, where: str) -> Chain:
    """Read a certificate chain (leaf first). Raises: MalformedError."""
    try:
        chain = decode_messages(data)
    except MalformedError as error:
        raise MalformedError(f"{where} is not a certificate chain: {error}") from error
    if not all(isinstance(item, Signed) for item in chain):
        raise MalformedError(f"{where} is not a certificate chain")
    return tuple(item for item in chain if isinstance(item, Signed))


def write_chain(path: Path, chain: Chain) -> None:
    """Write a certificate chain as the roles read it."""
    write_atomically(path, encode_messages(chain))


def _first_complaint(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "document"
    return f"network configuration: {where}: {first['msg']}"
