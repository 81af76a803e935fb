"""Owns gateways for races on a real ledger: their keys, funding, leases and settlement, no HTTP."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import trio

from bootstrap.ledger_service import LedgerService
from bootstrap.notices import Notices as Told
from gateway.errors import CreditLeasedError, InsufficientQuotaError
from gateway.jobs import ChatJob, RequestSize
from gateway.peer.charging import JobOutcome
from gateway.peer.funding import Funding, admit
from gateway.peer.journal import SettlementJournal
from gateway.peer.key_rates import KeyRates
from gateway.peer.keys import KeyCache
from gateway.peer.leases import Leases
from gateway.peer.ledger_port import RemoteLedger
from gateway.peer.notices import Notices
from gateway.peer.services import Services
from gateway.peer.settlement import Settlement
from gateway.subclouds.placing import Placing
from ledger.client import LedgerClient
from ledger.lease_client import LeaseClient
from p2p.certificates import issue_certificate
from p2p.configuration_book import ConfigurationBook
from p2p.ledger_messages import CaptureLeg
from p2p.network_configuration import NetworkConfiguration, sign_configuration
from p2p.signing import KeyPair
from p2p.types import Role
from tests.fakes.ledger_desk import ACCOUNT, BOOTSTRAP, KEY, Desk, caller
from tests.fakes.ledger_world import AUTHORITY, GATEWAY_ACCOUNT, MINT, NETWORK, START_MS, key_pair

GATEWAYS = tuple(key_pair(30 + number) for number in range(4))


class Town:
    """A bootstrap's ledger service, and gateways that hear its notices."""

    def __init__(self, desk: Desk, folder: Path, *, lease_usable_s: int) -> None:
        self.desk = desk
        limits = desk.configuration.limits.model_copy(update={"lease_usable_s": lease_usable_s})
        self.configuration: NetworkConfiguration = desk.configuration.model_copy(
            update={"limits": limits}
        )
        desk.configuration = self.configuration
        chain = (
            issue_certificate(
                AUTHORITY,
                NETWORK,
                BOOTSTRAP.peer_id,
                Role.BOOTSTRAP,
                GATEWAY_ACCOUNT,
                issued_ms=START_MS,
                lifetime_s=10**6,
            ),
        )
        self.told = Told(BOOTSTRAP, chain, NETWORK, desk.clock_ms)
        service = LedgerService(
            desk.ledger,
            BOOTSTRAP,
            NETWORK,
            lambda: self.configuration,
            desk.clock_ms,
            desk.door,
            notices=self.told,
        )
        desk.handlers = service.handlers()
        self.gateways = [RaceGateway(self, pair, folder) for pair in GATEWAYS]

    async def publish(self, topic: str, data: bytes) -> None:
        """Deliver a notice, as gossip would."""
        for gateway in self.gateways:
            if gateway.alive:
                gateway.notices.take(data)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run everything."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.told.run, cast(Any, self))
            for gateway in self.gateways:
                nursery.start_soon(gateway.run)
            yield
            nursery.cancel_scope.cancel()

    async def fund(self, amount: int) -> None:
        """Make the namespace's balance exactly this much."""
        have = 100_000
        assert amount > have
        await self.desk.client(MINT).grant(
            self.desk.account_id, "dev", grant_id=secrets.token_bytes(16), amount=amount - have
        )

    async def revoke(self) -> None:
        """End the API key."""
        await self.desk.client(ACCOUNT).revoke_key(self.desk.account_id, KEY.key_id)

    @property
    def captured(self) -> int:
        """How many jobs were paid."""
        return sum(gateway.captured for gateway in self.gateways)


class RaceGateway:
    """One gateway's money, on the town's ledger."""

    def __init__(self, town: Town, pair: KeyPair, folder: Path) -> None:
        self.town = town
        self.pair = pair
        self.alive = True
        self.admitted = self.captured = self.leased = self.refused = self.told_leased = 0
        self._scope = trio.CancelScope()
        desk = town.desk
        call = desk.call_as(caller(pair))

        def trusts(public_key: bytes) -> bool:
            return public_key == BOOTSTRAP.public_key

        leases = LeaseClient(call, pair, NETWORK, desk.clock_ms, trusts=trusts)
        client = LedgerClient(call, pair, NETWORK, desk.clock_ms, trusts=trusts)
        ledger = RemoteLedger(client, leases, leases, lambda: {MINT.public_key})
        book = ConfigurationBook(NETWORK)
        book.offer(sign_configuration(AUTHORITY, town.configuration))
        folder.mkdir(exist_ok=True)
        journal = SettlementJournal(folder / f"{pair.peer_id}.journal")
        keys = KeyCache(ledger, now_s=trio.current_time, clock_ms=desk.clock_ms)
        member = (pair, NETWORK)
        options: dict[str, Any] = {
            "clock_ms": desk.clock_ms,
            "random_bytes": secrets.token_bytes,
        }
        settlement = Settlement(ledger, journal, *member, **options)
        self.leases = Leases(
            ledger,
            journal,
            keys,
            book,
            *member,
            issuer_chain=lambda issuer: (),
            now_s=trio.current_time,
            **options,
        )
        settlement.on_settled = self.leases.settled
        self.notices = Notices(
            NETWORK, keys, self.leases, is_banned=lambda peer: False, clock_ms=desk.clock_ms
        )
        self.services = Services(
            key_pair=pair,
            network=NETWORK,
            configuration=book,
            keys=keys,
            key_rates=KeyRates(now_s=trio.current_time),
            ledger=ledger,
            registry=cast(Any, None),
            sessions=cast(Any, None),
            settlement=settlement,
            leases=self.leases,
            placing=Placing(
                cast(Any, None),
                cast(Any, None),
                peer_id=pair.peer_id,
                account_of=lambda: GATEWAY_ACCOUNT,
                clock_ms=desk.clock_ms,
            ),
            now_s=trio.current_time,
            issuer_chain=lambda issuer: (),
            **options,
        )

    async def run(self) -> None:
        """Be a gateway until killed."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.services.settlement.run)
                nursery.start_soon(self.leases.run)

    def kill(self) -> None:
        """End at once: nothing is settled, nothing given back."""
        self.alive = False
        self._scope.cancel()

    # --- jobs -----------------------------------------------------------------------------------
    async def ask(self, *, running: trio.Event | None = None) -> bool:
        """One client's request, which uses all of its maximum. Returns: whether it was admitted."""
        funding = await admit(self.services, self._job())
        try:
            if funding.take_leased():
                self.leased += 1
            else:
                await funding.take_hold()
        except InsufficientQuotaError:
            self.refused += 1
            return False
        except CreditLeasedError:
            self.told_leased += 1
            return False
        self.admitted += 1
        with trio.move_on_after(float("inf") if running is not None else 0.002):
            await (trio.Event() if running is None else running).wait()
        if self.alive:
            owed = funding.owe(self._legs(funding), JobOutcome.COMPLETE)
            await funding.capture(owed, funding.quote.maximum)
            self.captured += 1
        return True

    @property
    def unpaid(self) -> int:
        """How many admitted jobs are not paid yet."""
        return self.admitted - self.captured

    async def maximum(self) -> int:
        """What each request costs."""
        return (await admit(self.services, self._job())).quote.maximum

    def _job(self) -> ChatJob:
        size = RequestSize(text_bytes=60, messages=1)
        return ChatJob(
            secrets.token_bytes(16), KEY, "tiny-chat", b"{}", bytes(32), False, size, 20, 1
        )

    def _legs(self, funding: Funding) -> tuple[CaptureLeg, ...]:
        world, quote = self.town.desk.world, funding.quote
        hold = world.hold(world.tenant(), 1, hold_id=funding.hold_id, gateway=self.pair)
        document = replace(hold.document, job_id=funding._job.job_id)
        leg = world.leg(
            replace(hold, document=document),
            input_tokens=quote.input_tokens_max,
            output_tokens=quote.output_tokens_max,
            gateway=self.pair,
        )
        return (leg[1],)
