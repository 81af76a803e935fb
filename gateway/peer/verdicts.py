"""Owns what the answers of nodes mean for a job: try elsewhere, or tell the client what to mend.
Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gateway.errors import (
    AnswerFailedError,
    ContextLengthError,
    GatewayError,
    InvalidRequestError,
    NoNodeError,
    UnsupportedError,
)
from gateway.limits import RETRY_AFTER_S
from gateway.peer.attempt import Refusal
from gateway.peer.routing import Choice, explain
from p2p.embeddings import CHAT, EMBEDDINGS

_BLAMELESS = {"busy", "draining", "deadline", "price", "needs_voucher"}
_BLAMELESS |= {"context_length_exceeded", "bad_request", "unsupported"}
_BLAMELESS |= {"not_resumable", "caller_not_allowed", "price_too_low", "outside_hours", "too_large"}
_BLAMELESS |= {"too_many_choices", "isolated", "not_member", "policy_unknown", "policy_over"}
_BLAMELESS |= {"gateway_not_admitted", "model_not_admitted", "suspended"}


@dataclass(slots=True)
class Verdicts:
    """What a job has heard from the nodes it was offered to."""

    counts: Counter[str] = field(default_factory=Counter)
    retry_after_s: float = RETRY_AFTER_S
    lacking: GatewayError | None = None
    """What the client is told if no other node's server can do it either."""

    def note(self, code: str, retry_after_ms: int = 0) -> None:
        """Count one answer that was not a complete one."""
        self.counts[code] += 1
        if retry_after_ms:
            self.retry_after_s = max(self.retry_after_s, retry_after_ms / 1000)

    def nobody_left(
        self, model: str, choice: Choice, output_began: bool, text: str = ""
    ) -> GatewayError:
        """The error for a job that no further node takes; `text` explains it, if another one does
        than `explain`."""
        text = text or explain(model, choice.removed, dict(self.counts))
        if output_began:
            return AnswerFailedError(
                f"The answer broke off and could not be continued. {text}",
                retry_after_s=self.retry_after_s,
            )
        if self.lacking is not None and set(self.counts) == {"unsupported"}:
            return self.lacking
        reasons = set(choice.removed)
        if "images" in reasons and reasons <= {"images", "other_model"} and not self.counts:
            return UnsupportedError(
                f"No node of this network takes images for {model}.", param="messages"
            )
        return NoNodeError(text, retry_after_s=self.retry_after_s)


def is_blamed(code: str) -> bool:
    """Whether a refusal says something against the node itself."""
    return code not in _BLAMELESS


def client_error(
    refusal: Refusal, *, longer_context_exists: bool, task: str = CHAT
) -> GatewayError | None:
    """The error that a refusal means for the client; None if another node may take the job."""
    if refusal.code == "context_length_exceeded":
        if longer_context_exists:
            return None
        if task == EMBEDDINGS:
            return ContextLengthError(
                f"This model's maximum context length is {refusal.context_tokens} tokens. However, "
                f"one of your inputs has {refusal.input_tokens} tokens. Please shorten it.",
                param="input",
            )
        if not refusal.input_tokens:  # a server that does not say how long the prompt is
            return ContextLengthError(
                "Your messages are too long for this model's context. Please reduce their length.",
                param="messages",
            )
        return ContextLengthError(
            f"This model's maximum context length is {refusal.context_tokens} tokens. However, "
            f"your messages resulted in {refusal.input_tokens} tokens. Please reduce their length.",
            param="messages",
        )
    if refusal.code == "unsupported":
        return UnsupportedError(refusal.reason or "This is not supported by the node's runtime.")
    if refusal.code == "bad_request":
        return InvalidRequestError(refusal.reason or "The request cannot be rendered.")
    return None
