"""Owns a bootstrap's contribution points on a real ledger, with a clock that a test moves."""

from __future__ import annotations

from bootstrap.rcp_service import RcpService
from ledger.ledger import Ledger
from p2p.network_configuration import NetworkConfiguration, Rcp
from p2p.signing import KeyPair
from p2p.types import AccountId, PeerId
from tests.fakes import trust


class Points:
    """A service whose live nodes and configuration are what a test says."""

    def __init__(
        self, ledger: Ledger, clock_ms: object, pair: KeyPair = trust.BOOTSTRAP, **rules: int
    ) -> None:
        self.live: list[tuple[PeerId, AccountId]] = []
        self.configuration = NetworkConfiguration(
            network_id=trust.NETWORK, version=1, issued_ms=trust.START_MS, rcp=Rcp(**rules)
        )
        self.service = RcpService(
            ledger,
            pair,
            trust.bootstrap_chain(pair, lifetime_s=365 * trust.DAY_S),
            trust.NETWORK,
            lambda: self.configuration,
            lambda: self.live,
            clock_ms,  # type: ignore[arg-type]
        )
