"""Owns timed jobs at a node: unpaid work for a gateway that wants to know how fast it is.

Theory of operation. A gateway that the policy of one of the node's subclouds admits opens a stream
and sends a signed `BenchmarkOffer`. The node takes few of them an hour, and only while most of the
model's slots are free. It runs the request like any job, without a voucher: nothing is paid, and
the receipts are of a kind that no ledger takes. The gateway measures; what it found it signs and
gives to the node, which shows it to others.

    gateway                                node
      Signed(BenchmarkOffer)       ─────▶
                                   ◀─────   RefuseFrame | OutputFrame(tokens, BenchmarkReceipt) ...
                                   ◀─────   EndFrame(outcome, final BenchmarkReceipt)
      Signed(BenchmarkStatement)   ─────▶
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from node.agent.agent import Agent
from node.agent.runtime_port import ModelState, Served
from node.errors import NodeError
from p2p.call_service import PeerBuckets
from p2p.errors import P2PError, RefusedError, UntrustedError
from p2p.freshness import check_times
from p2p.job_messages import (
    OUTPUT_HASH_START,
    EndFrame,
    OutputFrame,
    RefuseFrame,
    next_output_hash,
)
from p2p.limits import (
    BENCHMARK_PER_HOUR,
    BENCHMARK_PER_HOUR_PER_PEER,
    BENCHMARK_TIMEOUT_S,
    CALL_TIMEOUT_S,
    OUTPUT_TOKENS_PER_MESSAGE_MAX,
)
from p2p.logprob_messages import TokenLogprob
from p2p.network import Network, Stream
from p2p.signing import Signed, open_signed
from p2p.subclouds.evidence_messages import BENCHMARK_PROTOCOL, BenchmarkOffer, BenchmarkReceipt
from p2p.subclouds.message_stream import MessageStream
from p2p.token_bucket import TokenBucket
from p2p.types import AccountId, PeerId, Role, public_key_of

log = logging.getLogger(__name__)
RUNTIME_WAIT_S = 30.0
BUSY_RETRY_S = 60.0


@dataclass(slots=True)
class _Answer:
    """Collects the output of a timed job (a `JobSink`); the sender takes it from here."""

    waiting: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    outcome: str = ""
    detail: str = ""
    news: trio.Event = field(default_factory=trio.Event)

    def on_cached(self, input_tokens: int) -> None:
        """Nothing is cached for a job without a scope."""

    def on_input(self, input_tokens: int) -> None:
        """What was asked is not paid."""

    def on_output(
        self, token_ids: tuple[int, ...], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        """New output."""
        self.waiting.append((token_ids[:OUTPUT_TOKENS_PER_MESSAGE_MAX], text))
        self.news.set()

    def on_end(self, outcome: str, detail: str) -> None:
        """It is over."""
        self.outcome, self.detail = outcome, detail
        self.news.set()


class BenchmarkService:
    """Runs timed jobs for gateways."""

    def __init__(
        self,
        agent: Agent,
        *,
        on_statement: Callable[[Signed], object],
        admits: Callable[[PeerId, AccountId], bool],
    ) -> None:
        """Work by `agent`.

        Args:
            on_statement: gets what a gateway found (raises P2PError if it is worth nothing).
            admits: whether a policy that this node is a member of admits a gateway.
        """
        self._agent = agent
        self._on_statement = on_statement
        self._admits = admits
        self._buckets = PeerBuckets(BENCHMARK_PER_HOUR_PER_PEER / 3600, BENCHMARK_PER_HOUR_PER_PEER)
        self._all = TokenBucket(BENCHMARK_PER_HOUR / 3600, BENCHMARK_PER_HOUR, trio.current_time())
        self._running = False

    async def serve(self, stream: Stream) -> None:
        """Serve one inbound stream (a `StreamHandler`)."""
        messages = MessageStream(stream)
        try:
            try:
                signed = await messages.next(CALL_TIMEOUT_S, Signed)
                offer, served = self._check(signed, stream.remote)
            except RefusedError as error:
                retry_after_ms = int((error.retry_after_s or 0) * 1000)
                refusal = RefuseFrame(0, error.code, str(error)[:1000], retry_after_ms)
                await messages.send(refusal, CALL_TIMEOUT_S)
                return
            log.info("timed job for gateway %s", stream.remote)
            await self._run(messages, offer, signed.digest(), served)
            self._on_statement(await messages.next(CALL_TIMEOUT_S, Signed))
        except (P2PError, NodeError) as error:
            log.info("timed job for gateway %s ended: %s", stream.remote, error)

    def _check(self, signed: Signed, gateway: PeerId) -> tuple[BenchmarkOffer, Served]:
        agent = self._agent
        offer = open_signed(signed, BenchmarkOffer, agent.network, public_key_of(gateway))
        if offer.tester != gateway or offer.node != agent.key_pair.peer_id:
            raise UntrustedError("a timed job of another gateway or for another node")
        check_times(offer.issued_ms, offer.expires_ms, agent.clock_ms())
        certificate = agent.membership.certificate_of(gateway)
        if certificate is None or certificate.role is not Role.GATEWAY:
            raise RefusedError("not_entitled", "only gateways test nodes")
        if not self._admits(gateway, certificate.account_id):
            raise RefusedError("gateway_not_admitted", "no subcloud of this node admits you")
        served = agent.models.get(offer.model_digest)
        if served is None or served.state is not ModelState.ACTIVE:
            raise RefusedError("model_not_served", "this model is not active here")
        if agent.draining or not agent.working:
            raise RefusedError("draining", "the node takes no jobs now", BUSY_RETRY_S)
        if self._running or 2 * served.jobs >= served.slots:
            raise RefusedError("busy", "the node has work that is paid", BUSY_RETRY_S)
        now_s = trio.current_time()
        if not (self._buckets.of(gateway, now_s).take(now_s) and self._all.take(now_s)):
            raise RefusedError("rate_limited", "tested a few times an hour at most", 900)
        return offer, served

    async def _run(
        self, messages: MessageStream, offer: BenchmarkOffer, offer_hash: bytes, served: Served
    ) -> None:
        self._running = True
        served.count(1)
        self._agent.count_jobs(1)
        try:
            with trio.move_on_after(BENCHMARK_TIMEOUT_S):
                await self._answer(messages, offer, offer_hash, served)
        finally:
            self._agent.count_jobs(-1)
            served.count(-1)
            self._running = False

    async def _answer(
        self, messages: MessageStream, offer: BenchmarkOffer, offer_hash: bytes, served: Served
    ) -> None:
        runtime = await served.runtime(RUNTIME_WAIT_S)
        prepared = await runtime.prepare(
            offer.request,
            output_tokens_max=offer.output_tokens_max,
            seed=offer.seed,
            resume_tokens=(),
            cache_scope=b"",
        )
        answer = _Answer()
        runtime.start(prepared.number, answer)
        try:
            await self._send(messages, answer, offer, offer_hash, prepared.input_tokens)
        finally:
            if not answer.outcome:
                runtime.cancel(prepared.number)

    async def _send(
        self,
        messages: MessageStream,
        answer: _Answer,
        offer: BenchmarkOffer,
        offer_hash: bytes,
        input_tokens: int,
    ) -> None:
        output_hash, tokens = OUTPUT_HASH_START, 0

        def receipt(*, final: bool) -> Signed:
            document = BenchmarkReceipt(
                offer.benchmark_id, offer_hash, output_hash, input_tokens, tokens, final
            )
            return self._agent.key_pair.sign(self._agent.network, document)

        while True:
            await answer.news.wait()
            answer.news = trio.Event()
            waiting, answer.waiting = answer.waiting, []
            for token_ids, text in waiting:
                if tokens + len(token_ids) > offer.output_tokens_max:
                    continue  # no runtime gives more than it was asked for
                output_hash = next_output_hash(output_hash, token_ids, text)
                tokens += len(token_ids)
                frame = OutputFrame(0, token_ids, text, receipt(final=False))
                await messages.send(frame, CALL_TIMEOUT_S)
            if answer.outcome:
                end = EndFrame(0, answer.outcome, answer.detail[:1000], receipt(final=True))
                return await messages.send(end, CALL_TIMEOUT_S)


def serve_benchmarks(
    network: Network,
    agent: Agent,
    *,
    on_statement: Callable[[Signed], object],
    admits: Callable[[PeerId, AccountId], bool],
) -> None:
    """Run timed jobs for gateways that open a stream for it."""
    service = BenchmarkService(agent, on_statement=on_statement, admits=admits)
    network.handle(BENCHMARK_PROTOCOL, service.serve)
