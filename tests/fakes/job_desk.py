"""Owns a job session for tests: a runtime by hand, a node's agent, and the gateway's side."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import trio
import trio.testing

from node.agent.admission_rules import NO_RULES, OperatorRules
from node.agent.agent import Agent
from node.agent.runtime_port import JobSink, PreparedJob, WorkFacts
from node.errors import NodeError
from p2p.certificates import Chain, verify_chain
from p2p.codec import Message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError
from p2p.job_messages import (
    DeliveryCount,
    DeliveryFrame,
    LoadReport,
    Offer,
    OfferFrame,
    VoucherFrame,
)
from p2p.ledger_messages import Voucher
from p2p.link import Link
from p2p.membership import Membership
from p2p.network_configuration import price_terms
from p2p.prices import charge
from p2p.signing import KeyPair, Signed
from p2p.types import NetworkId, Role
from tests.fakes.clocks import START_MS, FakeClock
from tests.fakes.served_models import FakeModel, FakeModels
from tests.fakes.streams import MemoryStream, stream_pair
from tests.fakes.trust import (
    BOOTSTRAP,
    GATEWAY,
    MODEL,
    MODEL_DIGEST,
    NETWORK,
    NODE,
    book_with,
    bootstrap_chain,
    gateway_chain,
    membership,
    node_chain,
)

INPUT_TOKENS = 7
REQUEST = b'{"messages": []}'
T = TypeVar("T", bound=Message)


WORK = WorkFacts("a build 0123", "reproducible", bytes([3]) * 32)


@dataclass
class FakeRuntime:
    """A `node.agent.sessions.Runtime` whose output is given by the test."""

    error: NodeError | None = None
    input_tokens: int = INPUT_TOKENS
    hold_back: trio.Event | None = None
    prepared: dict[int, tuple[bytes, int, int, tuple[int, ...]]] = field(default_factory=dict)
    asked: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    """Task and cache scope."""
    sinks: dict[int, JobSink] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    ends_by_itself: bool = True
    work: WorkFacts = WORK

    async def prepare(
        self,
        request: bytes,
        *,
        output_tokens_max: int,
        seed: int,
        resume_tokens: tuple[int, ...],
        cache_scope: bytes,
        task: str = "chat",
    ) -> PreparedJob:
        await trio.lowlevel.checkpoint()
        if self.hold_back is not None:
            await self.hold_back.wait()
        if self.error is not None:
            raise self.error
        number = len(self.prepared) + 1
        self.prepared[number] = (request, output_tokens_max, seed, resume_tokens)
        self.asked[number] = (task, cache_scope)
        return PreparedJob(number, self.input_tokens, output_tokens_max, self.work)

    def start(self, number: int, sink: JobSink) -> None:
        assert number not in self.sinks
        self.sinks[number] = sink

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)
        if self.ends_by_itself and number in self.sinks:
            self.sinks[number].on_end("cancelled", "")

    @property
    def sink(self) -> JobSink:
        """The job that was started last."""
        return self.sinks[max(self.sinks)]


class Desk:
    """A node's agent with one gateway's session, and the gateway's hands."""

    def __init__(
        self, *, slots: int = 2, queue_jobs_max: int = 2, rules: OperatorRules = NO_RULES
    ) -> None:
        self.clock = FakeClock()
        self.runtime = FakeRuntime()
        self.book: ConfigurationBook = book_with()
        self.membership = self._membership()
        self.model = FakeModel(self.runtime, slots)
        self.models = FakeModels([self.model])
        self.agent = Agent(
            key_pair=NODE,
            network=NETWORK,
            membership=self.membership,
            configuration=self.book,
            models=self.models,
            queue_jobs_max=queue_jobs_max,
            clock_ms=self.clock,
            rules=rules,
        )
        self.received: list[Message] = []
        self.error: P2PError | None = None
        self.ended = trio.Event()
        self.link: Link
        self.stream: MemoryStream
        self.node_stream: MemoryStream
        self._heard = trio.Event()

    def _membership(self) -> Membership:
        standing = membership(NODE, Role.NODE, node_chain(), self.clock, book=self.book)
        self.greeted(standing, GATEWAY, gateway_chain())
        return standing

    def greeted(self, standing: Membership, pair: KeyPair, chain: Chain) -> None:
        """Let the node know a peer as if it had said hello."""
        found = verify_chain(chain, NETWORK, pair.peer_id, self.clock.now_ms)
        standing._members[pair.peer_id] = found
        standing._chains[pair.peer_id] = chain

    # --- the session ------------------------------------------------------------------------
    @asynccontextmanager
    async def session(self, pair: KeyPair = GATEWAY) -> AsyncIterator[Desk]:
        """Run a session between `pair` and the agent."""
        self.stream, self.node_stream = stream_pair(pair.peer_id, NODE.peer_id)
        self.link = Link(self.stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve)
            nursery.start_soon(self._run)
            with trio.fail_after(30):
                yield self
            nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        await self.agent.serve(self.node_stream)
        self.ended.set()

    async def _run(self) -> None:
        try:
            await self.link.run(self._on_messages)
        except P2PError as error:
            self.error = error

    def _on_messages(self, messages: list[Message]) -> None:
        self.received += messages
        self._heard.set()
        self._heard = trio.Event()

    def of(self, kind: type[T]) -> list[T]:
        """Everything of one kind that came."""
        return [item for item in self.received if isinstance(item, kind)]

    async def next(self, kind: type[T], count: int = 1) -> T:
        """Wait for the `count`th message of a kind."""
        while len(self.of(kind)) < count:
            await self._heard.wait()
        return self.of(kind)[count - 1]

    async def settle(self) -> None:
        """Let everything happen that can without time passing."""
        await trio.testing.wait_all_tasks_blocked()

    @property
    def loads(self) -> list[LoadReport]:
        return self.of(LoadReport)

    # --- documents --------------------------------------------------------------------------
    def offer(self, number: int = 1, **changes: Any) -> Offer:
        """Make the offer of a job; everything about it is acceptable unless changed."""
        terms = price_terms(self.book.current, MODEL)
        base = Offer(
            job_id=number.to_bytes(16, "big"),
            attempt=0,
            gateway_id=GATEWAY.peer_id,
            node_id=NODE.peer_id,
            hold_id=(1000 + number).to_bytes(16, "big"),
            model_digest=MODEL_DIGEST,
            request_hash=hashlib.sha256(REQUEST).digest(),
            request=REQUEST,
            input_tokens_max=100,
            output_tokens_max=50,
            terms=terms,
            maximum=charge(terms, 100, 50),
            issued_ms=self.clock.now_ms,
            deadline_ms=self.clock.now_ms + 60_000,
            seed=5,
        )
        return replace(base, **changes)

    def voucher(self, offer: Offer, **changes: Any) -> Voucher:
        base = Voucher(
            hold_id=offer.hold_id,
            job_id=offer.job_id,
            gateway_id=offer.gateway_id,
            maximum=offer.maximum,
            terms=offer.terms,
            issued_ms=START_MS,
            expires_ms=self.clock.now_ms + 120_000,
        )
        return replace(base, **changes)

    # --- the gateway's moves ----------------------------------------------------------------
    def send_offer(
        self,
        offer: Offer,
        number: int = 1,
        *,
        signer: KeyPair = GATEWAY,
        network: NetworkId = NETWORK,
    ) -> Signed:
        signed = signer.sign(network, offer)
        self.link.send(OfferFrame(number, signed))
        return signed

    def send_voucher(
        self,
        offer: Offer,
        number: int = 1,
        *,
        signer: KeyPair = BOOTSTRAP,
        chain: Chain | None = None,
        **changes: Any,
    ) -> None:
        signed = signer.sign(NETWORK, self.voucher(offer, **changes))
        shown = bootstrap_chain() if chain is None else chain
        self.link.send(VoucherFrame(number, signed, shown))

    def send_delivery(
        self, offer: Offer, output_tokens: int, number: int = 1, *, final: bool, **changes: Any
    ) -> None:
        count = DeliveryCount(
            job_id=offer.job_id,
            attempt=offer.attempt,
            offer_hash=GATEWAY.sign(NETWORK, offer).digest(),
            hold_id=offer.hold_id,
            node_id=offer.node_id,
            input_tokens=INPUT_TOKENS,
            output_tokens=output_tokens,
            final=final,
            at_ms=self.clock.now_ms,
        )
        signed = GATEWAY.sign(NETWORK, replace(count, **changes))
        self.link.send(DeliveryFrame(number, signed))

    async def start_job(self, number: int = 1, **changes: Any) -> Offer:
        """Offer a job, pay for it, and wait until the runtime runs it."""
        offer = self.offer(number, **changes)
        self.send_offer(offer, number)
        self.send_voucher(offer, number)
        await self.settle()
        assert number in set(self.runtime.sinks), self.received
        return offer
