"""Owns how a gateway's part in subclouds is put together, and what of it runs.

The policies that it knows (kept on disk, current by gossip and its bootstrap), the memberships of
nodes, what supports their words, how they did, and the index over all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import trio

from gateway.app_peer import Peer
from gateway.bridge import Bridge
from gateway.limits import JOINS_INTERVAL_S
from gateway.peer.registry import Registry
from gateway.peer.sessions import Sessions
from gateway.settings import GatewaySettings
from gateway.subclouds.conduct_feed import ConductFeed, UplinkConductSource
from gateway.subclouds.directory import SubcloudDirectory
from gateway.subclouds.evidence import EvidenceDesk
from gateway.subclouds.evidence_work import EvidenceWork, open_geo_file
from gateway.subclouds.members import Member
from gateway.subclouds.names import Names
from gateway.subclouds.placing import Placing
from gateway.subclouds.view import GatewaySubclouds
from p2p.calls import CallLink
from p2p.certificates import Certificate
from p2p.codec import decode_message
from p2p.errors import P2PError, RefusedError
from p2p.network import Network
from p2p.signing import Signed
from p2p.subclouds.directory_client import SubcloudDirectory as DirectoryClient
from p2p.subclouds.facts import NodeFacts, Standing
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.landmarks import serve_landmark
from p2p.subclouds.memberships import MEMBERSHIPS_TOPIC
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.statement_intake import StatementIntake
from p2p.subclouds.sync import SubcloudSync
from p2p.types import AccountId, PeerId
from p2p.uplink import Uplink

log = logging.getLogger(__name__)


class Subclouds:
    """A gateway's part in subclouds."""

    def __init__(self, settings: GatewaySettings, peer: Peer, network: Network, registry: Registry):
        """Load what is known of policies; nothing is known of nodes yet."""
        self._peer = peer
        self._network = network
        self._registry = registry
        self._conduct: ConductFeed | None = None
        self.policies = PolicyBook(
            peer.network, settings.data_dir / "policies", clock_ms=peer.clock_ms
        )
        self.sync = SubcloudSync(self.policies, lambda: peer.configuration.current.subclouds)
        self.address_of: Callable[[PeerId], str] = lambda peer_id: ""
        self.evidence = EvidenceDesk(
            peer.network,
            peer.configuration,
            advert_of=lambda node: entry.known if (entry := registry.entry(node)) else None,
            address_of=lambda node: self.address_of(node),
            revocations_of=lambda known: self.policies.revocations(known.identity),
            clock_ms=peer.clock_ms,
            geo=open_geo_file(settings.geoip_file),
            conduct=self._with_conduct,
        )
        self.directory = SubcloudDirectory(
            self.policies, network=peer.network, facts=self.evidence, clock_ms=peer.clock_ms
        )
        self.evidence_work = EvidenceWork(
            network,
            peer.key_pair,
            self.directory,
            self.evidence,
            peer.configuration,
            chain=lambda: peer.chain,
            account_id=self.account_id,
            clock_ms=peer.clock_ms,
        )
        serve_landmark(network, peer.key_pair, peer.configuration, peer.clock_ms)
        registry.on_node = self.directory.node_changed
        registry.is_needed = self.directory.is_needed
        peer.configuration.on_change(self.directory.configure)

    def _with_conduct(
        self, known: KnownPolicy, standing: Standing, facts: NodeFacts, now_ms: int
    ) -> Standing:
        feed = self._conduct
        return feed.add_to(known, standing, facts, now_ms) if feed is not None else standing

    def account_id(self) -> AccountId:
        """Whose this gateway is, by its own certificate."""
        chain = self._peer.membership.chain
        return decode_message(chain[0].body, Certificate).account_id if chain else AccountId("")

    def placing(self, uplink: Uplink) -> Placing:
        """Make what says where jobs belong."""
        names = Names(
            self.sync,
            lambda name: self.sync.fetch(self._network, uplink, name),
            now_s=trio.current_time,
        )
        return Placing(
            self.directory,
            names,
            peer_id=self._peer.key_pair.peer_id,
            account_of=self.account_id,
            clock_ms=self._peer.clock_ms,
        )

    def view(self, bridge: Bridge, placing: Placing) -> GatewaySubclouds:
        """Make what is shown of subclouds."""
        book = self._peer.configuration
        return GatewaySubclouds(
            bridge,
            self.directory,
            placing.names,
            self._registry,
            placing.tally,
            lambda: book.current if book.known else None,
            self._peer.clock_ms,
        )

    def followed(self) -> Iterator[tuple[KnownPolicy, Mapping[PeerId, Member]]]:
        """The policies that have members, with these."""
        for known in self.policies.all():
            members = self.directory.members(known.identity)
            if members:
                yield known, members

    # --- what runs ------------------------------------------------------------------------------
    async def greet(self, link: CallLink) -> None:
        """Ask a bootstrap for what we missed. Raises: P2PError."""
        try:
            await self.sync.greet(link, link.link.remote)
            await self._ask_memberships(link)
        except RefusedError as error:
            log.warning("the bootstrap tells nothing of subclouds: %s", error)

    async def _ask_memberships(self, link: CallLink) -> None:
        client, after = DirectoryClient(link), ""
        while page := await client.memberships(after=after):
            for signed in page:
                self.directory.take_quietly(signed)
            if page[-1].peer_id <= after:
                break
            after = page[-1].peer_id

    async def run(self, uplink: Uplink, sessions: Sessions) -> None:
        """Keep all of it current until cancelled."""
        sessions.on_statement = self.directory.take_quietly
        sessions.on_session = self.directory.node_changed
        self.address_of = sessions.direct_address
        source = UplinkConductSource(uplink, self._peer.network)
        self._conduct = feed = ConductFeed(
            source, self.followed, self._peer.clock_ms, self.directory.node_changed
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sync.run, self._network, uplink)
            nursery.start_soon(self.directory.run)
            nursery.start_soon(self._follow_memberships)
            nursery.start_soon(self._follow_joins, uplink)
            nursery.start_soon(feed.run)
            nursery.start_soon(self.evidence_work.run)

    async def _follow_memberships(self) -> None:
        intake = StatementIntake()
        async for item in self._network.subscribe(MEMBERSHIPS_TOPIC):
            try:
                signed = decode_message(item.data, Signed)
                if intake.admits(signed, item.author, trio.current_time()):
                    self.directory.take_quietly(signed)
            except P2PError as error:
                log.debug("not a membership statement, from %s: %s", item.author, error)

    async def _follow_joins(self, uplink: Uplink) -> None:
        """Ask now and then since when members are in, and when they left, where that matters."""
        while True:
            await uplink.wait_up()
            for known, members in list(self.followed()):
                policy = known.policy
                if policy.cooldown_s or len(members) > policy.members_max:
                    try:
                        await self._ask_joins(DirectoryClient(uplink), known.identity)
                    except P2PError as error:
                        log.info("the members of %s were not told: %s", known.identity, error)
            await trio.sleep(JOINS_INTERVAL_S)

    async def _ask_joins(self, client: DirectoryClient, identity: SubcloudId) -> None:
        after = ""
        while page := await client.members(identity, after):
            for entry in page:
                self.directory.member_seen(identity, entry.peer_id, entry.joined_ms, entry.left_ms)
            if page[-1].peer_id <= after:
                break
            after = page[-1].peer_id
