"""A bootstrap with its directory of subclouds and a node with its memberships, on one network."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from bootstrap.subclouds.parts import SubcloudParts
from ledger.ledger import Ledger
from ledger.operations import FoundAccount
from node.agent.agent import Agent
from node.subclouds.kept import MembershipFile
from node.subclouds.manager import Declarations, SubcloudManager
from node.subclouds.service import SubcloudService
from node.subclouds.settings import SubcloudSettings
from node.subclouds.wishes import Wishes, changing_wishes, wishes_path
from p2p.call_service import handle_calls
from p2p.calls import CALLS_PROTOCOL
from p2p.clock import Clock, system_clock_ms
from p2p.codec import Message, decode_message
from p2p.job_messages import JOBS_PROTOCOL
from p2p.ledger_messages import AccountFounding
from p2p.link import Link
from p2p.memory_network import MemoryHub
from p2p.network import Network
from p2p.signing import KeyPair, Signed, open_signed
from p2p.subclouds.directory_client import SubcloudDirectory
from p2p.subclouds.directory_messages import SubcloudJoinRequest, verify_join_request
from p2p.subclouds.memberships import (
    MEMBERSHIPS_TOPIC,
    MembershipStatement,
    verify_memberships,
)
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.requests import sign_request
from p2p.subclouds.sync import SubcloudSync
from p2p.types import Role
from p2p.uplink import Uplink
from tests.fakes import trust
from tests.fakes.clocks import START_MS
from tests.fakes.served_models import FakeModel, FakeModels
from tests.fakes.subcloud_owners import Owner
from tests.fakes.trust import BOOTSTRAP, GATEWAY, NETWORK, NODE

Opener = Callable[..., Any]
NOTHING = Wishes()


def memory_opener() -> Opener:
    """Peers on one hub."""
    hub = MemoryHub(1, delay_s=(0.0002, 0.001))
    return lambda pair, gate: hub.open(pair, NETWORK, gate=gate, record_check=_sequence)


def libp2p_opener() -> Opener:
    """Peers on loopback sockets."""
    from p2p.libp2p_adapter import open_libp2p_network

    return lambda pair, gate: open_libp2p_network(pair, NETWORK, gate=gate, record_check=_sequence)


def _sequence(key: bytes, value: bytes) -> int:
    return 0


class MemberNetwork:
    """The pieces; time goes on as the system's does."""

    def __init__(self, folder: Path) -> None:
        """The owner has the accounts, keys and label of `cloud-1`; the node's files are here."""
        self.folder = folder
        began_ms = system_clock_ms()
        self.clock_ms: Clock = lambda: START_MS + system_clock_ms() - began_ms
        self.owner = Owner(1, 1, random.Random(1))
        self.model = FakeModel(None)  # type: ignore[arg-type]
        self.book = trust.book_with()
        self.parts: SubcloudParts
        self.node: Network
        self.uplink: Uplink
        self.manager: SubcloudManager
        self.service: SubcloudService
        self.gateway: Network
        self.heard: list[MembershipStatement] = []

    def _membership(self, pair: KeyPair, role: Role, chain: Any) -> Any:
        return trust.membership(pair, role, chain, self.clock_ms, book=self.book)  # type: ignore[arg-type]

    @asynccontextmanager
    async def running(
        self, opener: Opener, settings: SubcloudSettings, wishes: Wishes = NOTHING
    ) -> AsyncIterator[MemberNetwork]:
        """Run all of them while the block runs."""
        bootstrap = self._membership(BOOTSTRAP, Role.BOOTSTRAP, trust.bootstrap_chain())
        gateway = self._membership(GATEWAY, Role.GATEWAY, trust.gateway_chain())
        node = self._membership(NODE, Role.NODE, trust.node_chain())
        self.tell(lambda _: wishes)
        url = f"sqlite:///{self.folder}/ledger.sqlite"
        ledger = Ledger(url, NETWORK, clock_ms=self.clock_ms)
        async with trio.open_nursery() as outer:
            await outer.start(ledger.run)
            founding = self.owner.account.founding
            document = open_signed(founding, AccountFounding, NETWORK)
            await ledger.submit(FoundAccount(founding, document))
            async with (
                opener(BOOTSTRAP, bootstrap) as there,
                opener(GATEWAY, gateway) as listener,
                opener(NODE, node) as self.node,
                trio.open_nursery() as nursery,
            ):
                current = self.book.current
                self.parts = SubcloudParts(ledger, bootstrap, lambda: current, self.clock_ms)
                await self.parts.load()
                handle_calls(there, CALLS_PROTOCOL, bootstrap, self.parts.handlers())
                nursery.start_soon(self.parts.run, there)
                address = there.addresses()[0]
                await listener.connect(address)
                nursery.start_soon(self._listen, listener)
                self.gateway = listener
                self.uplink = Uplink(self.node, (address,))
                await nursery.start(self.uplink.run)
                await self.uplink.wait_up()
                self._make(node, settings)
                self.node.handle(JOBS_PROTOCOL, self._agent(node).serve)
                await nursery.start(self.service.run, self.node, self.uplink)
                yield self
                nursery.cancel_scope.cancel()
            outer.cancel_scope.cancel()

    def _make(self, membership: Any, settings: SubcloudSettings) -> None:
        policies = PolicyBook(NETWORK, clock_ms=self.clock_ms)
        self.manager = SubcloudManager(
            membership,
            self.book,
            policies,
            MembershipFile(self.folder / "subclouds"),
            settings,
            Declarations("DE"),
            clock_ms=self.clock_ms,
        )
        self.manager.models = lambda: [self.model]
        sync = SubcloudSync(policies, lambda: self.book.current.subclouds)
        path = wishes_path(self.folder)
        self.service = SubcloudService(self.manager, sync, membership, path, clock_ms=self.clock_ms)

    def _agent(self, membership: Any) -> Agent:
        return Agent(
            key_pair=NODE,
            network=NETWORK,
            membership=membership,
            configuration=self.book,
            models=FakeModels([self.model]),
            queue_jobs_max=2,
            clock_ms=self.clock_ms,
            subclouds=self.manager,
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[tuple[Link, list[Message]]]:
        """A gateway's job session with the node, and what came over it."""
        await self.gateway.connect(self.node.addresses()[0])
        link = Link(await self.gateway.open_stream(NODE.peer_id, JOBS_PROTOCOL))
        came: list[Message] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run, came.extend)
            yield link, came
            nursery.cancel_scope.cancel()

    async def _listen(self, network: Network) -> None:
        async for item in network.subscribe(MEMBERSHIPS_TOPIC):
            known = verify_memberships(decode_message(item.data, Signed), NETWORK, self.clock_ms())
            self.heard.append(known.statement)

    # --- the owner and the operator ---------------------------------------------------------------
    @property
    def directory(self) -> SubcloudDirectory:
        """The bootstrap's directory, as the node reaches it."""
        return SubcloudDirectory(self.uplink)

    async def publish(self, **fields: Any) -> str:
        """The owner's next version, handed to the bootstrap; gives its digest."""
        version = self.owner.publish(self.clock_ms(), **{"callers": {"anyone": True}} | fields)
        await self.directory.publish(version.record)
        return version.digest

    async def requests(self) -> list[SubcloudJoinRequest]:
        """What asks to join, as the owner's delegate sees it."""
        question = sign_request(
            self.owner.delegate, NETWORK, self.owner.identity, "requests", self.clock_ms()
        )
        found = await self.directory.requests(question)
        return [verify_join_request(s, NETWORK, self.clock_ms()).request for s in found]

    async def revoke(self, *, banned: bool = False) -> None:
        """The delegate's next revocation list."""
        if banned:
            self.owner.banned.add(NODE.peer_id)
        await self.directory.put_revocations(self.owner.revocation_list(self.clock_ms()))

    def tell(self, change: Callable[[Wishes], Wishes]) -> None:
        """What the operator says by a command."""
        with changing_wishes(wishes_path(self.folder)) as box:
            box[0] = change(box[0])

    def state(self) -> str:
        """Where the node stands as to the owner's subcloud."""
        found = (f for f in self.manager.findings if f.identity == self.owner.identity)
        return next((str(finding.state) for finding in found), "")

    def last_heard(self) -> tuple[str, ...]:
        """The subclouds in the newest statement that came by gossip."""
        if not self.heard:
            return ()
        newest = max(self.heard, key=lambda statement: statement.sequence)
        return tuple(membership.subcloud_id for membership in newest.memberships)
