"""Owns what a delegate's command works with: gateway, network, policy, key, remembered lists."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from p2p.account_file import load_account
from p2p.clock import system_clock_ms
from p2p.errors import MalformedError
from p2p.signing import KeyPair
from p2p.subclouds.records import KnownPolicy
from p2p.types import NetworkId, PeerId, public_key_of
from resultity.commands.options import EXISTING, PATH
from resultity.errors import SettingsError
from resultity.subclouds.client import SubcloudClient
from resultity.subclouds.delegate_desk import DelegateDesk
from resultity.subclouds.delegate_files import RevocationMemory, load_delegate_key
from resultity.targets import find_gateway, find_network, local_folders

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Where:
    """Which gateway to ask, in which network, and where this machine keeps its files."""

    network_id: str | None
    gateway: str | None
    data_dir: Path | None

    @property
    def network(self) -> NetworkId:
        """The network's ID. Raises: SettingsError, MalformedError."""
        return find_network(self.network_id, self.data_dir)

    def client(self) -> SubcloudClient:
        """A client of the gateway. Raises: NotRunningError, SettingsError."""
        return SubcloudClient(find_gateway(self.gateway, self.data_dir), self.network)

    def memory(self) -> RevocationMemory:
        """The revocation lists that this machine has seen."""
        return RevocationMemory(self.folder())

    def folder(self) -> Path:
        """Where a delegate's machine keeps what it remembers of this network."""
        return local_folders(self.data_dir).root / "delegate" / self.network


def with_where(command: C) -> C:
    """Add --network, --gateway and --data-dir to a command; it gets them as `where`."""

    @click.option("--network", "network_id", help="Default: the local network's ID.")
    @click.option("--gateway", help="Default: the local network's.")
    @click.option("--data-dir", type=PATH, help="Of the local network.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        network_id: str | None,
        gateway: str | None,
        data_dir: Path | None,
        **rest: Any,
    ) -> Any:
        return command(*args, where=Where(network_id, gateway, data_dir), **rest)

    return wrapped  # type: ignore[return-value]


OWNER_ACCOUNT = click.option(
    "--account-file",
    type=EXISTING,
    help="Or the owner's account; default: the local network's consumer.",
)
DELEGATE_KEY = click.option(
    "--delegate-key",
    type=EXISTING,
    required=True,
    envvar="RESULTITY_DELEGATE_KEY",
    help="Key file of a delegate (or RESULTITY_DELEGATE_KEY).",
)


def open_desk(name: str, delegate_key: Path, where: Where) -> tuple[DelegateDesk, SubcloudClient]:
    """Get the policy of a subcloud, and what its delegate works with.

    Raises: GatewayCallError, SettingsError, P2PError.
    """
    client = where.client()
    known = client.get(name)
    key = load_delegate_key(delegate_key, known.policy)
    return DelegateDesk(client, key, known, where.memory(), system_clock_ms), client


def asking_key(
    known: KnownPolicy, delegate_key: Path | None, account_file: Path | None, where: Where
) -> KeyPair:
    """Give the key with which to ask for what is not public: a delegate's, or the owner's (which is
    the local network's consumer, if neither is given, as where policies are signed).

    Raises: SettingsError, P2PError, OSError.
    """
    if account_file is None:  # that one is always typed, a delegate's may be in the environment
        if delegate_key is not None:
            return load_delegate_key(delegate_key, known.policy)
        account_file = local_folders(where.data_dir).consumer_account
        if not account_file.exists():
            raise SettingsError("who asks? give --delegate-key, or --account-file (the owner's)")
    keys = load_account(account_file, where.network)
    if keys.signing.public_key not in known.owner.signing_keys:
        raise SettingsError(
            f"{account_file} is not the account that owns {known.identity}: give its "
            "--account-file, or --delegate-key"
        )
    return keys.signing


def parse_peers(peers: tuple[str, ...]) -> tuple[PeerId, ...]:
    """Check peer IDs that somebody typed. Raises: SettingsError."""
    for peer in peers:
        try:
            public_key_of(PeerId(peer))
        except MalformedError as error:
            raise SettingsError(f"not a peer ID: {peer[:80]!r}") from error
    return tuple(PeerId(peer) for peer in peers)


def parse_ids(texts: tuple[str, ...], what: str) -> tuple[bytes, ...]:
    """Read IDs of 32 hex digits. Raises: SettingsError."""
    found = []
    for text in texts:
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != 16:
            raise SettingsError(f"not the ID of {what} (32 hex digits): {text[:80]!r}")
        found.append(value)
    return tuple(found)
