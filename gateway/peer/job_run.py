"""Owns one job, from admission to settlement.

Theory of operation. A job runs in one task. It asks who pays and what it may cost, then goes
through attempts: choose a node, offer, pay (from a lease, else by a hold that overlaps the offer
where the cached balance is high enough), voucher, wait until the attempt is over. Output does not
pass through the task: the session hands frames to `on_frame`, which checks them and puts text into
the pipe at once. When an attempt ends without completing the answer, the next node is offered the
job with all tokens so far as `resume_tokens`; before the first token that is an ordinary retry. At
the end the charging table says what is owed; the capture is journalled and sent. A client that
leaves cancels the attempt at once."""

from __future__ import annotations

import hashlib
import logging

import trio

from gateway.bridge import Pipe, PipeFullError
from gateway.errors import AnswerFailedError, GatewayError, InternalError
from gateway.jobs import ChatJob, Delta, Done, Failed, JobEvent
from gateway.limits import (
    ATTEMPTS_PER_JOB_MAX,
    CLIENT_WRITE_TIMEOUT_S,
    DELIVERY_INTERVAL_S,
    RETRY_AFTER_S,
)
from gateway.peer.attempt import Attempt, Ending
from gateway.peer.billing import Bill, make_bill, make_legs, make_receipt
from gateway.peer.charging import JobOutcome
from gateway.peer.funding import Funding, admit
from gateway.peer.job_log import log_job
from gateway.peer.node_dispatch import Dispatch
from gateway.peer.routing import Candidate, Choice, Wanted, choose
from gateway.peer.services import Services
from gateway.peer.sessions import NodeSession
from gateway.peer.verdicts import Verdicts, client_error, is_blamed
from p2p.errors import P2PError
from p2p.job_messages import Offer, OfferFrame, OutputFrame
from p2p.ledger_messages import CaptureLeg
from p2p.types import PeerId

log = logging.getLogger("gateway.jobs")


class JobRun:
    """One job under way."""

    def __init__(self, services: Services, job: ChatJob, pipe: Pipe[JobEvent]) -> None:
        """Prepare to run; `run` does it."""
        self._services = services
        self._job = job
        self._pipe = pipe
        self._started_s = services.now_s()
        self._funding: Funding | None = None
        self._dispatches: list[Dispatch] = []
        self._tokens: list[int] = []
        self._texts: list[str] = []
        self._output_hash = hashlib.sha256()
        self._verdicts = Verdicts()
        self._outcome = JobOutcome.FAILED
        self._finish_reason = ""
        self._billed: tuple[tuple[JobOutcome, int, int], Bill] | None = None
        self._left = False
        self._timed_out = False
        self._written = trio.Event()
        self._acknowledged_s = self._started_s
        self._acknowledged_tokens = 0
        pipe.listen(self._on_client_left, self._written.set)

    @property
    def _attempts(self) -> list[Attempt]:
        return [dispatch.attempt for dispatch in self._dispatches]

    # --- events ---------------------------------------------------------------------------------
    def _on_client_left(self) -> None:
        """The client has gone: stop the work at the node at once."""
        self._left = True
        self._written.set()
        if self._dispatches:
            self._dispatches[-1].end(Ending.CANCELLED, "the client left", tell=True)

    def _on_output(self, frame: OutputFrame) -> None:
        """Take output that was checked. Raises: PipeFullError."""
        self._tokens.extend(frame.token_ids)
        self._output_hash.update(frame.text.encode())
        if self._job.streaming:
            self._pipe.put(Delta(frame.text, len(frame.token_ids)))
        else:
            self._texts.append(frame.text)

    def tick(self, now_s: float) -> None:
        """Look at the deadlines, and acknowledge what was delivered (called every TICK_S)."""
        funding = self._funding
        if funding is None or not self._dispatches:
            return
        current = self._dispatches[-1]
        if not current.over.is_set():
            if now_s > funding.deadline_s:
                self._timed_out = True
                current.end(Ending.FAILED, "the job's deadline is over", tell=True)
                return
            # Without a voucher the node may not answer: the ledger's own deadline counts then.
            overdue = current.attempt.overdue(now_s) if funding.is_paid else None
            if overdue is not None:
                current.end(Ending.FAILED, overdue, tell=True)
        # The first output at once: a gateway that is killed owes what its client has seen.
        due = not self._acknowledged_tokens or now_s - self._acknowledged_s >= DELIVERY_INTERVAL_S
        if self._job.streaming and due:
            self._acknowledged_s = now_s
            self._acknowledge_delivered(funding)

    def close(self) -> None:
        """Let go of what points back here: a job's memory is free at once, without a collection."""
        self._pipe.stop_listening()
        if self._funding is not None:
            inputs = next((a.input_tokens for a in self._attempts if a.input_tokens), 0)
            self._funding.end(inputs + len(self._tokens))
        self._dispatches.clear()

    # --- the walk -------------------------------------------------------------------------------
    async def run(self) -> None:
        """Run to the end; never raises, whatever happens (except cancellation)."""
        if self._pipe.abandoned:
            return
        try:
            await self._answer()
        except GatewayError as error:
            self._fail(error)
        except Exception:
            # Our bug: this client is told, the others go on; the trace is in the log.
            log.exception("job %s failed", self._job.job_id.hex())
            self._fail(InternalError("An internal error; it was logged."))
        except trio.Cancelled:
            self._journal_now()
            raise
        for dispatch in self._dispatches:
            dispatch.end(Ending.CANCELLED, "the job is over", tell=True)
        await self._settle()

    async def _answer(self) -> None:
        self._funding = funding = await admit(self._services, self._job)
        if not funding.take_leased() and not funding.overlaps:
            self._choose(funding)  # no hold for a job that nobody takes
            await funding.take_hold()
        while not self._left:
            dispatch = self._offer(funding)
            if not funding.is_paid:
                await funding.take_hold()
            self._send_voucher(funding, dispatch)
            if not dispatch.over.is_set():
                await dispatch.over.wait()
            if self._left or self._is_complete(funding, dispatch):
                break
        if self._left:
            self._outcome = JobOutcome.CLIENT_LEFT
            return
        self._outcome = JobOutcome.COMPLETE
        self._finish(funding)

    # --- attempts -------------------------------------------------------------------------------
    def _choose(self, funding: Funding) -> tuple[Candidate, NodeSession]:
        """Choose the next node. Raises: NoNodeError, UnsupportedError, AnswerFailedError."""
        services = self._services
        leased = funding.leased is not None
        done = (dispatch for dispatch in self._dispatches if leased or not dispatch.wants_voucher)
        tried: set[PeerId] = {dispatch.candidate.peer_id for dispatch in done}
        wanted = Wanted(
            funding.model_digest,
            funding.quote.output_tokens_max,
            self._job.needs_images,
            self._dispatches[-1].candidate.model_id if self._tokens else None,
            self._job.max_tokens or 1,
            bound_to_lease=bool(self._tokens) and leased,
        )
        choice = Choice(None)
        while len(self._dispatches) < ATTEMPTS_PER_JOB_MAX:
            choice = choose(
                wanted,
                services.registry.candidates(funding.model_digest),
                tried=tried,
                now_s=services.now_s(),
                now_ms=services.clock_ms(),
            )
            if choice.candidate is None:
                break
            session = services.sessions.get(choice.candidate.peer_id)
            if session is not None:
                return choice.candidate, session
            tried.add(choice.candidate.peer_id)  # its session ended just now
        raise self._verdicts.nobody_left(funding.model.name, choice, bool(self._tokens))

    def _offer(self, funding: Funding) -> Dispatch:
        services, job, quote = self._services, self._job, funding.quote
        candidate, session = self._choose(funding)
        if candidate.needs_voucher:
            funding.leave_lease()
        offer = Offer(
            job_id=job.job_id,
            attempt=len(self._dispatches),
            gateway_id=services.key_pair.peer_id,
            node_id=candidate.peer_id,
            hold_id=funding.hold_id,
            model_digest=candidate.model_digest,
            request_hash=hashlib.sha256(job.request).digest(),
            request=job.request,
            input_tokens_max=quote.input_tokens_max,
            output_tokens_max=quote.output_tokens_max,
            terms=quote.terms,
            maximum=quote.maximum,
            issued_ms=services.clock_ms(),
            deadline_ms=funding.deadline_ms,
            seed=job.seed,
            resume_tokens=tuple(self._tokens),
            cache_scope=services.cache_scope(funding.payer.record.account_id),
        )
        signed = services.key_pair.sign(services.network, offer)
        attempt = Attempt(offer, signed, services.now_s())
        dispatch = Dispatch(self._on_output, services, attempt, session, candidate)
        self._dispatches.append(dispatch)
        try:
            session.send(OfferFrame(dispatch.number, signed))
        except P2PError as error:
            dispatch.end(Ending.LOST, str(error), tell=False)
        return dispatch

    def _send_voucher(self, funding: Funding, dispatch: Dispatch) -> None:
        if dispatch.over.is_set():
            return
        # The time that the ledger took is not the node's.
        dispatch.attempt.progress_s = max(dispatch.attempt.progress_s, self._services.now_s())
        try:
            funding.show_voucher(dispatch.session, dispatch.number)
        except P2PError as error:
            dispatch.end(Ending.LOST, str(error), tell=False)

    def _is_complete(self, funding: Funding, dispatch: Dispatch) -> bool:
        """Judge an attempt that is over: True if the answer is complete, False to try elsewhere.

        Raises: RequestError (the client must change something), AnswerFailedError.
        """
        attempt = dispatch.attempt
        if attempt.ending is Ending.COMPLETE:
            self._finish_reason = attempt.finish_reason
            return True
        if len(self._tokens) >= funding.quote.output_tokens_max:
            self._finish_reason = "length"  # lost between its last token and its end
            return True
        log.info(
            "job %s attempt %d on %s: %s: %s",
            self._job.job_id.hex(),
            attempt.offer.attempt,
            attempt.node_id,
            attempt.ending.value if attempt.ending else "over",
            attempt.detail,
        )
        self._note_failure(dispatch)
        if self._timed_out:
            raise AnswerFailedError("The job's deadline is over.", retry_after_s=RETRY_AFTER_S)
        return False

    def _note_failure(self, dispatch: Dispatch) -> None:
        """Remember what went wrong, against the node too if it is its fault. Raises:
        RequestError."""
        registry, refusal = self._services.registry, dispatch.attempt.refusal
        if refusal is None:
            self._verdicts.note("lost")
            registry.penalise(dispatch.candidate)
            return
        self._verdicts.note(refusal.code, refusal.retry_after_ms)
        if dispatch.wants_voucher and not self._tokens and self._funding:
            self._funding.leave_lease()
        if is_blamed(refusal.code):
            registry.penalise(dispatch.candidate)
        longer = any(
            other.connected and other.context_tokens > dispatch.candidate.context_tokens
            for other in registry.candidates(dispatch.candidate.model_digest)
        )
        error = client_error(refusal, longer_context_exists=longer)
        if error is not None and not self._tokens:
            raise error

    # --- the end --------------------------------------------------------------------------------
    def _bill(self, funding: Funding, written_tokens: int) -> Bill:
        case = (self._outcome, written_tokens, len(self._tokens))
        if self._billed is not None and self._billed[0] == case:
            return self._billed[1]
        bill = make_bill(
            self._attempts,
            funding.quote.terms,
            self._services.network,
            self._outcome,
            streaming=self._job.streaming,
            written_tokens=written_tokens,
        )
        self._billed = (case, bill)
        return bill

    def _finish(self, funding: Funding) -> None:
        """Hand the end of the answer over, with the receipt for all of it."""
        services = self._services
        note = make_receipt(
            self._bill(funding, len(self._tokens)),
            key_pair=services.key_pair,
            network=services.network,
            job_id=self._job.job_id,
            hold_id=funding.hold_id,
            record=funding.payer.record,
            request_hash=self._job.body_hash,
            output_hash=self._output_hash.digest(),
            terms=funding.quote.terms,
            outcome=self._outcome,
            at_ms=services.clock_ms(),
            random_bytes=services.random_bytes,
        )
        paid = next((a for a in self._attempts if a.input_tokens), None)
        inputs = (paid.input_tokens, paid.cached_input_tokens) if paid else (0, 0)
        text, made = "".join(self._texts), len(self._tokens)
        self._pipe.put(Done(self._finish_reason, text, inputs[0], made, note, inputs[1]))

    def _fail(self, error: GatewayError) -> None:
        self._outcome = JobOutcome.CLIENT_LEFT if self._left else JobOutcome.FAILED
        self._finish_reason = error.code
        if not self._left:
            try:
                self._pipe.put(Failed(error))
            except PipeFullError:
                log.warning("job %s: the client reads nothing", self._job.job_id.hex())

    async def _settle(self) -> None:
        funding = self._funding
        if funding is None:
            self._log_line(None)
            return
        if self._job.streaming and self._tokens:
            # What was written is known when the HTTP thread has written it all, or gave up.
            remaining_s = funding.deadline_s - self._services.now_s()
            try:
                with trio.move_on_after(max(CLIENT_WRITE_TIMEOUT_S, remaining_s)):
                    await self._written.wait()
            except trio.Cancelled:
                self._journal_now()
                raise
            if self._left:
                self._outcome = JobOutcome.CLIENT_LEFT
        written = self._pipe.written_tokens if self._job.streaming else len(self._tokens)
        bill = self._bill(funding, written)
        self._log_line(bill)
        if not (bill.parts and funding.is_paid):
            await self._services.settlement.wait_turn()
            await funding.release(self._outcome)
            return
        legs = self._sign(bill, final=True)
        # Before anything is waited for: a gateway that is stopped there still owes it.
        owed = funding.owe(legs, self._outcome)
        await self._services.settlement.wait_turn()
        self._tell(bill, legs)
        await funding.capture(owed, bill.amount)

    def _sign(self, bill: Bill, *, final: bool) -> tuple[CaptureLeg, ...]:
        """Sign delivery counts for what is billed."""
        key_pair, network = self._services.key_pair, self._services.network
        at_ms = self._services.clock_ms()
        return make_legs(bill, self._attempts, key_pair, network, final=final, at_ms=at_ms)

    def _tell(self, bill: Bill, legs: tuple[CaptureLeg, ...]) -> None:
        """Acknowledge what is billed to the nodes that can be reached."""
        for part, leg in zip(bill.parts, legs, strict=True):
            self._dispatches[part.attempt].acknowledge(leg.delivery)

    def _acknowledge_delivered(self, funding: Funding) -> None:
        """Tell the nodes what was delivered so far, and note what would be owed now."""
        written = self._pipe.written_tokens
        if not funding.is_paid or funding.is_owed or written <= self._acknowledged_tokens:
            return
        self._acknowledged_tokens = written
        self._journal_running(funding, final=False)

    def _journal_now(self) -> None:
        """The gateway is being stopped in the middle: leave what is owed for the next start."""
        if self._funding is not None and self._funding.is_paid:
            self._journal_running(self._funding, final=True)

    def _journal_running(self, funding: Funding, *, final: bool) -> None:
        bill = self._bill(funding, self._pipe.written_tokens)
        if bill.parts:
            legs = self._sign(bill, final=final)
            self._tell(bill, legs)
            funding.journal_running(legs)

    def _log_line(self, bill: Bill | None) -> None:
        log_job(
            self._job.job_id,
            self._funding.model.name if self._funding is not None else "-",
            self._outcome,
            self._finish_reason,
            len(self._dispatches),
            bill,
            self._services.now_s() - self._started_s,
        )
