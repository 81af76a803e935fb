"""Owns the bootstrap's settings: one frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p2p.errors import MalformedError
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

    Raises: MalformedError for values that cannot work.
    """

    data_dir: Path
    network: str
    certificate: Path
    configuration: Path
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    database_url: str | None = None
    mirror_of: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without touching the machine."""
        parse_network_id(self.network)
        if self.mirror_of is not None and "/p2p/" not in self.mirror_of:
            raise MalformedError("mirror_of is a multiaddress that ends in /p2p/<peer ID>")

    @property
    def network_id(self) -> NetworkId:
        """The network's ID, checked."""
        return parse_network_id(self.network)

    @property
    def ledger_url(self) -> str:
        """Where the ledger is kept."""
        return self.database_url or f"sqlite:///{self.data_dir / 'ledger.sqlite'}"
