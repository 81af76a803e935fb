"""Owns one attempt at the node: from an accepted offer to the final receipt.

States: ACCEPTED (the runtime has the prompt, nothing may leave) -> RUNNING (a voucher is there) ->
ENDED. Every output carries a receipt over everything so far, so that the work is proved at each
moment.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from node.agent.choices import ChoiceRuns
from node.agent.payment import PaymentFrame
from node.agent.runtime_port import NOTHING_KNOWN, Runtime, Served, WorkFacts
from p2p.clock import Clock
from p2p.codec import Message
from p2p.job_messages import (
    OUTPUT_HASH_START,
    REFUSALS,
    Accept,
    AcceptFrame,
    DeliveryCount,
    EndFrame,
    NodeReceipt,
    Offer,
    OutputFrame,
    RefuseFrame,
    next_output_hash,
)
from p2p.lease_messages import Lease
from p2p.logprob_messages import TokenLogprob
from p2p.prices import charge
from p2p.signing import KeyPair, Signed
from p2p.types import NetworkId

REFUSED_RETRY_MS = 1000
"""With a refusal that came only when the work began."""


COMPLETE_OUTCOMES = ("stop", "length", "tool_calls")


class DeliveryNotes(Protocol):
    """Who notes what gateways owe (`node.claims`)."""

    def note(self, attempt: Attempt, count: DeliveryCount) -> None:
        """The gateway has signed for more of an attempt."""


class AttemptState(enum.Enum):
    """Where an attempt stands."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    ENDED = "ended"


class Attempt:
    """One attempt; the runtime's sink (`on_output`, `on_end` are called by its reader)."""

    def __init__(
        self,
        *,
        session_number: int,
        offer: Offer,
        offer_hash: bytes,
        served: Served,
        runtime: Runtime,
        numbers: dict[int, int],
        input_tokens: int,
        output_tokens_max: int,
        key_pair: KeyPair,
        network: NetworkId,
        clock_ms: Clock,
        send: Callable[[Message], None],
        on_ended: Callable[[Attempt], None],
        work: WorkFacts = NOTHING_KNOWN,
    ) -> None:
        """Begin in ACCEPTED; `send` queues a message to the gateway. `numbers`: the runtime's, of
        each choice that is to run."""
        self.session_number = session_number
        self.offer = offer
        self.offer_hash = offer_hash
        self.served = served
        self.runtime = runtime
        self.jobs = len(numbers)
        self._numbers = numbers
        self._choices = ChoiceRuns(self, runtime, numbers) if offer.choices > 1 else None
        self.lease: Lease | None = None
        self.payment: PaymentFrame | None = None
        self.receipt: Signed | None = None
        self.state = AttemptState.ACCEPTED
        self.output_tokens = 0
        self.complete = False
        self.delivery: Signed | None = None
        self.started_ms = clock_ms()
        self.begun_ms = 0
        self.first_output_ms = 0
        self.waited = False
        self.ended_at_ms = 0
        self._model_id = served.facts.model_id
        self._work = work
        self._input_tokens = self._accepted_input_tokens = input_tokens
        self._cached_input_tokens = 0
        self._output_tokens_max = output_tokens_max
        self._key_pair = key_pair
        self._network = network
        self._clock_ms = clock_ms
        self._send = send
        self._on_ended = on_ended
        self._output_hash = OUTPUT_HASH_START
        self._notes: DeliveryNotes | None = None
        self._delivered = (0, 0)

    @property
    def counts(self) -> tuple[int, int]:
        """The tokens so far: input, output."""
        return self._input_tokens, self.output_tokens

    @property
    def earned(self) -> int:
        """What it can be paid at most: a complete answer its input, even if it has no tokens (an
        embedding has none)."""
        if not (self.output_tokens or self.complete):
            return 0
        return charge(self.offer.terms, *self.counts)

    @property
    def input_tokens_computed(self) -> int:
        """The input that was not in the cache."""
        return self._input_tokens - self._cached_input_tokens

    def begin(self) -> None:
        """Hand it to the runtime: output may leave from now on."""
        self.state = AttemptState.RUNNING
        self.begun_ms = self._clock_ms()
        self.waited = self.served.jobs > self.served.slots
        if self._choices is not None:
            self._choices.begin()
            return
        for number in self._numbers.values():
            self.runtime.start(number, self)

    def stop(self) -> None:
        """Take it from the runtime; if it runs, its end follows."""
        if self._choices is not None:
            self._choices.stop()
            return
        for number in self._numbers.values():
            self.runtime.cancel(number)

    def accept(self) -> None:
        """Tell the gateway the exact input count."""
        offer = self.offer
        document = Accept(
            offer.job_id,
            offer.attempt,
            self.offer_hash,
            self._input_tokens,
            self._output_tokens_max,
        )
        signed = self._key_pair.sign(self._network, document)
        self._send(AcceptFrame(self.session_number, signed))

    def on_cached(self, input_tokens: int) -> None:
        """So much of the input is cheaper, because it need not be computed."""
        self._cached_input_tokens = min(input_tokens, self._input_tokens)

    def on_input(self, input_tokens: int) -> None:
        """It was less input than the bound that was accepted."""
        self._input_tokens = min(input_tokens, self._accepted_input_tokens)

    def on_output(
        self, token_ids: tuple[int, ...], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        """Send new output with the running receipt over it (not over `logprobs`)."""
        self._output(None, token_ids, text, logprobs, "")

    def on_choice_output(
        self,
        choice: int,
        token_ids: tuple[int, ...],
        text: str,
        logprobs: tuple[TokenLogprob, ...],
        finish: str,
    ) -> None:
        """Send new output of one of several choices, or how it ended."""
        self._output(choice, token_ids, text, logprobs, finish)

    def _output(
        self,
        choice: int | None,
        token_ids: tuple[int, ...],
        text: str,
        logprobs: tuple[TokenLogprob, ...],
        finish: str,
    ) -> None:
        if self.state is not AttemptState.RUNNING:
            return
        self.output_tokens += len(token_ids)
        self.first_output_ms = self.first_output_ms or self._clock_ms()
        self._output_hash = next_output_hash(self._output_hash, token_ids, text, choice)
        receipt = self._receipt(final=False, finish_reason="")
        number = self.session_number
        self._send(OutputFrame(number, token_ids, text, receipt, logprobs, choice or 0, finish))

    def on_end(self, outcome: str, detail: str) -> None:
        """Send the final receipt and be done."""
        if self.state is AttemptState.ENDED:
            return
        ran = self.state is AttemptState.RUNNING
        self.state = AttemptState.ENDED
        if ran and outcome in REFUSALS and not self.output_tokens:
            self._send(RefuseFrame(self.session_number, outcome, detail[:1000], REFUSED_RETRY_MS))
            self._on_ended(self)
            return
        self.complete = ran and outcome in COMPLETE_OUTCOMES
        receipt = self._receipt(final=True, finish_reason=outcome) if ran else None
        self._send(EndFrame(self.session_number, outcome, detail[:1000], receipt))
        self._on_ended(self)

    def paid_by(
        self, payment: PaymentFrame, lease: Lease | None, notes: DeliveryNotes | None
    ) -> None:
        """Keep what was shown (and verified) as payment, and who notes what is owed."""
        self.payment = payment
        self.lease = lease
        self._notes = notes

    def note_delivery(self, signed: Signed, count: DeliveryCount) -> bool:
        """Keep the highest verified acknowledgement; False if it is not about this work."""
        offer = self.offer
        if (count.job_id, count.attempt) != (offer.job_id, offer.attempt):
            return False
        if (count.hold_id, count.node_id) != (offer.hold_id, offer.node_id):
            return False
        if count.offer_hash != self.offer_hash or count.output_tokens > self.output_tokens:
            return False
        if count.input_tokens > self._input_tokens:
            return False
        delivered = (count.output_tokens, count.input_tokens)
        if delivered >= self._delivered:
            self.delivery = signed
            self._delivered = delivered
            if self._notes is not None:
                self._notes.note(self, count)
        return True

    def _receipt(self, *, final: bool, finish_reason: str) -> Signed:
        offer = self.offer
        document = NodeReceipt(
            job_id=offer.job_id,
            attempt=offer.attempt,
            offer_hash=self.offer_hash,
            hold_id=offer.hold_id,
            gateway_id=offer.gateway_id,
            request_hash=offer.request_hash,
            model_digest=offer.model_digest,
            model_id=self._model_id,
            output_hash=self._output_hash,
            input_tokens=self._input_tokens,
            output_tokens=self.output_tokens,
            started_ms=self.started_ms,
            at_ms=self._clock_ms(),
            final=final,
            finish_reason=finish_reason,
            seed=offer.seed,
            cached_input_tokens=self._cached_input_tokens,
            build=self._work.build,
            mode=self._work.mode,
            sampling_hash=self._work.sampling_hash,
        )
        self.receipt = self._key_pair.sign(self._network, document)
        return self.receipt
