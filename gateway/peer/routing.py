"""Owns the choice of a node: filter, then score. Pure.

Theory of operation. Every filter that removes a node counts it under its reason, so that a
refusal can say why nobody was left without naming anybody. What passes is scored by the expected
time until the job would be finished there: waiting for a slot (one for each choice), time to the
first token, and the output at the node's measured speed. A node that lost a job lately comes after
all others. Ties go to the node that was chosen least often."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from p2p.embeddings import CHAT
from p2p.types import PeerId

DEFAULT_TOKENS_PER_SECOND = 20.0
"""Assumed of a node that has not told its speed: slow enough that a measured one is preferred."""
DEFAULT_FIRST_TOKEN_S = 0.5
_SMOOTHING = 0.2
_PENALTY_SCORE = 1e6

REASONS = {
    "other_model": "serve other models",
    "banned": "are shut out by the network's configuration",
    "no_certificate": "have no valid certificate any more",
    "context": "have a shorter context than the job needs",
    "images": "take no images",
    "task": "serve the model for something else",
    "choices": "have fewer slots than the request has choices",
    "draining": "are leaving",
    "no_session": "cannot be reached at the moment",
    "not_accepting": "take no work at the moment",
    "voucher_only": "do not go on with what began under a lease",
    "tried": "were tried for this job already",
    "isolated": "work for subclouds only",
}
"""Why a node is removed, as a refusal words it."""


@dataclass(slots=True)
class Candidate:
    """What is known of one node for one model. Kept up to date by the registry."""

    peer_id: PeerId
    model_digest: bytes
    model_id: bytes
    context_tokens: int
    slots: int
    takes_images: bool = False
    verified: bool = True
    tasks: tuple[str, ...] = (CHAT,)
    needs_voucher: bool = False
    """It said that it takes no leases: jobs that are offered to it get a hold of their own."""
    certificate_expires_ms: int = 2**62
    banned: bool = False
    draining: bool = False
    connected: bool = False
    accepting: bool = True
    running: int = 0
    queued: int = 0
    tokens_per_second: float = 0.0
    first_token_s: float = 0.0
    in_flight: int = 0
    chosen: int = 0
    penalty_until_s: float = 0.0

    def observe_first_token(self, seconds: float) -> None:
        """Fold a measured time to the first token into the running mean."""
        known = self.first_token_s or seconds
        self.first_token_s = known + _SMOOTHING * (seconds - known)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job needs of its node."""

    model_digest: bytes
    output_tokens_max: int
    needs_images: bool = False
    model_id: bytes | None = None
    """Set for a continuation: only the same tensors and tokenizer continue an answer."""
    output_tokens_asked: int = 1
    """What the client asked for by name; a mere default may end sooner on a smaller node."""
    task: str = CHAT
    bound_to_lease: bool = False
    """Its output so far is paid from a lease: one job cannot be paid from two holds."""
    choices: int = 1
    """Each takes a slot."""
    verified: bool = True
    """Whether the model is one that a digest proves; adverts that say otherwise do not count."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The node to try, or None, and how many nodes each filter removed."""

    candidate: Candidate | None
    removed: dict[str, int] = field(default_factory=dict)


def choose(
    wanted: Wanted,
    candidates: Iterable[Candidate],
    *,
    tried: Collection[PeerId],
    now_s: float,
    now_ms: int,
) -> Choice:
    """Choose the node for the next attempt.

    Args:
        tried: nodes that this job has been to.
        now_s: the monotonic clock of `Candidate.penalty_until_s`; now_ms: the time of day.
    """
    removed: dict[str, int] = {}
    best: Candidate | None = None
    best_score = (0.0, 0)
    for candidate in candidates:
        reason = _removal(wanted, candidate, tried, now_ms)
        if reason is not None:
            removed[reason] = removed.get(reason, 0) + 1
            continue
        candidate_score = (score(wanted, candidate, now_s), candidate.chosen)
        if best is None or candidate_score < best_score:
            best, best_score = candidate, candidate_score
    return Choice(best, removed)


def _removal(
    wanted: Wanted, candidate: Candidate, tried: Collection[PeerId], now_ms: int
) -> str | None:
    if candidate.model_digest != wanted.model_digest or (
        wanted.model_id is not None and candidate.model_id != wanted.model_id
    ):
        return "other_model"
    if candidate.verified is not wanted.verified:
        return "other_model"
    if wanted.task not in candidate.tasks:
        return "task"
    if candidate.peer_id in tried:
        return "tried"
    if candidate.banned:
        return "banned"
    if candidate.certificate_expires_ms <= now_ms:
        return "no_certificate"
    if candidate.context_tokens <= wanted.output_tokens_asked:
        return "context"
    if wanted.needs_images and not candidate.takes_images:
        return "images"
    if candidate.draining:
        return "draining"
    if not candidate.connected:
        return "no_session"
    if wanted.bound_to_lease and candidate.needs_voucher:
        return "voucher_only"
    if not candidate.accepting:
        return "not_accepting"
    # Last: one that takes nothing now tells of no slots either.
    return "choices" if candidate.slots < wanted.choices > 1 else None


def score(wanted: Wanted, candidate: Candidate, now_s: float) -> float:
    """Give the expected seconds until a job would be finished on a node (lower is better).

    Its choices run side by side, each in a slot: the last one begins when so many are free.
    """
    speed = candidate.tokens_per_second or DEFAULT_TOKENS_PER_SECOND
    answer_s = wanted.output_tokens_max / speed
    # What we sent ourselves is known at once, what others sent comes with the node's next report.
    occupied = max(candidate.running + candidate.queued, candidate.in_flight)
    slots = max(1, candidate.slots)
    waiting_s = max(0, occupied - slots + wanted.choices) * answer_s / slots
    crowding_s = answer_s * min(occupied + wanted.choices - 1, slots) / slots
    first_s = candidate.first_token_s or DEFAULT_FIRST_TOKEN_S
    penalty = _PENALTY_SCORE if candidate.penalty_until_s > now_s else 0.0
    return waiting_s + first_s + answer_s + crowding_s + penalty


def explain(model: str, removed: dict[str, int], refusals: dict[str, int]) -> str:
    """Say in one line why no node takes a job; names reasons and numbers, never nodes.

    Args:
        removed: nodes removed by each filter. refusals: answers of nodes that were asked, by code.
    """
    parts = [f"{count} {REASONS[reason]}" for reason, count in removed.items() if reason != "tried"]
    parts += [f"{count} answered {code}" for code, count in refusals.items()]
    if not parts:
        return f"No node serves the model {model} at the moment."
    return f"No node can take this job for {model} now: of those known, {', '.join(parts)}."
