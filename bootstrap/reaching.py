"""Owns what a bootstrap does so that nodes which cannot be dialled are reached."""

from __future__ import annotations

from bootstrap.gateway_directory import GatewayDirectory
from bootstrap.reach_service import ReachService
from bootstrap.settings import BootstrapSettings
from p2p.calls import CallHandler
from p2p.clock import Clock
from p2p.membership import Membership
from p2p.network import Network
from p2p.reaching.relay import Relay


class ReachingParts:
    """The gateways' statements, the reachability check, and the relay if it is offered."""

    def __init__(
        self,
        settings: BootstrapSettings,
        network: Network,
        membership: Membership,
        clock_ms: Clock,
    ) -> None:
        """Serve the relay from now on."""
        self._network = network
        self._gateways = GatewayDirectory(settings.network_id, clock_ms=clock_ms)
        self._reach = ReachService(network)
        if settings.relay:
            caps = settings.relay_caps
            Relay(network, membership.certificate_of, caps, clock_ms=clock_ms).register()

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return {**self._gateways.handlers(), **self._reach.handlers()}

    async def run(self) -> None:
        """Listen to gateways until cancelled."""
        await self._gateways.run(self._network)
