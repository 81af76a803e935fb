"""Owns auditing a bootstrap's data folder or database offline: what to believe, the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ledger.store.audit.report import AuditReport
from ledger.store.audit.whole import audit_with_definitions
from ledger.store.database import open_engine
from ledger.store.log.proofs import inclusion_reply
from ledger.store.mirror.copy import KnownKeys
from ledger.store.reader import Query, Reader, T
from p2p.codec import decode_message
from p2p.errors import P2PError
from p2p.log_messages import InclusionReply
from p2p.network_configuration import NetworkConfiguration, open_configuration
from p2p.signing import Signed
from p2p.types import NetworkId
from resultity.errors import SettingsError


def mint_keys(network: NetworkId, files: Sequence[Path]) -> frozenset[bytes]:
    """Read which keys may have signed grants, from configurations that the authority signed.

    Raises: SettingsError.
    """
    return _keys(network, files, lambda configuration: configuration.grant_public_keys)


def dispute_keys(network: NetworkId, files: Sequence[Path]) -> frozenset[bytes]:
    """Read which keys may have decided disputes, as `mint_keys` does. Raises: SettingsError."""
    return _keys(network, files, lambda configuration: configuration.decision_public_keys)


def _keys(
    network: NetworkId,
    files: Sequence[Path],
    keys_of: Callable[[NetworkConfiguration], Iterable[bytes]],
) -> frozenset[bytes]:
    found: set[bytes] = set()
    for path in files:
        try:
            signed = decode_message(path.read_bytes(), Signed)
            found.update(keys_of(open_configuration(signed, network)))
        except (P2PError, OSError) as error:
            raise SettingsError(f"{path}: {error}") from error
    return frozenset(found)


def known_keys(network: NetworkId, files: Sequence[Path]) -> KnownKeys:
    """Read all keys that count, from configurations that the authority signed. Raises:
    SettingsError."""
    return KnownKeys(
        mint_keys(network, files),
        dispute_keys(network, files),
        _keys(network, files, lambda configuration: configuration.log_public_keys),
    )


def audit_database(url: str, network: NetworkId, keys: KnownKeys) -> AuditReport:
    """Audit a ledger's database. Raises: StorageError."""
    mints, deciders, logs = keys
    return _read(url, lambda c: audit_with_definitions(c, network, mints, deciders, logs))


def prove_from_database(url: str, subject: bytes) -> InclusionReply:
    """Prove something of a ledger as its keeper, who sees all leaves. Raises: LedgerError."""
    return _read(url, lambda connection: inclusion_reply(connection, subject, None))


def _read(url: str, query: Query[T]) -> T:
    _check_file(url)
    reader = Reader(open_engine(url, writer=False))
    try:
        return reader.run(query)
    finally:
        reader.close()


def _check_file(url: str) -> None:
    """Refuse a file that is not there (SQLite would make it). Raises: SettingsError."""
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).is_file():
        raise SettingsError(f"{path} is not there: name the bootstrap's data folder")
