"""Owns a bootstrap's directory of subclouds on a real ledger, called without a network."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from bootstrap.subclouds.parts import SubcloudParts
from bootstrap.subclouds.publishing import HasStake, no_stakes
from ledger.ledger import Ledger
from ledger.store.database import open_engine, prepare
from p2p.calls import Caller
from p2p.certificates import Certificate
from p2p.codec import decode_message
from p2p.errors import RefusedError
from p2p.network_configuration import NetworkConfiguration
from p2p.signing import KeyPair, Signed
from p2p.subcloud_rules import SubcloudRules
from p2p.subclouds.directory_client import SubcloudDirectory
from p2p.subclouds.directory_messages import SubcloudJoinRequest
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import Membership, MembershipCertificate, MembershipStatement
from p2p.types import Role
from tests.fakes.clocks import FakeClock
from tests.fakes.policy_owners import DELEGATE, PolicyOwner
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    NETWORK,
    SOME_ACCOUNT,
    book_with,
    bootstrap_chain,
    configuration,
    membership,
    node_chain,
)

HOUR_MS = 3_600_000


class SubcloudDesk:
    """One bootstrap's directory; `as_peer` asks as a peer."""

    def __init__(self, ledger: Ledger, clock: FakeClock, has_stake: HasStake = no_stakes) -> None:
        self.ledger = ledger
        self.clock = clock
        self.rules = SubcloudRules()
        self._configuration = book_with(configuration())
        gate = membership(BOOTSTRAP, Role.BOOTSTRAP, bootstrap_chain(), clock)
        self.parts = SubcloudParts(ledger, gate, self.current, clock, has_stake)
        self.handlers = self.parts.handlers()

    def current(self) -> NetworkConfiguration:
        return self._configuration.current.model_copy(update={"subclouds": self.rules})

    def as_peer(self, pair: KeyPair = GATEWAY, role: Role = Role.GATEWAY) -> SubcloudDirectory:
        certificate = Certificate(
            NETWORK, pair.peer_id, role, SOME_ACCOUNT, self.clock(), self.clock() + HOUR_MS
        )
        caller, handlers = Caller(pair.peer_id, certificate), self.handlers

        class Link:
            async def call(self, method: str, body: bytes) -> bytes:
                return await handlers[method](caller, body)

        return SubcloudDirectory(Link())

    async def found(self, *owners: PolicyOwner) -> None:
        for owner in owners:
            await self.ledger.submit(owner.founding)


@functools.cache
def _prepared() -> bytes:
    """An empty SQLite ledger: its tables are made once, not for each test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.sqlite"
        engine = open_engine(f"sqlite:///{path}", writer=True)
        prepare(engine, NETWORK)
        engine.dispose()
        return path.read_bytes()


def _fill_empty(url: str) -> None:
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:") and not file.exists():
        file.write_bytes(_prepared())


@asynccontextmanager
async def open_desk(
    url: str, clock: FakeClock | None = None, **options: Any
) -> AsyncIterator[SubcloudDesk]:
    """Run a ledger with a directory beside it."""
    time = clock or FakeClock()
    _fill_empty(url)
    async with trio.open_nursery() as nursery:
        ledger = Ledger(url, NETWORK, clock_ms=time)
        await nursery.start(ledger.run)
        desk = SubcloudDesk(ledger, time, **options)
        await desk.parts.load()
        yield desk
        nursery.cancel_scope.cancel()


# --- what nodes and delegates sign ----------------------------------------------------------------
def join_request(
    node: KeyPair, identity: SubcloudId, now_ms: int, *, withdrawn: bool = False
) -> Signed:
    return node.sign(
        NETWORK,
        SubcloudJoinRequest(
            identity,
            node.peer_id,
            now_ms,
            now_ms + HOUR_MS,
            node_chain(node),
            "please",
            withdrawn,
        ),
    )


def certificate_for(
    node: KeyPair,
    identity: SubcloudId,
    now_ms: int,
    *,
    signer: KeyPair = DELEGATE,
    lifetime_ms: int = HOUR_MS,
) -> Signed:
    return signer.sign(
        NETWORK,
        MembershipCertificate(bytes(16), identity, node.peer_id, now_ms, now_ms + lifetime_ms),
    )


def statement(
    node: KeyPair, sequence: int, now_ms: int, *memberships: tuple[SubcloudId, Signed | None]
) -> Signed:
    return node.sign(
        NETWORK,
        MembershipStatement(
            node.peer_id,
            sequence,
            now_ms,
            now_ms + 300_000,
            node_chain(node),
            tuple(
                Membership(identity, bytes(32), now_ms, False, certificate)
                for identity, certificate in memberships
            ),
        ),
    )


def certificates_in(answers: list[Signed]) -> list[MembershipCertificate]:
    return [decode_message(answer.body, MembershipCertificate) for answer in answers]


async def refused(code: str, wait: Awaitable[object]) -> RefusedError:
    """See that a call is refused with a code."""
    with pytest.raises(RefusedError) as refusal:
        await wait
    assert refusal.value.code == code, refusal.value
    return refusal.value
