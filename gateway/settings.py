"""Owns the gateway's settings: one frozen object, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewaySetupError
from gateway.limits import STOP_GRACE_S
from p2p.errors import P2PError
from p2p.types import NetworkId, parse_network_id

PORT_MAX = 65_535
REACHABLE_MODES = ("auto", "yes", "no")


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What an operator says about one gateway.

    Attributes:
        data_dir: holds `identity.key`, `configuration.msgpack`, `settlement.journal`, `p2p.port`.
        network: the network's ID; never learned from a peer.
        bootstraps: multiaddresses that end in `/p2p/<peer ID>`.
        listen: multiaddresses to listen on for other peers.
        certificate: file with the gateway's certificate chain (`encode_messages` of its parts).
        binding: instead of it: an account's file that makes this gateway its own, for the account's
            own namespaces (`resultity account certify-gateway`).
        http_port: 0 takes a free one.
        mirrors: multiaddresses of mirrors that are asked about the ledger's log.
        announce: multiaddresses that others are told to dial instead of what is listened on.
        geoip_file: a MaxMind DB of countries (`.mmdb`), for subclouds that want members' addresses
            to be consistent with their countries.
        reachable: whether nodes are told to dial this gateway: `auto` asks the bootstrap to dial
            back, `yes` and `no` do as they say.
        pre_shared_key_file: the key of a network of one's own; None: the network has none.
        stop_grace_s: how long running answers may go on after a stop was asked for.
        use_leases: whether jobs may be paid from leases; if not, each gets a hold of its own.
    Raises: GatewaySetupError.
    """

    data_dir: Path
    network: str
    bootstraps: tuple[str, ...]
    certificate: Path | None = None
    binding: Path | None = None
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    http_host: str = "127.0.0.1"
    http_port: int = 8420
    stop_grace_s: float = STOP_GRACE_S
    use_leases: bool = True
    mirrors: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()
    reachable: str = "auto"
    geoip_file: Path | None = None
    pre_shared_key_file: Path | None = None

    def __post_init__(self) -> None:
        try:
            parse_network_id(self.network)
        except P2PError as error:
            raise GatewaySetupError(str(error), param="network") from error
        if (self.certificate is None) == (self.binding is None):
            raise GatewaySetupError(
                "a gateway needs a certificate of the authority or a binding of its account: "
                "give one of them",
                param="certificate",
            )
        if not self.bootstraps:
            raise GatewaySetupError("a gateway needs at least one bootstrap", param="bootstraps")
        for address in (*self.bootstraps, *self.listen, *self.mirrors, *self.announce):
            if not address.startswith("/"):
                raise GatewaySetupError(f"not a multiaddress: {address[:80]!r}")
        if not 0 <= self.http_port <= PORT_MAX:
            raise GatewaySetupError(f"an HTTP port is 0 to {PORT_MAX}, not {self.http_port}")
        if self.reachable not in REACHABLE_MODES:
            raise GatewaySetupError(f"reachable must be one of {', '.join(REACHABLE_MODES)}")
        if self.stop_grace_s < 0:
            raise GatewaySetupError("stop_grace_s is at least 0")

    @property
    def network_id(self) -> NetworkId:
        """The network's ID as a typed value."""
        return NetworkId(self.network)
