"""Owns the gateway as a member of its network: identity, certificate, and the open network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewaySetupError
from gateway.own_gateway import own_gateway
from gateway.settings import GatewaySettings
from p2p.certificate_keeper import CertificateKeeper
from p2p.certificates import Chain, verify_chain
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.directory_records import directory_records
from p2p.errors import MalformedError, P2PError
from p2p.identity import load_or_create_key
from p2p.libp2p_adapter import open_libp2p_network
from p2p.listening import choose_listen_addresses, remember_port
from p2p.member_files import load_chain
from p2p.membership import Membership
from p2p.network import Network
from p2p.pre_shared_key import load_pre_shared_key
from p2p.signing import KeyPair
from p2p.software import SOFTWARE
from p2p.types import NetworkId, PeerId, Role


@dataclass(frozen=True, slots=True)
class Peer:
    """The gateway as a member of its network. `keeper`: of the certificate of an account's own."""

    key_pair: KeyPair
    network: NetworkId
    configuration: ConfigurationBook
    membership: Membership
    clock_ms: Clock
    keeper: CertificateKeeper | None = None

    @property
    def chain(self) -> Chain:
        """Our certificate and what goes with it, as it is now."""
        return self.membership.chain

    def is_bootstrap(self, peer_id: PeerId) -> bool:
        """Whether a connected peer is a certified bootstrap."""
        certificate = self.membership.certificate_of(peer_id)
        return certificate is not None and certificate.role is Role.BOOTSTRAP


def load_peer(settings: GatewaySettings, clock_ms: Clock) -> Peer:
    """Load identity, certificate and the last good configuration. Raises: GatewaySetupError,
    P2PError."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    key_pair = load_or_create_key(settings.data_dir / "identity.key")
    network = settings.network_id
    configuration = ConfigurationBook(network, settings.data_dir / "configuration.msgpack")
    membership = Membership(
        key_pair, network, Role.GATEWAY, configuration, clock_ms=clock_ms, software=SOFTWARE
    )
    keeper = None
    if settings.certificate is not None:
        membership.chain = _certificate(settings.certificate, membership, clock_ms)
    elif settings.binding is not None:
        keeper = own_gateway(
            membership,
            configuration,
            settings.binding,
            settings.data_dir / "certificate.msgpack",
            clock_ms=clock_ms,
        )
    return Peer(key_pair, network, configuration, membership, clock_ms, keeper)


def _certificate(path: Path, membership: Membership, clock_ms: Clock) -> Chain:
    """Load the authority's certificate. Raises: GatewaySetupError."""
    try:
        chain = load_chain(path)
    except OSError as error:
        raise GatewaySetupError(
            f"the certificate {path} cannot be read: {error.strerror}"
        ) from error
    except MalformedError as error:
        raise GatewaySetupError(f"the certificate {path} is damaged: {error}") from error
    peer_id = membership.key_pair.peer_id
    try:
        certificate = verify_chain(chain, membership.network, peer_id, clock_ms())
    except P2PError as error:
        raise GatewaySetupError(f"the certificate {path}: {error}") from error
    if certificate.role is not Role.GATEWAY:
        raise GatewaySetupError(f"this is a certificate for a {certificate.role}, not a gateway")
    return chain


@asynccontextmanager
async def open_network(settings: GatewaySettings, peer: Peer) -> AsyncIterator[Network]:
    """Listen and be known to other peers until left. Raises: P2PError."""
    port_file = settings.data_dir / "p2p.port"

    async with open_libp2p_network(
        peer.key_pair,
        peer.network,
        gate=peer.membership,
        pre_shared_key=load_pre_shared_key(settings.pre_shared_key_file),
        record_check=directory_records(peer.network, peer.clock_ms),
        listen_addresses=choose_listen_addresses(settings.listen, port_file),
        announce_addresses=settings.announce or None,
    ) as network:
        if not settings.announce:  # what is announced is not where we listen
            remember_port(network.addresses(), port_file)
        yield network
