"""Owns the gateways of a simulation: the gateway's own directory, placing and routing, without HTTP
and money. One of them is a rogue that offers whatever it likes to whom it likes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from gateway.errors import GatewayError
from gateway.jobs import ChatJob, RequestSize
from gateway.peer.registry import Registry
from gateway.peer.routing import Wanted, choose
from gateway.subclouds.directory import SubcloudDirectory
from gateway.subclouds.evidence import EvidenceDesk
from gateway.subclouds.names import Names
from gateway.subclouds.placing import Place, Placing
from gateway.subclouds.selection import candidates_of, with_fallback
from p2p.api_keys import new_api_key
from p2p.clock import Clock
from p2p.codec import decode_message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError, RefusedError
from p2p.job_messages import Offer
from p2p.ledger_messages import KeyRecord
from p2p.network import Network
from p2p.prices import PriceTerms
from p2p.signing import KeyPair, Signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import MEMBERSHIPS_TOPIC
from p2p.subclouds.policy_book import PolicyBook
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.sync import SubcloudSync
from p2p.types import AccountId, PeerId
from tests.fakes import trust
from tests.fakes.subcloud_bootstrap import SimBootstrap, SimLink

ATTEMPTS_MAX = 6
KEY = new_api_key(bytes(42))
RECORD = KeyRecord(KEY.key_id, trust.SOME_ACCOUNT, "dev", "", 0, (), 10**9, 60.0)
OfferTo = Callable[["SimGateway", PeerId, Offer], Awaitable[str]]
"""Brings an offer to a node: the code of its refusal, or empty. Raises: P2PError."""


@dataclass
class Job:
    """One request; `subcloud` is empty for the global pool."""

    number: int
    subcloud: SubcloudId
    model: str
    submitted_ms: int
    ran: list[PeerId] = field(default_factory=list)
    refusal: str = ""

    def request(self) -> ChatJob:
        """As the HTTP side would give it."""
        return ChatJob(
            job_id=self.number.to_bytes(16, "big"),
            key=KEY,
            model=f"{self.model}@{self.subcloud or 'global'}",
            request=b"{}",
            body_hash=bytes(32),
            streaming=False,
            size=RequestSize(2, 1),
            max_tokens=8,
            seed=1,
        )


class _Geo:
    """A GeoIP file that knows where everybody is: addresses are peer IDs here."""

    def __init__(self, countries: dict[str, str]) -> None:
        self.country_of = lambda address: countries.get(address, "")


class SimGateway:
    """One gateway."""

    def __init__(
        self,
        key: KeyPair,
        configuration: ConfigurationBook,
        bootstrap: SimBootstrap,
        countries: dict[str, str],
        offer_to: OfferTo,
        clock_ms: Clock,
    ) -> None:
        self.key = key
        self.clock_ms = clock_ms
        self.configuration = configuration
        self.bootstrap = bootstrap
        self.offer_to = offer_to
        self.book = PolicyBook(trust.NETWORK, clock_ms=clock_ms)
        self.learnt_ms: dict[SubcloudId, int] = {}
        """Since when the newest known version is known here."""
        self.replaced: dict[SubcloudId, str] = {}
        """The digest of the version that was known here before it."""
        self._versions: dict[SubcloudId, str] = {}
        self.book.on_change(self._learnt)
        self.sync = SubcloudSync(self.book, lambda: configuration.current.subclouds)
        self.registry = Registry(trust.NETWORK, now_s=trio.current_time, clock_ms=clock_ms)
        self.registry.configure(configuration.current)
        self.network: Network | None = None
        desk = EvidenceDesk(
            trust.NETWORK,
            configuration,
            advert_of=self._advert_of,
            address_of=lambda peer_id: peer_id,
            revocations_of=lambda known: self.book.revocations(known.identity),
            clock_ms=clock_ms,
            geo=_Geo(countries),  # type: ignore[arg-type]
        )
        self.directory = SubcloudDirectory(
            self.book, network=trust.NETWORK, facts=desk, clock_ms=clock_ms
        )
        self.directory.configure(configuration.current)
        self.registry.on_node = self.directory.node_changed
        self.link = SimLink(bootstrap, key.peer_id)
        self.placing = Placing(
            self.directory,
            Names(self.sync, self._fetch, now_s=trio.current_time),
            peer_id=key.peer_id,
            account_of=lambda: AccountId(trust.SOME_ACCOUNT),
            clock_ms=clock_ms,
        )

    @property
    def peer_id(self) -> PeerId:
        """Its ID."""
        return self.key.peer_id

    def _learnt(self, identity: SubcloudId) -> None:
        known = self.book.get(identity)
        if known is not None and self._versions.get(identity) != known.digest:
            if identity in self._versions:
                self.replaced[identity] = self._versions[identity]
            self._versions[identity] = known.digest
            self.learnt_ms[identity] = self.clock_ms()

    async def _fetch(self, name: str) -> KnownPolicy:
        assert self.network is not None
        return await self.sync.fetch(self.network, self.link, name)  # type: ignore[arg-type]

    def _advert_of(self, peer_id: PeerId):  # type: ignore[no-untyped-def]
        entry = self.registry.entry(peer_id)
        return entry.known if entry is not None else None

    # --- what it hears ----------------------------------------------------------------------------
    async def run(self, network: Network) -> None:
        """Follow policies and statements until cancelled."""
        self.network = network
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sync.run, network, self.link)
            nursery.start_soon(self._greet)
            nursery.start_soon(self._listen, network)
            nursery.start_soon(self.directory.run)

    async def _greet(self) -> None:
        while True:
            await self.link.wait_up()
            try:
                await self.sync.greet(self.link, self.bootstrap.peer_id)  # type: ignore[arg-type]
            except P2PError:
                await trio.sleep(1)
                continue
            while self.link.bootstrap is not None:
                await self.link.wait_changed()

    async def _listen(self, network: Network) -> None:
        async for item in network.subscribe(MEMBERSHIPS_TOPIC):
            self.directory.take_quietly(decode_message(item.data, Signed))

    def hear(self, peer_id: PeerId, advert: Signed, statement: Signed | None) -> None:
        """A node's session: its advert and its statement."""
        self.registry.add_quietly(advert)
        if statement is not None:
            self.directory.take_quietly(statement, peer_id)
        self.registry.connected(peer_id, True)
        self.directory.node_changed(peer_id)

    def lost(self, peer_id: PeerId) -> None:
        """A node's session has ended."""
        self.registry.connected(peer_id, False)

    # --- jobs -------------------------------------------------------------------------------------
    async def run_job(self, job: Job) -> bool:
        """Place and route a job. Returns: whether it ran; else `job.refusal` says why not."""
        try:
            place = await self.placing.place(job.request(), RECORD)
        except GatewayError as error:
            job.refusal = f"{error.code}: {error}"
            return False
        configuration = self.configuration.current
        model = place.model_in(configuration)
        if model is None:
            job.refusal = "no such model"
            return False
        wanted = Wanted(bytes.fromhex(model.digest), 8)
        now_s, now_ms = trio.current_time(), self.clock_ms()
        place = with_fallback(
            place, wanted, self.registry, self.directory, now_s=now_s, now_ms=now_ms
        )
        model = place.model_in(configuration)
        if model is None:
            job.refusal = "no such model in the global pool"
            return False
        terms = place.terms(configuration, model)
        return await self._attempts(job, place, wanted, terms)

    async def _attempts(self, job: Job, place: Place, wanted: Wanted, terms: PriceTerms) -> bool:
        tried: set[PeerId] = set()
        codes: list[str] = []
        while len(tried) < ATTEMPTS_MAX:
            candidates = candidates_of(
                self.registry, self.directory, place.identity, wanted.model_digest
            )
            choice = choose(
                wanted,
                candidates,
                tried=tried,
                now_s=trio.current_time(),
                now_ms=self.clock_ms(),
            )
            if choice.candidate is None:
                break
            peer_id = choice.candidate.peer_id
            tried.add(peer_id)
            offer = self.make_offer(job.number, peer_id, wanted.model_digest, terms)
            try:
                code = await self.offer_to(self, peer_id, offer)
            except P2PError as error:
                codes.append(str(error))
                continue
            if not code:
                job.ran.append(peer_id)
                return True
            codes.append(code)
            if code in ("not_member", "isolated"):
                self.directory.denied(peer_id, place.identity)
        job.refusal = ", ".join(codes) or "no member"
        return False

    def make_offer(self, number: int, node: PeerId, model: bytes, terms: PriceTerms) -> Offer:
        """An offer as the gateway makes it, unsigned: the hub says who sends it."""
        now_ms = self.clock_ms()
        request = b"{}"
        return Offer(
            job_id=number.to_bytes(16, "big"),
            attempt=0,
            gateway_id=self.peer_id,
            node_id=node,
            hold_id=bytes(16),
            model_digest=model,
            request_hash=hashlib.sha256(request).digest(),
            request=request,
            input_tokens_max=1,
            output_tokens_max=1,
            terms=terms,
            maximum=10**6,
            issued_ms=now_ms,
            deadline_ms=now_ms + 30_000,
            seed=1,
        )

    # --- the rogue --------------------------------------------------------------------------------
    async def send_rubbish(
        self, chance: random.Random, nodes: list[PeerId], terms: PriceTerms, model: bytes
    ) -> None:
        """Offer a job to anybody, under any terms."""
        peer_id = chance.choice(nodes)
        offer = self.make_offer(chance.getrandbits(60) | 1 << 61, peer_id, model, terms)
        try:
            await self.offer_to(self, peer_id, offer)
        except (P2PError, RefusedError):
            return
