"""Owns auditing a bootstrap's data folder or database offline: what to believe, the audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ledger.store.database import open_engine
from ledger.store.log_audit import audit
from ledger.store.log_audit_report import AuditReport
from ledger.store.log_proofs import inclusion_reply
from ledger.store.reader import Query, Reader, T
from p2p.codec import decode_message
from p2p.errors import P2PError
from p2p.log_messages import InclusionReply
from p2p.network_configuration import open_configuration
from p2p.signing import Signed
from p2p.types import NetworkId
from resultity.errors import SettingsError


def mint_keys(network: NetworkId, files: Sequence[Path]) -> frozenset[bytes]:
    """Read which keys may have signed grants, from configurations that the authority signed.

    Raises: SettingsError.
    """
    found: set[bytes] = set()
    for path in files:
        try:
            signed = decode_message(path.read_bytes(), Signed)
            found.update(open_configuration(signed, network).grant_public_keys)
        except (P2PError, OSError) as error:
            raise SettingsError(f"{path}: {error}") from error
    return frozenset(found)


def audit_database(url: str, network: NetworkId, mints: frozenset[bytes]) -> AuditReport:
    """Audit a ledger's database. Raises: StorageError."""
    return _read(url, lambda connection: audit(connection, network, mints))


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
