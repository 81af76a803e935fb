"""Owns the node's side of job sessions: offers in, acceptances, output and receipts out.

Theory of operation. Each gateway keeps one session open (see `p2p.job_messages`). A session's
reader never waits: an offer starts a task that verifies it, has the runtime prepare the prompt and
answers; everything else is handled at once. A lost session cancels all its attempts, because nobody
is left to deliver to. Load is pushed to all sessions when it changes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from node.agent.attempt import Attempt, AttemptState
from node.agent.intake import take_offer
from node.agent.job_pace import JobPace
from node.agent.payment import PaymentFrame, Payments
from node.errors import RuntimeRefusedError, RuntimeUnavailableError
from node.limits import (
    DELIVERY_WAIT_S,
    LOAD_REPORT_INTERVAL_S,
    SESSION_ATTEMPTS_MAX,
    VOUCHER_WAIT_S,
)
from p2p.codec import Message
from p2p.embeddings import CHAT
from p2p.errors import MalformedError, P2PError, RefusedError, SessionLostError
from p2p.job_messages import (
    AcceptFrame,
    CancelFrame,
    DeliveryCount,
    DeliveryFrame,
    LoadReport,
    OfferFrame,
    RefuseFrame,
    VoucherFrame,
)
from p2p.lease_messages import LeaseVoucherFrame
from p2p.limits import HEARTBEAT_INTERVAL_S
from p2p.link import Link
from p2p.signing import open_signed
from p2p.subclouds.memberships import MembershipFrame
from p2p.types import public_key_of

if TYPE_CHECKING:
    from node.agent.agent import Agent

log = logging.getLogger(__name__)


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
                nursery.start_soon(self._tell_memberships)
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
                    attempt.stop()
                    self._payments.end(attempt.offer, attempt.lease, attempt.earned)
                    self._end_work(attempt)
                    self._agent.count_jobs(-attempt.jobs, done=bool(attempt.begun_ms))
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
            self._refuse(frame.number, "busy", "too many attempts in this session", 1000)
            return
        assert self._nursery is not None
        self._pending[frame.number] = _Pending()
        self._agent.count_jobs(+1)
        self._nursery.start_soon(self._take, frame)

    def _refuse(
        self,
        number: int,
        code: str,
        reason: str,
        retry_after_ms: int = 0,
        input_tokens: int = 0,
        context_tokens: int = 0,
    ) -> None:
        self._agent.refusals.note(code, reason, self._agent.clock_ms())
        counts = (input_tokens, context_tokens)
        self._send(RefuseFrame(number, code[:64], reason[:1000], retry_after_ms, *counts))

    async def _take(self, frame: OfferFrame) -> None:
        attempt: Attempt | None = None
        try:
            attempt = await self._prepare(frame)
        except RuntimeRefusedError as error:
            numbers = (error.input_tokens, error.context_tokens)
            self._refuse(frame.number, error.code, error.reason, 0, *numbers)
        except RuntimeUnavailableError as error:
            self._refuse(frame.number, "runtime", str(error), 1000)
        except RefusedError as error:
            self._refuse(frame.number, error.code, str(error), retry_after_ms_of(error))
        except P2PError as error:
            self._refuse(frame.number, "not_entitled", str(error))
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
        taken = await take_offer(agent, frame.offer, self._link.remote, self._gateway_key)
        if len(taken.prepared.numbers) > 1:
            agent.count_jobs(len(taken.prepared.numbers) - 1)  # one is counted
        return Attempt(
            session_number=frame.number,
            offer=taken.offer,
            offer_hash=taken.offer_hash,
            served=taken.served,
            runtime=taken.runtime,
            numbers=taken.prepared.numbers,
            input_tokens=taken.prepared.input_tokens,
            output_tokens_max=taken.prepared.output_tokens_max,
            work=taken.prepared.work,
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
            attempt.stop()
            if isinstance(error, RefusedError):
                attempt.state = AttemptState.ENDED
                self._refuse(frame.number, error.code, str(error), retry_after_ms_of(error))
                self._on_attempt_ended(attempt)
            else:
                attempt.on_end("failed", f"voucher refused: {error}")
            return
        attempt.paid_by(frame, lease, self._agent.claims)
        attempt.begin()

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
        attempt.stop()
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
        self._payments.end(attempt.offer, attempt.lease, attempt.earned)
        self._end_work(attempt)
        self._agent.count_jobs(-attempt.jobs, done=bool(attempt.begun_ms))
        attempt.ended_at_ms = self._agent.clock_ms()
        note_pace(self._agent.pace_of(attempt.served), attempt)
        if not (attempt.output_tokens or attempt.complete):
            self._attempts.pop(attempt.session_number, None)

    def _end_work(self, attempt: Attempt) -> None:
        pool = attempt.offer.terms.subcloud_id
        self._agent.count_work(attempt.served, pool, -attempt.jobs)

    async def _sweep(self) -> None:
        """End attempts that no voucher came for or whose deadline is over, forget old ones."""
        while True:
            await trio.sleep(1)
            now_ms = self._agent.clock_ms()
            for number, attempt in list(self._attempts.items()):
                if attempt.state is AttemptState.ACCEPTED:
                    if now_ms - attempt.started_ms > VOUCHER_WAIT_S * 1000:
                        attempt.stop()
                        attempt.on_end("failed", f"no voucher came within {VOUCHER_WAIT_S:g} s")
                elif attempt.state is AttemptState.RUNNING:
                    if now_ms > attempt.offer.deadline_ms:  # nobody waits for it any more
                        attempt.stop()
                        if not attempt.output_tokens:
                            attempt.on_end("cancelled", "its deadline passed before it began")
                elif (
                    attempt.state is AttemptState.ENDED
                    and now_ms - attempt.ended_at_ms > DELIVERY_WAIT_S * 1000
                ):
                    del self._attempts[number]

    async def _tell_memberships(self) -> None:
        subclouds = self._agent.subclouds
        while self._link.is_open:
            change = subclouds.statement_change
            statement = subclouds.statement()
            if statement is not None:
                self._send(MembershipFrame(statement))
            await change.wait()

    async def _report_load(self) -> None:
        while self._link.is_open:
            change = self._agent.load_change
            self._send(self._agent.load())
            await trio.sleep(LOAD_REPORT_INTERVAL_S)
            with trio.move_on_after(HEARTBEAT_INTERVAL_S):
                await change.wait()


def retry_after_ms_of(error: RefusedError) -> int:
    """When a refused gateway may ask again, as a frame says it."""
    return int((error.retry_after_s or 0) * 1000)


def note_pace(pace: JobPace, attempt: Attempt) -> None:
    """Learn from an attempt that ended."""
    if attempt.output_tokens:
        pace.note_answer(attempt.output_tokens)
    if attempt.first_output_ms and not attempt.waited and attempt.offer.task == CHAT:
        took_s = (attempt.first_output_ms - attempt.begun_ms) / 1000
        pace.note_prefill(attempt.input_tokens_computed, took_s)
