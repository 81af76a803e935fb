"""Owns one job, from admission to its last attempt; `job_end` settles it.

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

from gateway.bridge import Pipe
from gateway.errors import AnswerFailedError, GatewayError, InternalError
from gateway.jobs import ChatJob, JobEvent
from gateway.limits import (
    ATTEMPTS_PER_JOB_MAX,
    DELIVERY_INTERVAL_S,
    RETRY_AFTER_S,
)
from gateway.peer.attempt import Attempt, Ending
from gateway.peer.charging import JobOutcome
from gateway.peer.embedding_jobs import expected_vectors
from gateway.peer.funding import Funding, admit
from gateway.peer.job_end import JobEnd
from gateway.peer.job_output import JobOutput
from gateway.peer.node_dispatch import Dispatch
from gateway.peer.routing import Candidate, Choice, Wanted, choose
from gateway.peer.services import Services
from gateway.peer.sessions import NodeSession
from gateway.peer.unverified import cannot_continue
from gateway.peer.unverified_counts import UnverifiedCounts
from gateway.peer.verdicts import Verdicts, client_error, is_blamed
from gateway.subclouds.selection import candidates_of, nobody_left
from p2p.errors import P2PError
from p2p.job_messages import Offer, OfferFrame, OutputFrame
from p2p.types import PeerId

log = logging.getLogger("gateway.jobs")


class JobRun:
    """One job under way."""

    def __init__(self, services: Services, job: ChatJob, pipe: Pipe[JobEvent]) -> None:
        """Prepare to run; `run` does it."""
        self._services = services
        self._job = job
        self._pipe = pipe
        self._dispatches: list[Dispatch] = []
        self._output = JobOutput(job.choices, streaming=job.streaming)
        self._end = JobEnd(services, job, pipe, self._output, self._dispatches)
        self._verdicts = Verdicts()
        self._timed_out = False
        self._moved: Dispatch | None = None
        self._acknowledged_s = services.now_s()
        pipe.listen(self._on_client_left, self._end.on_written)

    # --- events ---------------------------------------------------------------------------------
    def _on_client_left(self) -> None:
        """The client has gone: stop the work at the node at once."""
        self._end.client_left()
        if self._dispatches:
            self._dispatches[-1].end(Ending.CANCELLED, "the client left", tell=True)

    def _on_output(self, frame: OutputFrame) -> None:
        """Take output that was checked. Raises: PipeFullError."""
        delta = self._output.take(frame)
        if delta is not None:
            self._pipe.put(delta)

    def tick(self, now_s: float) -> None:
        """Look at the deadlines, and acknowledge what was delivered (called every TICK_S)."""
        funding = self._end.funding
        if funding is None or not self._dispatches:
            return
        current = self._dispatches[-1]
        if not current.over.is_set():
            if now_s > funding.deadline_s:
                self._timed_out = current.attempt.blameless = True
                current.end(Ending.FAILED, "the job's deadline is over", tell=True)
                return
            # Without a voucher the node may not answer: the ledger's own deadline counts then.
            overdue = current.attempt.overdue(now_s) if funding.is_paid else None
            if overdue is not None:
                current.end(Ending.FAILED, overdue, tell=True)
            elif self._is_to_move(funding, current):
                self._moved = current
                current.attempt.blameless = True
                current.end(Ending.FAILED, "no member of the subcloud any more", tell=True)
        # The first output at once: a gateway that is killed owes what its client has seen.
        first = not self._end.acknowledged_tokens
        due = first or now_s - self._acknowledged_s >= DELIVERY_INTERVAL_S
        if self._job.streaming and due:
            self._acknowledged_s = now_s
            self._end.acknowledge_delivered(funding)

    def close(self) -> None:
        """Let go of what points back here: a job's memory is free at once, without a collection."""
        self._pipe.stop_listening()
        self._end.give_back()
        self._dispatches.clear()

    # --- the walk -------------------------------------------------------------------------------
    async def run(self) -> None:
        """Run to the end; never raises, whatever happens (except cancellation)."""
        if self._pipe.abandoned:
            return
        try:
            await self._answer()
        except GatewayError as error:
            self._end.fail(error)
        except Exception:
            # Our bug: this client is told, the others go on; the trace is in the log.
            log.exception("job %s failed", self._job.job_id.hex())
            self._end.fail(InternalError("An internal error; it was logged."))
        except trio.Cancelled:
            self._end.journal_now()
            raise
        for dispatch in self._dispatches:
            dispatch.end(Ending.CANCELLED, "the job is over", tell=True)
        await self._end.settle()

    async def _answer(self) -> None:
        self._end.funding = funding = await admit(self._services, self._job)
        if funding.place.asked:
            place = funding.place
            self._services.placing.tally.begun(place.asked, fell_back=place.fell_back)
        if not funding.take_leased() and not funding.overlaps:
            self._choose(funding)  # no hold for a job that nobody takes
            await funding.take_hold()
        while not self._end.left:
            dispatch = self._offer(funding)
            if not funding.is_paid:
                await funding.take_hold()
            self._send_voucher(funding, dispatch)
            if not dispatch.over.is_set():
                await dispatch.over.wait()
            if self._end.left or self._is_complete(funding, dispatch):
                break
        if self._end.left:
            self._end.outcome = JobOutcome.CLIENT_LEFT
            return
        self._end.outcome = JobOutcome.COMPLETE
        self._end.finish(funding)

    # --- attempts -------------------------------------------------------------------------------
    def _choose(self, funding: Funding) -> tuple[Candidate, NodeSession]:
        """Choose the next node. Raises: NoNodeError, UnsupportedError, AnswerFailedError."""
        services = self._services
        leased, began = funding.leased is not None, self._output.token_count > 0
        done = (dispatch for dispatch in self._dispatches if leased or not dispatch.wants_voucher)
        tried: set[PeerId] = {dispatch.candidate.peer_id for dispatch in done}
        wanted = Wanted(
            funding.model_digest,
            funding.quote.output_tokens_max or 1,
            self._job.needs_images,
            self._dispatches[-1].candidate.model_id if began else None,
            self._job.max_tokens or 1,
            bound_to_lease=began and leased,
            choices=self._output.unfinished,
            task=self._job.task,
            verified=funding.model.verified,
        )
        choice = Choice(None)
        while len(self._dispatches) < ATTEMPTS_PER_JOB_MAX:
            choice = choose(
                wanted,
                self._candidates(funding),
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
        raise nobody_left(
            self._verdicts,
            funding.place,
            funding.model,
            choice,
            began,
            services.registry,
            services.placing.directory,
        )

    def _candidates(self, funding: Funding) -> list[Candidate]:
        """The nodes that may be offered this job now: members may have come and gone meanwhile."""
        services = self._services
        return candidates_of(
            services.registry,
            services.placing.directory,
            funding.place.identity,
            funding.model_digest,
        )

    def _is_to_move(self, funding: Funding, current: Dispatch) -> bool:
        """Whether the node is no qualified member any more, and the policy takes its jobs away."""
        identity, directory = funding.place.identity, self._services.placing.directory
        known = directory.policy(identity) if identity else None
        if known is None or known.policy.running_jobs != "move":
            return False
        model, node = funding.model_digest, current.candidate.peer_id
        return not directory.qualifies(identity, model, node)

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
            output_tokens_max=quote.output_tokens_sum_max,
            terms=quote.terms,
            maximum=quote.maximum,
            issued_ms=services.clock_ms(),
            deadline_ms=funding.deadline_ms,
            seed=job.seed,
            resume_tokens=self._output.resume_tokens,
            cache_scope=services.cache_scope(
                funding.payer.record.account_id, funding.place.identity
            ),
            choices=job.choices,
            resume_choices=self._output.resume_choices,
            task=job.task,
        )
        signed = services.key_pair.sign(services.network, offer)
        self._output.begin_attempt()
        vectors = expected_vectors(job)
        counts = None if funding.model.verified else UnverifiedCounts()
        attempt = Attempt(offer, signed, services.now_s(), job.top_logprobs, vectors, counts)
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
        dispatch.attempt.paid(self._services.now_s())
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
            self._output.finish(attempt.finish_reason)
            return True
        if self._output.finish_full(funding.quote.output_tokens_max):
            return True  # lost between its last token and its end
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
        if self._output.token_count and not funding.model.verified:
            raise cannot_continue(funding.model.name)
        return False

    def _note_failure(self, dispatch: Dispatch) -> None:
        """Remember what went wrong, against the node too if it is its fault. Raises:
        RequestError."""
        registry, refusal = self._services.registry, dispatch.attempt.refusal
        if dispatch is self._moved:
            return  # the policy took the job away from it
        if refusal is None:
            self._verdicts.note("lost")
            registry.penalise(dispatch.candidate)
            return
        self._verdicts.note(refusal.code, refusal.retry_after_ms)
        if refusal.code in ("isolated", "not_member") and self._end.funding:
            place = self._end.funding.place
            self._services.placing.directory.denied(dispatch.candidate.peer_id, place.identity)
        if dispatch.wants_voucher and not self._output.token_count and self._end.funding:
            self._end.funding.leave_lease()
        if is_blamed(refusal.code):
            registry.penalise(dispatch.candidate)
        longer = any(
            other.connected and other.context_tokens > dispatch.candidate.context_tokens
            for other in (self._candidates(self._end.funding) if self._end.funding else ())
        )
        error = client_error(refusal, longer_context_exists=longer, task=self._job.task)
        if error is None or self._output.token_count:
            return
        if refusal.code == "unsupported" and not dispatch.candidate.verified:
            self._verdicts.lacking = error  # servers differ: another may have it
            return
        raise error
