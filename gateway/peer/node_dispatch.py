"""Owns one attempt on its way: the protocol state, the session it runs on, and the node it is
at."""

from __future__ import annotations

from collections.abc import Callable

import trio

from gateway.bridge import PipeFullError
from gateway.peer.attempt import Attempt, Ending, Phase
from gateway.peer.routing import Candidate
from gateway.peer.services import Services
from gateway.peer.sessions import AttemptFrame, NodeSession
from p2p.errors import P2PError
from p2p.job_messages import AcceptFrame, CancelFrame, DeliveryFrame, EndFrame, OutputFrame
from p2p.signing import Signed

OutputTaker = Callable[[OutputFrame], None]
"""Takes output that was checked. Raises: PipeFullError."""


class Dispatch:
    """One attempt of a job on its way: the protocol state, the session it runs on, and the node."""

    __slots__ = (
        "attempt",
        "candidate",
        "first_token_seen",
        "jobs",
        "number",
        "over",
        "services",
        "session",
        "taker",
    )

    def __init__(
        self,
        taker: OutputTaker,
        services: Services,
        attempt: Attempt,
        session: NodeSession,
        candidate: Candidate,
    ) -> None:
        """Take a number on the session; frames come from now on."""
        self.taker = taker
        self.services = services
        self.attempt = attempt
        self.session = session
        self.candidate = candidate
        self.over = trio.Event()
        self.first_token_seen = False
        self.number = session.open_attempt(self)
        self.jobs = attempt.jobs
        candidate.in_flight += self.jobs
        candidate.chosen += 1

    def on_frame(self, frame: AttemptFrame) -> None:
        """The node said something (as `AttemptListener`)."""
        attempt, services = self.attempt, self.services
        try:
            match frame:
                case OutputFrame():
                    attempt.output(frame, services.now_s())
                    self._observe_first_token(services.now_s())
                    self.taker(frame)
                case AcceptFrame():
                    attempt.accept(frame, services.now_s())
                case EndFrame():
                    attempt.end(frame, services.now_s())
                case _:
                    attempt.refuse(frame)
                    if self.wants_voucher and not frame.retry_after_ms:
                        self.candidate.needs_voucher = True
        except (P2PError, PipeFullError) as error:
            attempt.blameless = isinstance(error, PipeFullError)  # the client reads too slowly
            self.end(Ending.FAILED, str(error), tell=True)
        if attempt.phase is Phase.OVER:
            self.close()

    def on_lost(self, detail: str) -> None:
        """The session is gone (as `AttemptListener`)."""
        self.end(Ending.LOST, detail, tell=False)

    def end(self, ending: Ending, detail: str, *, tell: bool) -> None:
        """End the attempt from our side; `tell` the node to stop. Idempotent."""
        if self.over.is_set():
            return
        self.attempt.fail(ending, detail)
        if tell:
            self._send(CancelFrame(self.number, ending.value))
        self.close()

    def close(self) -> None:
        """The attempt is over: nobody listens any more, whoever waits goes on. Idempotent."""
        if not self.over.is_set():
            self.session.close_attempt(self.number)
            self.candidate.in_flight = max(0, self.candidate.in_flight - self.jobs)
            self.over.set()

    @property
    def wants_voucher(self) -> bool:
        """Whether the node refused because it takes no leases."""
        refusal = self.attempt.refusal
        return refusal is not None and refusal.code == "needs_voucher"

    def acknowledge(self, delivery: Signed) -> None:
        """Send a delivery count, if the node can still be reached."""
        self._send(DeliveryFrame(self.number, delivery), urgent=False)

    def _send(self, frame: CancelFrame | DeliveryFrame, *, urgent: bool = True) -> None:
        try:
            self.session.send(frame, urgent=urgent)
        except P2PError:
            pass  # the session is gone, and with it the attempt

    def _observe_first_token(self, now_s: float) -> None:
        if not self.first_token_seen:
            self.first_token_seen = True
            self.candidate.observe_first_token(now_s - self.attempt.started_s)
