"""Owns how a bootstrap's directory of subclouds is put together."""

from __future__ import annotations

from collections.abc import Callable

import trio

from bootstrap.subclouds.answers import WriteLimits, told
from bootstrap.subclouds.following import PrimaryFollower
from bootstrap.subclouds.invite_service import InviteService
from bootstrap.subclouds.invite_uses import LedgerInviteUses
from bootstrap.subclouds.join_service import JoinService
from bootstrap.subclouds.member_service import MemberService
from bootstrap.subclouds.policy_service import PolicyService
from bootstrap.subclouds.publishing import HasStake, Publisher, no_stakes
from bootstrap.subclouds.registry import SubcloudRegistry
from ledger.ledger import Ledger
from p2p.calls import CallHandler
from p2p.clock import Clock
from p2p.membership import Membership
from p2p.network import Network
from p2p.network_configuration import NetworkConfiguration
from p2p.subclouds.policy_book import PolicyBook
from p2p.uplink import Uplink


class SubcloudParts:
    """The directory of one bootstrap: its book, its calls, and what runs beside them."""

    def __init__(
        self,
        ledger: Ledger,
        membership: Membership,
        configuration: Callable[[], NetworkConfiguration],
        clock_ms: Clock,
        has_stake: HasStake = no_stakes,
    ) -> None:
        """Keep everything in the ledger's database."""
        network_id = membership.network
        self.registry = SubcloudRegistry(ledger, network_id, configuration, clock_ms)
        limits = WriteLimits()
        publisher = Publisher(self.registry, ledger, clock_ms, has_stake)
        self._follower = PrimaryFollower(self.registry, publisher)
        self._policies = PolicyService(self.registry, publisher, ledger, limits)
        self._joins = JoinService(self.registry, ledger, network_id, clock_ms, limits)
        self._members = MemberService(self.registry, ledger, network_id, clock_ms, limits)
        self._invites = InviteService(
            LedgerInviteUses(ledger),
            self.book,
            membership.key_pair,
            membership.chain,
            network_id,
            clock_ms,
        )

    @property
    def book(self) -> PolicyBook:
        """The policies that this bootstrap knows."""
        return self.registry.book

    def handlers(self) -> dict[str, CallHandler]:
        """The calls that members may make."""
        return {
            **self._policies.handlers(),
            **self._joins.handlers(),
            **self._members.handlers(),
            **told(self._invites.handlers()),
        }

    async def load(self) -> None:
        """Read the database; before calls are served. Raises: StorageError."""
        await self.registry.load()

    async def run(self, network: Network) -> None:
        """Follow the database and the network until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._policies.run, network)
            nursery.start_soon(self._members.run, network)

    async def follow(self, primary: Uplink) -> None:
        """Follow another bootstrap's directory, as a mirror does with its ledger."""
        await self._follower.run(primary)
