"""Owns the bootstrap's settings: one frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p2p.errors import MalformedError
from p2p.limits import (
    RELAY_BYTES_PER_DAY_MAX,
    RELAY_CIRCUIT_BYTES_MAX,
    RELAY_CIRCUITS_MAX,
    RELAY_RESERVATIONS_MAX,
)
from p2p.reaching.relay import RelayCaps
from p2p.types import NetworkId, parse_network_id


@dataclass(frozen=True, slots=True)
class BootstrapSettings:
    """What a network operator decides.

    Attributes:
        network: the network's ID (`resultity network show`).
        certificate: file with this bootstrap's certificate chain, signed by the authority.
        configuration: file with the signed network configuration; read again when it changes.
        database_url: of the ledger; None keeps it in the data folder (SQLite).
        mirror_of: the address of a bootstrap, ending in `/p2p/<peer ID>`, whose ledger is followed
            and only read here; None keeps a ledger of one's own.
        announce: multiaddresses that others are told to dial instead of what is listened on.
        pre_shared_key_file: the key of a network of one's own; None: the network has none.
        relay: whether hidden nodes are relayed, within the bounds below (bytes in both directions).

    Raises: MalformedError for values that cannot work.
    """

    data_dir: Path
    network: str
    certificate: Path
    configuration: Path
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    database_url: str | None = None
    mirror_of: str | None = None
    announce: tuple[str, ...] = ()
    pre_shared_key_file: Path | None = None
    relay: bool = True
    relay_bytes_per_day_max: int = RELAY_BYTES_PER_DAY_MAX
    relay_circuit_bytes_max: int = RELAY_CIRCUIT_BYTES_MAX
    relay_circuits_max: int = RELAY_CIRCUITS_MAX
    relay_reservations_max: int = RELAY_RESERVATIONS_MAX

    def __post_init__(self) -> None:
        """Check what can be checked without touching the machine."""
        parse_network_id(self.network)
        if self.mirror_of is not None and "/p2p/" not in self.mirror_of:
            raise MalformedError("mirror_of is a multiaddress that ends in /p2p/<peer ID>")
        for name in (
            "relay_bytes_per_day_max",
            "relay_circuit_bytes_max",
            "relay_circuits_max",
            "relay_reservations_max",
        ):
            if not 1 <= getattr(self, name) <= 2**53:
                raise MalformedError(f"{name} must be from 1 to 2^53; `relay = false` relays none")

    @property
    def network_id(self) -> NetworkId:
        """The network's ID, checked."""
        return parse_network_id(self.network)

    @property
    def relay_caps(self) -> RelayCaps:
        """What the relay gives at most."""
        return RelayCaps(
            bytes_per_day=self.relay_bytes_per_day_max,
            bytes_per_circuit=self.relay_circuit_bytes_max,
            circuits=self.relay_circuits_max,
            reservations=self.relay_reservations_max,
        )

    @property
    def ledger_url(self) -> str:
        """Where the ledger is kept."""
        return self.database_url or f"sqlite:///{self.data_dir / 'ledger.sqlite'}"
