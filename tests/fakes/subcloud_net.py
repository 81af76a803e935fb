"""Owns a small network in which policies spread: a bootstrap's directory and peers with books."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from p2p.call_service import handle_calls
from p2p.calls import CALLS_PROTOCOL, CallLink
from p2p.directory_records import directory_records
from p2p.membership import Membership
from p2p.memory_network import MemoryHub
from p2p.network import Network
from p2p.signing import KeyPair
from p2p.subclouds.directory_client import SubcloudDirectory
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.sync import SubcloudSync
from p2p.types import Role
from p2p.uplink import Uplink
from tests.fakes.subcloud_desk import SubcloudDesk
from tests.fakes.trust import BOOTSTRAP, NETWORK, bootstrap_chain, gateway_chain, membership

Opener = Callable[..., Any]
"""Opens a network: `(key pair, gate=..., record_check=...)`."""


def memory_opener(seed: int = 1) -> Opener:
    """Networks on one hub."""
    hub = MemoryHub(seed, delay_s=(0.0002, 0.001))
    return lambda pair, **options: hub.open(pair, NETWORK, **options)


def libp2p_opener() -> Opener:
    """Networks on loopback sockets."""
    from p2p.libp2p_adapter import open_libp2p_network

    return lambda pair, **options: open_libp2p_network(pair, NETWORK, **options)


@dataclass
class Member:
    """A peer that follows policies."""

    network: Network
    uplink: Uplink
    book: PolicyBook
    sync: SubcloudSync

    @property
    def directory(self) -> SubcloudDirectory:
        return SubcloudDirectory(self.uplink)

    def version(self, identity: SubcloudId) -> int:
        known = self.book.get(identity)
        return known.policy.version if known is not None else 0


class SubcloudNet:
    """Each peer is a task of one nursery; `join` brings one in."""

    def __init__(self, desk: SubcloudDesk, opener: Opener, nursery: trio.Nursery) -> None:
        self.desk = desk
        self._opener = opener
        self._nursery = nursery
        self.bootstrap: Network

    def _open(self, pair: KeyPair, gate: Membership) -> Any:
        check = directory_records(NETWORK, self.desk.clock)
        return self._opener(pair, gate=gate, record_check=check)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the bootstrap."""
        gate = membership(BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(), self.desk.clock)
        async with self._open(BOOTSTRAP, gate) as network:
            self.bootstrap = network
            handle_calls(network, CALLS_PROTOCOL, gate, self.desk.handlers)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.desk.parts.run, network)
                task_status.started()

    async def join(self, pair: KeyPair, folder: Path | None = None) -> Member:
        """Bring a peer in (a gateway; what it is makes no difference here)."""
        member: Member = await self._nursery.start(self._run_member, pair, folder)
        return member

    async def _run_member(
        self,
        pair: KeyPair,
        folder: Path | None,
        *,
        task_status: trio.TaskStatus[Member] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        gate = membership(pair, Role.GATEWAY, gateway_chain(pair), self.desk.clock)
        book = PolicyBook(NETWORK, folder, clock_ms=self.desk.clock)
        sync = SubcloudSync(book, lambda: self.desk.rules)

        async def greeting(link: CallLink) -> None:
            await sync.greet(link, link.link.remote)

        async with self._open(pair, gate) as network, trio.open_nursery() as nursery:
            uplink = Uplink(network, self.bootstrap.addresses(), greeting=greeting)
            nursery.start_soon(uplink.run)
            nursery.start_soon(sync.run, network, uplink)
            await uplink.wait_up()
            task_status.started(Member(network, uplink, book, sync))


@asynccontextmanager
async def open_net(desk: SubcloudDesk, opener: Opener) -> AsyncIterator[SubcloudNet]:
    """Run a bootstrap on a desk's directory."""
    async with trio.open_nursery() as nursery:
        net = SubcloudNet(desk, opener, nursery)
        await nursery.start(net.serve)
        yield net
        nursery.cancel_scope.cancel()
