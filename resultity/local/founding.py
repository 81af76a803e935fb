"""Owns what a local network needs on disk before its first process starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p2p.account_file import load_or_create_account
from p2p.certificates import verify_chain
from p2p.clock import Clock
from p2p.errors import P2PError
from p2p.identity import load_or_create_key
from p2p.network_configuration import ApprovedModel, NetworkConfiguration
from p2p.types import Role
from resultity.local.folders import LocalFolders
from resultity.model_approval import Prices, approve_model
from resultity.network_files import certify, found_network, read_chain, sign_next, write_chain

NETWORK_NAME = "local"
RENEW_BEFORE_MS = 30 * 86_400_000
"""A certificate with less than a month left is renewed at the next start."""


def found_local_network(
    folders: LocalFolders, model: Path, clock_ms: Clock
) -> tuple[NetworkConfiguration, ApprovedModel]:
    """Make (once) network, accounts and certificates; approve the model if it is not yet.

    Returns: the configuration in force and the model's entry in it.
    Raises: ResultityError, P2PError.
    """
    folders.make()
    proposed = approve_model(None, model, Prices())
    files = folders.network
    if not files.exists:
        found_network(files.folder, NETWORK_NAME, [proposed], clock_ms)
    _, configuration = files.configuration()
    entry = configuration.model_with_digest(bytes.fromhex(proposed.digest))
    if entry is None:
        # The same name with another content is a newer file of that model.
        models = [known for known in configuration.models if known.name != proposed.name]
        configuration = _approve(folders, configuration, [*models, proposed], clock_ms)
        entry = proposed
    operator = load_or_create_account(folders.operator_account, files.network(), clock_ms)
    for role in (Role.BOOTSTRAP, Role.GATEWAY):
        folder = folders.role(role)
        folder.mkdir(mode=0o700, exist_ok=True)
        peer_id = load_or_create_key(folder / "identity.key").peer_id
        path = folder / "certificate.chain"
        if not _good_for_a_month(folders, path, clock_ms):
            write_chain(path, certify(files, peer_id, role, operator.account_id, clock_ms))
    return configuration, entry


def _approve(
    folders: LocalFolders,
    configuration: NetworkConfiguration,
    models: Sequence[ApprovedModel],
    clock_ms: Clock,
) -> NetworkConfiguration:
    edited = configuration.model_copy(update={"models": tuple(models)})
    return sign_next(folders.network, edited.model_dump_json(), clock_ms)


def _good_for_a_month(folders: LocalFolders, path: Path, clock_ms: Clock) -> bool:
    if not path.exists():
        return False
    peer_id = load_or_create_key(path.parent / "identity.key").peer_id
    try:
        chain = read_chain(path.read_bytes(), str(path))
        network = folders.network.network()
        verify_chain(chain, network, peer_id, clock_ms() + RENEW_BEFORE_MS)
    except P2PError:
        return False
    return True
