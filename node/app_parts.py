"""Owns what the pieces of a node are made from: keys, files, certificate, network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from node.hardware import detect_hardware
from node.joining import NodeStanding
from node.settings import NodeSettings
from node.subclouds.making import Subclouds, make_subclouds
from p2p.account_file import AccountKeys, load_or_create_account
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.directory_records import directory_records
from p2p.hardware import Hardware
from p2p.identity import load_or_create_key
from p2p.listening import choose_listen_addresses, listens_not, remember_port
from p2p.membership import Membership
from p2p.network import Network
from p2p.node_invites import parse_invite_for
from p2p.opening_messages import InviteSecret
from p2p.pre_shared_key import load_pre_shared_key
from p2p.signing import KeyPair
from p2p.software import SOFTWARE
from p2p.types import Role


@dataclass(slots=True)
class Parts:
    """What the pieces of a node are made from."""

    settings: NodeSettings
    key_pair: KeyPair
    account: AccountKeys
    book: ConfigurationBook
    membership: Membership
    standing: NodeStanding
    clock_ms: Clock
    subclouds: Subclouds
    sandboxed: bool = False
    hardware: Hardware = field(default_factory=detect_hardware)


@dataclass(slots=True)
class Changes:
    """Tells whoever is there by then that a model's state has changed."""

    listeners: list[Callable[[], None]] = field(default_factory=list)

    def tell(self) -> None:
        """A model's state has changed."""
        for listener in self.listeners:
            listener()


def make_parts(settings: NodeSettings, clock_ms: Clock) -> Parts:
    """Read or make what the data folder holds. Raises: P2PError, OSError."""
    network_id = settings.network_id
    key_pair = load_or_create_key(settings.data_dir / "identity.key")
    account_file = settings.account_file or settings.data_dir / "account.json"
    account = load_or_create_account(account_file, network_id, clock_ms)
    book = ConfigurationBook(network_id, settings.data_dir / "configuration.msgpack")
    membership = Membership(
        key_pair, network_id, Role.NODE, book, clock_ms=clock_ms, software=SOFTWARE
    )
    standing = NodeStanding(
        membership,
        account,
        book,
        settings.data_dir / "certificate.msgpack",
        software=SOFTWARE,
        clock_ms=clock_ms,
        invite=_invite(settings),
    )
    subclouds = make_subclouds(settings, membership, book, clock_ms)
    return Parts(settings, key_pair, account, book, membership, standing, clock_ms, subclouds)


def _invite(settings: NodeSettings) -> InviteSecret | None:
    path = settings.invite_file
    if path is None or not path.exists():  # it may be gone once the account is open
        return None
    return parse_invite_for(path.read_text(encoding="utf-8", errors="replace"), settings.network_id)


@asynccontextmanager
async def open_network(parts: Parts) -> AsyncIterator[Network]:
    """Open the libp2p network for as long as the block lasts."""
    from p2p.libp2p_adapter import open_libp2p_network

    settings = parts.settings
    port_file = settings.data_dir / "p2p.port"

    async with open_libp2p_network(
        parts.key_pair,
        settings.network_id,
        gate=parts.membership,
        pre_shared_key=load_pre_shared_key(settings.pre_shared_key_file),
        listen_addresses=choose_listen_addresses(settings.listen, port_file),
        announce_addresses=settings.announce or None,
        record_check=directory_records(settings.network_id, parts.clock_ms),
        subscribes=True,
        directory_server=not listens_not(settings.listen),  # whoever cannot be dialled only asks
    ) as network:
        if not settings.announce:  # what is announced is not where we listen
            remember_port(network.addresses(), port_file)
        yield network
