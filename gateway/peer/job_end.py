"""Owns the end of one job: what it owes at any moment, and its settlement.

Theory of operation. The charging table says what is owed for what was written or completed. While
a job streams, the nodes are told what was delivered and the journal keeps what would be captured
now. At the end the client gets the receipt, then the capture is journalled and sent."""

from __future__ import annotations

import logging
from dataclasses import replace

import trio

from gateway.bridge import Pipe, PipeFullError
from gateway.errors import GatewayError
from gateway.jobs import ChatJob, Done, Failed, JobEvent
from gateway.limits import CLIENT_WRITE_TIMEOUT_S
from gateway.peer.attempt import Attempt
from gateway.peer.billing import Bill, make_bill, make_legs, make_receipt
from gateway.peer.charging import JobOutcome
from gateway.peer.funding import Funding
from gateway.peer.job_log import log_job
from gateway.peer.job_output import JobOutput
from gateway.peer.node_dispatch import Dispatch
from gateway.peer.observing import observe
from gateway.peer.services import Services
from p2p.ledger_messages import CaptureLeg

log = logging.getLogger("gateway.jobs")


class JobEnd:
    """What one job owes, and how it is settled. `dispatches` is the job's own list: it grows."""

    def __init__(
        self,
        services: Services,
        job: ChatJob,
        pipe: Pipe[JobEvent],
        output: JobOutput,
        dispatches: list[Dispatch],
    ) -> None:
        """Begin with nothing owed."""
        self.funding: Funding | None = None
        self.outcome = JobOutcome.FAILED
        self.left = False
        self.acknowledged_tokens = 0
        self._services = services
        self._job = job
        self._pipe = pipe
        self._output = output
        self._dispatches = dispatches
        self._started_s = services.now_s()
        self._error_code = ""
        self._billed: tuple[tuple[JobOutcome, int, int], Bill] | None = None
        self._written = trio.Event()

    @property
    def _attempts(self) -> list[Attempt]:
        return [dispatch.attempt for dispatch in self._dispatches]

    def on_written(self) -> None:
        """The HTTP thread has written everything."""
        self._written.set()

    def client_left(self) -> None:
        """The client has gone: nothing more will be written."""
        self.left = True
        self._written.set()

    # --- what the client is told ----------------------------------------------------------------
    def _bill(self, funding: Funding, written_tokens: int) -> Bill:
        case = (self.outcome, written_tokens, self._output.token_count)
        if self._billed is not None and self._billed[0] == case:
            return self._billed[1]
        bill = make_bill(
            self._attempts,
            funding.quote.terms,
            self._services.network,
            self.outcome,
            streaming=self._job.streaming,
            written_tokens=written_tokens,
        )
        self._billed = (case, bill)
        return bill

    def finish(self, funding: Funding) -> None:
        """Hand the end of the answer over, with the receipt for all of it."""
        services, made = self._services, self._output.token_count
        bill = self._bill(funding, made)
        note = make_receipt(
            bill,
            key_pair=services.key_pair,
            network=services.network,
            job_id=self._job.job_id,
            hold_id=funding.hold_id,
            record=funding.payer.record,
            request_hash=self._job.body_hash,
            output_hash=self._output.digest(),
            terms=funding.quote.terms,
            outcome=self.outcome,
            at_ms=services.clock_ms(),
            random_bytes=services.random_bytes,
        )
        if funding.place.asked:
            place = funding.place
            note = replace(note, subcloud=place.asked, fell_back=place.fell_back)
        # A node that was lost before its first token may have stated another input.
        answered = bill.parts[0].attempt if bill.parts else -1
        attempt = self._attempts[answered]
        inputs = (attempt.input_tokens, attempt.cached_input_tokens)
        self._pipe.put(Done(self._output.ended(), inputs[0], made, note, inputs[1]))

    def fail(self, error: GatewayError) -> None:
        """Tell the client why there is no (more) answer."""
        self.outcome = JobOutcome.CLIENT_LEFT if self.left else JobOutcome.FAILED
        self._error_code = error.code
        place = self.funding.place if self.funding is not None else None
        if place is not None and place.asked:
            self._services.placing.tally.refused(place.asked, error.code)
        if not self.left:
            try:
                self._pipe.put(Failed(error))
            except PipeFullError:
                log.warning("job %s: the client reads nothing", self._job.job_id.hex())

    # --- settlement -----------------------------------------------------------------------------
    async def settle(self) -> None:
        """Capture what is owed and release the rest, once it is known what was written."""
        funding = self.funding
        if funding is None:
            self._log_line(None)
            return
        if self._job.streaming and self._output.token_count:
            # What was written is known when the HTTP thread has written it all, or gave up.
            remaining_s = funding.deadline_s - self._services.now_s()
            try:
                with trio.move_on_after(max(CLIENT_WRITE_TIMEOUT_S, remaining_s)):
                    await self._written.wait()
            except trio.Cancelled:
                self.journal_now()
                raise
            if self.left:
                self.outcome = JobOutcome.CLIENT_LEFT
        streaming, made = self._job.streaming, self._output.token_count
        bill = self._bill(funding, self._pipe.written_tokens if streaming else made)
        self._log_line(bill)
        if not (bill.parts and funding.is_paid):
            await self._services.settlement.wait_turn()
            await funding.release(self.outcome)
            return
        legs = self._sign(bill, final=True)
        # Before anything is waited for: a gateway that is stopped there still owes it.
        owed = funding.owe(legs, self.outcome, observe(bill, self._attempts))
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

    def acknowledge_delivered(self, funding: Funding) -> None:
        """Tell the nodes what was delivered so far, and note what would be owed now."""
        written = self._pipe.written_tokens
        if not funding.is_paid or funding.is_owed or written <= self.acknowledged_tokens:
            return
        self.acknowledged_tokens = written
        self._journal_running(funding, final=False)

    def journal_now(self) -> None:
        """The gateway is being stopped in the middle: leave what is owed for the next start."""
        if self.funding is not None and self.funding.is_paid:
            self._journal_running(self.funding, final=True)

    def _journal_running(self, funding: Funding, *, final: bool) -> None:
        bill = self._bill(funding, self._pipe.written_tokens)
        if bill.parts:
            legs = self._sign(bill, final=final)
            self._tell(bill, legs)
            funding.journal_running(legs, observe(bill, self._attempts))

    def give_back(self) -> None:
        """Give back what the job did not use of its key's tokens a minute."""
        if self.funding is not None:
            if self.funding.place.asked:
                self._services.placing.tally.ended(self.funding.place.asked)
            inputs = next((a.input_tokens for a in self._attempts if a.input_tokens), 0)
            self.funding.end(inputs + self._output.token_count)

    def _log_line(self, bill: Bill | None) -> None:
        log_job(
            self._job.job_id,
            self.funding.model.name if self.funding is not None else "-",
            self.outcome,
            self._error_code or self._output.finish_reasons,
            len(self._dispatches),
            bill,
            self._services.now_s() - self._started_s,
        )
