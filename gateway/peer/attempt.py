"""Owns one attempt's protocol state: what a node may say next, and what of it is believed. Pure.

Theory of operation. An attempt goes offered -> accepted -> streaming -> over. Every frame is held
against the offer: the accept must name it, output may not come before the accept, exceed the
token limit or the text that so many tokens can make, and each output frame's receipt must
continue the running hash and the counts by exactly what the frame carries. Signatures are not
checked here frame by frame (36 microseconds each): the receipt that is settled on is verified at
the end (`verified_receipt`). A node that breaks a rule ends its attempt as `failed`; it is paid
up to its last good frame."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.limits import (
    ACCEPT_TIMEOUT_S,
    FIRST_TOKEN_TIMEOUT_PER_TOKEN_S,
    FIRST_TOKEN_TIMEOUT_S,
    LOGPROB_BYTES_MEAN_MAX,
    STALL_TIMEOUT_S,
    TEXT_BYTES_PER_TOKEN_MAX,
    TEXT_BYTES_SLACK,
)
from gateway.peer.unverified_counts import UnverifiedCounts
from p2p.codec import decode_message
from p2p.embeddings import VectorLines
from p2p.errors import MalformedError, P2PError, UntrustedError
from p2p.job_messages import (
    OUTPUT_HASH_START,
    Accept,
    AcceptFrame,
    EndFrame,
    NodeReceipt,
    Offer,
    OutputFrame,
    RefuseFrame,
    next_output_hash,
)
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.signing import Signed, verify_bytes
from p2p.types import NetworkId, PeerId, public_key_of

CHOICE_FINISHES = ("stop", "length", "tool_calls")
EMPTY_FINISHES = ("stop", "length")
"""With these in a final receipt the ledger charges the input of an answer without output."""


class Phase(enum.Enum):
    """Where an attempt stands."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    STREAMING = "streaming"
    OVER = "over"


class Ending(enum.Enum):
    """How an attempt ended."""

    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node's refusal: code (`p2p.job_messages.REFUSALS`), reason and the numbers that go with
    it."""

    code: str
    reason: str
    retry_after_ms: int
    input_tokens: int
    context_tokens: int


class Attempt:
    """One dispatch of a job to one node."""

    __slots__ = (
        "_expected_hash",
        "_finished",
        "_latest",
        "_logprob_bytes",
        "_logprobs",
        "_proved_finish",
        "_text_bytes",
        "_tokens_left",
        "_top_logprobs",
        "_unverified",
        "_vectors",
        "_verified",
        "accepted",
        "blameless",
        "cached_input_tokens",
        "detail",
        "ending",
        "finish_reason",
        "first_output_s",
        "input_tokens",
        "last_output_s",
        "node_id",
        "offer",
        "offer_hash",
        "output_tokens",
        "paid_s",
        "phase",
        "progress_s",
        "refusal",
        "signed_offer",
        "started_s",
    )

    def __init__(
        self,
        offer: Offer,
        signed_offer: Signed,
        now_s: float,
        top_logprobs: int | None = None,
        vectors: VectorLines | None = None,
        unverified: UnverifiedCounts | None = None,
    ) -> None:
        """Start as offered at `now_s` (monotonic seconds).

        `top_logprobs`: as in `gateway.jobs.ChatJob`. `vectors`: what an embeddings job expects.
        `unverified`: of a model that nobody can verify.
        """
        self.offer = offer
        self.signed_offer = signed_offer
        self.offer_hash = signed_offer.digest()
        self.node_id: PeerId = offer.node_id
        self.phase = Phase.OFFERED
        self.ending: Ending | None = None
        self.finish_reason = ""
        self.detail = ""
        self.refusal: Refusal | None = None
        self.input_tokens = 0
        self.cached_input_tokens = 0
        self.output_tokens = 0
        self.started_s = self.progress_s = self.paid_s = now_s
        self.first_output_s: float | None = None
        self.last_output_s = now_s
        self.accepted: Signed | None = None
        """The node's Accept; its signature is checked only where it proves something."""
        self.blameless = False
        """Whether what ended the attempt was not the node's fault, whatever its ending."""
        self._top_logprobs = top_logprobs
        self._vectors = vectors
        self._unverified = unverified
        each = offer.output_tokens_max // offer.choices - len(offer.resume_tokens)
        self._tokens_left = [each] * offer.choices
        self._finished = [False] * offer.choices
        for known in offer.resume_choices:
            self._tokens_left[known.choice] -= len(known.token_ids)
            self._finished[known.choice] = bool(known.finish)
        self._text_bytes = 0
        self._logprobs = self._logprob_bytes = 0
        self._proved_finish = ""
        self._expected_hash = OUTPUT_HASH_START
        self._latest: Signed | None = None
        self._verified: Signed | None = None

    @property
    def latest_receipt(self) -> Signed | None:
        """The last receipt whose numbers fitted (its signature is not checked yet)."""
        return self._latest

    @property
    def jobs(self) -> int:
        """The choices that are to run: each takes a slot of the node."""
        return self._finished.count(False)

    # --- frames ---------------------------------------------------------------------------------
    def accept(self, frame: AcceptFrame, now_s: float) -> None:
        """The node takes the job. Raises: MalformedError, UntrustedError."""
        if self.phase is not Phase.OFFERED:
            raise MalformedError("an accept where none belongs")
        # Its signature is not checked: the receipt that is settled on says the same, and is.
        accept = decode_message(frame.accept.body, Accept)
        offer = self.offer
        if (accept.job_id, accept.attempt, accept.offer_hash) != (
            offer.job_id,
            offer.attempt,
            self.offer_hash,
        ):
            raise UntrustedError("an accept of another offer")
        if accept.input_tokens > offer.input_tokens_max + len(offer.resume_tokens):
            raise UntrustedError("an accept with more input than the request can have")
        self.input_tokens = accept.input_tokens
        if self._unverified is not None:
            self._unverified.accept(accept.input_tokens)
        self.accepted = frame.accept
        self.phase = Phase.ACCEPTED
        self.progress_s = now_s

    def output(self, frame: OutputFrame, now_s: float) -> None:
        """The node gives output. Raises: MalformedError, UntrustedError."""
        if self.phase not in (Phase.ACCEPTED, Phase.STREAMING):
            raise MalformedError("output where none belongs")
        self._check_choice(frame)
        self._check_logprobs(frame)
        count = self.output_tokens + len(frame.token_ids)
        self._check_text(frame.text, count)
        if self._unverified is not None:
            self._unverified.take_output(frame.token_ids, frame.text, count)
        choice = frame.choice if self.offer.choices > 1 else None
        try:
            self._expected_hash = next_output_hash(
                self._expected_hash, frame.token_ids, frame.text, choice
            )
        except (OverflowError, UnicodeEncodeError) as error:
            raise MalformedError("output with impossible tokens or text") from error
        self._take_receipt(frame.receipt, count, now_s)
        self.output_tokens = count
        self._tokens_left[frame.choice] -= len(frame.token_ids)
        if frame.finish:
            self._finished[frame.choice] = True
        self.phase = Phase.STREAMING
        if frame.token_ids or frame.text or frame.finish:  # what is empty is no progress
            self.progress_s = self.last_output_s = now_s
            if self.first_output_s is None:
                self.first_output_s = now_s

    def _check_text(self, text: str, tokens: int) -> None:
        if self._vectors is not None:
            self._vectors.take(text)
            return
        self._text_bytes += len(text)
        if self._text_bytes > tokens * TEXT_BYTES_PER_TOKEN_MAX + TEXT_BYTES_SLACK:
            raise UntrustedError("more text than its tokens can make")

    def _check_choice(self, frame: OutputFrame) -> None:
        if frame.choice >= self.offer.choices or self._finished[frame.choice]:
            raise MalformedError("output of a choice that does not run")
        if frame.finish and (self.offer.choices == 1 or frame.finish not in CHOICE_FINISHES):
            raise MalformedError("a choice that ended in an unknown way")
        if len(frame.token_ids) > self._tokens_left[frame.choice]:
            raise UntrustedError("more output than the offer allows")

    def _check_logprobs(self, frame: OutputFrame) -> None:
        wanted = self._top_logprobs
        if len(frame.logprobs) != (0 if wanted is None else len(frame.token_ids)):
            raise MalformedError("output with more or fewer logprobs than were asked for")
        if any(len(one.top) > (wanted or 0) for one in frame.logprobs):
            raise MalformedError("output with more alternatives than were asked for")
        for one in frame.logprobs:
            self._logprobs += 1 + len(one.top)
            self._logprob_bytes += len(one.data) + sum(len(other.data) for other in one.top)
        if self._logprob_bytes > self._logprobs * LOGPROB_BYTES_MEAN_MAX + TEXT_BYTES_SLACK:
            raise UntrustedError("longer alternatives than vocabularies have")

    def end(self, frame: EndFrame, now_s: float) -> None:
        """The node is done. Raises: MalformedError, UntrustedError."""
        if self.phase is Phase.OVER:
            return
        if frame.receipt is not None and self.phase in (Phase.ACCEPTED, Phase.STREAMING):
            self._take_receipt(frame.receipt, self.output_tokens, now_s)
        endings = {"stop": Ending.COMPLETE, "length": Ending.COMPLETE}
        endings |= {"tool_calls": Ending.COMPLETE, "cancelled": Ending.CANCELLED}
        ending = endings.get(frame.outcome, Ending.FAILED)
        if ending is Ending.COMPLETE and self._latest is None:
            raise UntrustedError("a complete answer without a receipt")
        if ending is Ending.COMPLETE and self.offer.choices > 1 and not all(self._finished):
            raise UntrustedError("a complete answer with choices that are not over")
        if ending is Ending.COMPLETE and self._vectors is not None and not self._vectors.complete:
            raise UntrustedError("a complete answer that lacks vectors")
        is_empty = not self.output_tokens
        if ending is Ending.COMPLETE and is_empty and self._proved_finish not in EMPTY_FINISHES:
            raise UntrustedError("a complete answer without output, and no final receipt says so")
        self.finish_reason = frame.outcome
        self._over(ending, frame.detail)

    def refuse(self, frame: RefuseFrame) -> None:
        """The node does not take the job. Raises: MalformedError."""
        if self.phase is Phase.OVER:
            return
        if self.phase is not Phase.OFFERED and self.output_tokens:
            raise MalformedError("a refusal after output")
        self.refusal = Refusal(
            frame.code, frame.reason, frame.retry_after_ms, frame.input_tokens, frame.context_tokens
        )
        self._over(Ending.REFUSED, frame.code)

    def fail(self, ending: Ending, detail: str) -> None:
        """The attempt ended for a reason that is not in a frame (idempotent)."""
        if self.phase is not Phase.OVER:
            self._over(ending, detail)

    def _over(self, ending: Ending, detail: str) -> None:
        self.phase = Phase.OVER
        self.ending = ending
        self.detail = detail

    # --- time -----------------------------------------------------------------------------------
    def paid(self, now_s: float) -> None:
        """The node has its voucher from now on: the time that the ledger took is not the node's."""
        self.progress_s = max(self.progress_s, now_s)
        self.paid_s = now_s

    def overdue(self, now_s: float) -> str | None:
        """Say which deadline the node missed, if any."""
        silent_s = now_s - self.progress_s
        if self.phase is Phase.OFFERED and silent_s > ACCEPT_TIMEOUT_S:
            return "no acceptance in time"
        patience_s = FIRST_TOKEN_TIMEOUT_S + self.input_tokens * FIRST_TOKEN_TIMEOUT_PER_TOKEN_S
        if self.phase is Phase.ACCEPTED and silent_s > patience_s:
            return "no first token in time"
        # One long text is one silence: vectors may take as long as a first token.
        stall_s = STALL_TIMEOUT_S if self._vectors is None else patience_s
        if self.phase is Phase.STREAMING and silent_s > stall_s:
            return "no output for a long time"
        return None

    # --- receipts -------------------------------------------------------------------------------
    def _take_receipt(self, signed: Signed, count: int, now_s: float) -> None:
        receipt = decode_message(signed.body, NodeReceipt)
        offer = self.offer
        now_ms = offer.issued_ms + int((now_s - self.started_s) * 1000)
        if (
            receipt.output_hash != self._expected_hash
            or receipt.output_tokens != count
            or not self._input_fits(receipt.input_tokens)
            or receipt.cached_input_tokens > receipt.input_tokens
            # The ledger pays on none of another time than ours.
            or not receipt.started_ms <= receipt.at_ms <= now_ms + CLOCK_SKEW_MS_MAX
            or receipt.offer_hash != self.offer_hash
            or receipt.job_id != offer.job_id
            or receipt.attempt != offer.attempt
            or receipt.hold_id != offer.hold_id
            or receipt.gateway_id != offer.gateway_id
            or receipt.request_hash != offer.request_hash
            or receipt.model_digest != offer.model_digest
        ):
            raise UntrustedError("a receipt that does not fit what was delivered")
        self._latest = signed
        self._proved_finish = receipt.finish_reason if receipt.final else ""
        self.input_tokens = receipt.input_tokens
        self.cached_input_tokens = receipt.cached_input_tokens

    def _input_fits(self, input_tokens: int) -> bool:
        if self._unverified is not None:
            return self._unverified.take_input(input_tokens)
        return input_tokens == self.input_tokens

    def verified_receipt(self, network: NetworkId) -> Signed | None:
        """The receipt to settle on, its signature checked (once); None if there is none or it is
        forged."""
        latest = self._latest
        if latest is None or latest is self._verified:
            return latest
        node_key = public_key_of(self.node_id)
        if latest.signer != node_key:
            return None
        try:
            # What it says was held against what was delivered when it came.
            verify_bytes(network, NodeReceipt.PURPOSE, latest.body, node_key, latest.signature)
        except P2PError:
            return None
        self._verified = latest
        return latest
