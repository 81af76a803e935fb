"""Owns the node's side of job sessions: offers in, acceptances, output and receipts out.

Theory of operation. Each gateway keeps one session open (see `p2p.job_messages`). A session's
reader never waits: an offer starts a task that verifies it, has the runtime prepare the prompt and
answers; everything else is handled at once. A lost session cancels all its attempts, because nobody
is left to deliver to. Load is pushed to all sessions when it changes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from node.agent.attempt import Attempt, AttemptState, DeliveryNotes
from node.agent.issuers import IssuerBook
from node.agent.offer_rules import Capacity, check_offer
from node.agent.payment import LeaseUse, PaymentFrame, Payments
from node.agent.runtime_port import Runtime
from node.errors import RuntimeRefusedError, RuntimeUnavailableError
from node.limits import (
    DELIVERY_WAIT_S,
    LOAD_REPORT_INTERVAL_S,
    SESSION_ATTEMPTS_MAX,
    VOUCHER_WAIT_S,
)
from p2p.allowed_terms import AllowedTerms
from p2p.clock import Clock
from p2p.codec import Message
from p2p.configuration_book import ConfigurationBook
from p2p.errors import MalformedError, P2PError, RefusedError, SessionLostError
from p2p.job_messages import (
    AcceptFrame,
    CancelFrame,
    DeliveryCount,
    DeliveryFrame,
    LoadReport,
    Offer,
    OfferFrame,
    RefuseFrame,
    VoucherFrame,
)
from p2p.lease_messages import LeaseVoucherFrame
from p2p.limits import HEARTBEAT_INTERVAL_S
from p2p.link import Link
from p2p.membership import Membership
from p2p.network import Stream
from p2p.signing import KeyPair, open_signed
from p2p.types import NetworkId, public_key_of

log = logging.getLogger(__name__)


class Agent:
    """Everything that the sessions of one node share."""

    def __init__(
        self,
        *,
        key_pair: KeyPair,
        network: NetworkId,
        membership: Membership,
        configuration: ConfigurationBook,
        runtime: Runtime,
        model_digest: bytes,
        model_id: bytes,
        slots: int,
        queue_jobs_max: int,
        active: Callable[[], bool],
        tokens_per_second: Callable[[], float],
        clock_ms: Clock,
        accept_leases: bool = True,
    ) -> None:
        """Serve one model with `slots` jobs at once and `queue_jobs_max` waiting.

        `active` tells whether the model may be served now, `tokens_per_second` its recent speed.
        """
        self.key_pair = key_pair
        self.network = network
        self.membership = membership
        self.configuration = configuration
        self.terms = AllowedTerms(lambda: configuration.current)
        self.runtime = runtime
        self.model_digest = model_digest
        self.model_id = model_id
        self.slots = slots
        self.clock_ms = clock_ms
        self.issuers = IssuerBook(network, membership, configuration)
        self.leases = LeaseUse(clock_ms)
        self.claims: DeliveryNotes | None = None
        self.accept_leases = accept_leases
        self.draining = False
        self.jobs = 0
        self.jobs_done = 0
        self._queue_jobs_max = queue_jobs_max
        self._active = active
        self._tokens_per_second = tokens_per_second
        self._load_changed = trio.Event()

    def capacity(self) -> Capacity:
        """What can be taken now."""
        jobs_max = self.slots + self._queue_jobs_max
        return Capacity(self.jobs, jobs_max, self._active(), self.draining)

    def load(self) -> LoadReport:
        """The load as it is told to gateways."""
        running = min(self.jobs, self.slots)
        accepting = self._active() and not self.draining
        return LoadReport(
            running, self.jobs - running, self.slots, self._tokens_per_second(), accepting
        )

    def count_jobs(self, change: int) -> None:
        """A job came or went."""
        self.jobs += change
        self.jobs_done += change < 0
        self.load_changed()

    def load_changed(self) -> None:
        """Have all sessions tell their gateways soon."""
        self._load_changed.set()
        self._load_changed = trio.Event()

    @property
    def load_change(self) -> trio.Event:
        """Set at the next change (take it before you look at the load)."""
        return self._load_changed

    async def serve(self, stream: Stream) -> None:
        """Serve one gateway's session until it ends (a `StreamHandler`)."""
        log.info("session with gateway %s opened", stream.remote)
        try:
            await JobSession(self, Link(stream)).run()
        except P2PError as error:
            log.info("session with gateway %s ended: %s", stream.remote, error)


@dataclass(slots=True)
class _Pending:
    """What came for an offer while it was being prepared."""

    payment: PaymentFrame | None = None
    cancelled: bool = False


class JobSession:
    """One gateway's session at the node."""

    def __init__(self, agent: Agent, link: Link) -> None:
        """Serve this link."""
        self._agent = agent
        self._link = link
        self._gateway_key = public_key_of(link.remote)
        self._attempts: dict[int, Attempt] = {}
        self._pending: dict[int, _Pending] = {}
        self._nursery: trio.Nursery | None = None
        self._payments = Payments(
            agent.network,
            self._gateway_key,
            agent.issuers,
            agent.leases,
            accept_leases=agent.accept_leases,
        )

    async def run(self) -> None:
        """Serve until the link ends. Raises: SessionLostError, MalformedError."""
        failure: P2PError | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._report_load)
                nursery.start_soon(self._sweep)
                try:
                    await self._link.run(self._on_messages)
                except P2PError as error:
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            for attempt in list(self._attempts.values()):
                if attempt.state is not AttemptState.ENDED:
                    attempt.state = AttemptState.ENDED  # first: nothing more is counted or sent
                    self._agent.runtime.cancel(attempt.runtime_number)
                    self._payments.end(attempt.offer, attempt.lease, *attempt.counts)
                    self._agent.count_jobs(-1)
            self._attempts.clear()
        if failure is not None:
            raise failure

    def _on_messages(self, messages: list[Message]) -> None:
        for item in messages:
            match item:
                case OfferFrame():
                    self._on_offer(item)
                case VoucherFrame() | LeaseVoucherFrame():
                    self._on_payment(item)
                case CancelFrame():
                    self._on_cancel(item)
                case DeliveryFrame():
                    self._on_delivery(item)
                case _:
                    raise MalformedError(f"a {type(item).__name__} from a gateway")

    def _send(self, item: Message) -> None:
        # An accept is seldom waited for: it travels with the first output, or soon after.
        urgent = not isinstance(item, (AcceptFrame, LoadReport))
        try:
            self._link.send(item, urgent=urgent)
        except SessionLostError:
            pass  # `Link.run` reports it, and the session's attempts are cancelled there
        except MalformedError as error:
            # Output that no frame can hold: the gateway misses it and ends that attempt.
            log.error("a %s was not sent to %s: %s", type(item).__name__, self._link.remote, error)

    # --- offers --------------------------------------------------------------------------------
    def _on_offer(self, frame: OfferFrame) -> None:
        if frame.number in self._attempts or frame.number in self._pending:
            raise MalformedError(f"attempt number {frame.number} is in use")
        if len(self._attempts) + len(self._pending) >= SESSION_ATTEMPTS_MAX:
            self._send(RefuseFrame(frame.number, "busy", "too many attempts in this session", 1000))
            return
        assert self._nursery is not None
        self._pending[frame.number] = _Pending()
        self._agent.count_jobs(+1)
        self._nursery.start_soon(self._take, frame)

    async def _take(self, frame: OfferFrame) -> None:
        attempt: Attempt | None = None
        try:
            attempt = await self._prepare(frame)
        except RuntimeRefusedError as error:
            self._send(
                RefuseFrame(
                    frame.number,
                    error.code[:64],
                    error.reason[:1000],
                    0,
                    error.input_tokens,
                    error.context_tokens,
                )
            )
        except RuntimeUnavailableError as error:
            self._send(RefuseFrame(frame.number, "runtime", str(error)[:1000], 1000))
        except RefusedError as error:
            retry_after_ms = int((error.retry_after_s or 0) * 1000)
            self._send(RefuseFrame(frame.number, error.code, str(error)[:1000], retry_after_ms))
        except P2PError as error:
            self._send(RefuseFrame(frame.number, "not_entitled", str(error)[:1000]))
        finally:
            pending = self._pending.pop(frame.number)
            if attempt is None:
                self._agent.count_jobs(-1)
        if attempt is None:
            return
        self._attempts[frame.number] = attempt
        if pending.cancelled:
            self._cancel(attempt)
            return
        attempt.accept()
        if pending.payment is not None:
            self._start(attempt, pending.payment)

    async def _prepare(self, frame: OfferFrame) -> Attempt:
        agent = self._agent
        offer = open_signed(frame.offer, Offer, agent.network, self._gateway_key)
        capacity = agent.capacity()
        check_offer(
            offer,
            node_id=agent.key_pair.peer_id,
            gateway_id=self._link.remote,
            gateway=agent.membership.certificate_of(self._link.remote),
            configuration=agent.configuration.current,
            model_digest=agent.model_digest,
            # This offer is counted already.
            capacity=Capacity(
                capacity.jobs - 1, capacity.jobs_max, capacity.runtime_ready, capacity.draining
            ),
            now_ms=agent.clock_ms(),
            previous=agent.terms.previous(agent.clock_ms()),
        )
        prepared = await agent.runtime.prepare(
            offer.request,
            output_tokens_max=offer.output_tokens_max,
            seed=offer.seed,
            resume_tokens=offer.resume_tokens,
            cache_scope=offer.cache_scope,
        )
        if prepared.input_tokens > offer.input_tokens_max:
            agent.runtime.cancel(prepared.number)
            raise RefusedError(
                "price",
                f"the prompt has {prepared.input_tokens} tokens, the offer pays for "
                f"{offer.input_tokens_max}",
            )
        return Attempt(
            session_number=frame.number,
            offer=offer,
            offer_hash=hashlib.sha256(frame.offer.body).digest(),
            model_id=agent.model_id,
            runtime_number=prepared.number,
            input_tokens=prepared.input_tokens,
            output_tokens_max=prepared.output_tokens_max,
            key_pair=agent.key_pair,
            network=agent.network,
            clock_ms=agent.clock_ms,
            send=self._send,
            on_ended=self._on_attempt_ended,
        )

    # --- vouchers and leases --------------------------------------------------------------------
    def _on_payment(self, frame: PaymentFrame) -> None:
        self._payments.note(frame, self._agent.clock_ms())
        pending = self._pending.get(frame.number)
        if pending is not None:
            pending.payment = frame
            return
        attempt = self._attempts.get(frame.number)
        if attempt is not None and attempt.state is AttemptState.ACCEPTED:
            self._start(attempt, frame)

    def _start(self, attempt: Attempt, frame: PaymentFrame) -> None:
        try:
            lease = self._payments.check(attempt.offer, frame, self._agent.clock_ms())
            self._payments.begin(attempt.offer, lease)
            attempt.lease = lease
            self._agent.issuers.use_once(attempt.offer)
        except P2PError as error:
            self._agent.runtime.cancel(attempt.runtime_number)
            if isinstance(error, RefusedError):
                attempt.state = AttemptState.ENDED
                retry_after_ms = int((error.retry_after_s or 0) * 1000)
                self._send(RefuseFrame(frame.number, error.code, str(error), retry_after_ms))
                self._on_attempt_ended(attempt)
            else:
                attempt.on_end("failed", f"voucher refused: {error}")
            return
        attempt.paid_by(frame, lease, self._agent.claims)
        attempt.state = AttemptState.RUNNING
        self._agent.runtime.start(attempt.runtime_number, attempt)

    # --- the rest ------------------------------------------------------------------------------
    def _on_cancel(self, frame: CancelFrame) -> None:
        pending = self._pending.get(frame.number)
        if pending is not None:
            pending.cancelled = True
            return
        attempt = self._attempts.get(frame.number)
        if attempt is not None:
            self._cancel(attempt)

    def _cancel(self, attempt: Attempt) -> None:
        self._agent.runtime.cancel(attempt.runtime_number)
        if attempt.state is AttemptState.ACCEPTED:
            attempt.on_end("cancelled", "cancelled before it began")

    def _on_delivery(self, frame: DeliveryFrame) -> None:
        attempt = self._attempts.get(frame.number)
        if attempt is None:
            return
        count = open_signed(frame.delivery, DeliveryCount, self._agent.network, self._gateway_key)
        if not attempt.note_delivery(frame.delivery, count):
            raise MalformedError("a delivery count that does not fit its attempt")
        if count.final and attempt.state is AttemptState.ENDED:
            del self._attempts[frame.number]

    def _on_attempt_ended(self, attempt: Attempt) -> None:
        self._payments.end(attempt.offer, attempt.lease, *attempt.counts)
        self._agent.count_jobs(-1)
        attempt.ended_at_ms = self._agent.clock_ms()
        if attempt.output_tokens == 0:
            self._attempts.pop(attempt.session_number, None)

    async def _sweep(self) -> None:
        """End attempts that no voucher came for or whose deadline is over, forget old ones."""
        while True:
            await trio.sleep(1)
            now_ms = self._agent.clock_ms()
            for number, attempt in list(self._attempts.items()):
                if attempt.state is AttemptState.ACCEPTED:
                    if now_ms - attempt.started_ms > VOUCHER_WAIT_S * 1000:
                        self._agent.runtime.cancel(attempt.runtime_number)
                        attempt.on_end("failed", f"no voucher came within {VOUCHER_WAIT_S:g} s")
                elif attempt.state is AttemptState.RUNNING:
                    if now_ms > attempt.offer.deadline_ms:  # nobody waits for it any more
                        self._agent.runtime.cancel(attempt.runtime_number)
                elif (
                    attempt.state is AttemptState.ENDED
                    and now_ms - attempt.ended_at_ms > DELIVERY_WAIT_S * 1000
                ):
                    del self._attempts[number]

    async def _report_load(self) -> None:
        while self._link.is_open:
            change = self._agent.load_change
            self._send(self._agent.load())
            await trio.sleep(LOAD_REPORT_INTERVAL_S)
            with trio.move_on_after(HEARTBEAT_INTERVAL_S):
                await change.wait()
