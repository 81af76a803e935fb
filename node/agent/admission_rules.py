"""Owns the operator's own rules for jobs, and when a job can begin. Pure.

Theory of operation. What the network allows is `offer_rules`; an operator may allow less: fewer
models, callers or hours, no price below a minimum, less load, smaller jobs. Rules about a model
decide whether it is offered at all (`model_refused`); the others are asked for each offer. A caller
is a gateway: who pays stands in no offer, so that nodes cannot tell people apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from node.agent.schedule import Schedule, parse_schedule, show_moment
from p2p.errors import MalformedError, RefusedError
from p2p.job_messages import Offer
from p2p.prices import PriceTerms
from p2p.types import PeerId, public_key_of

RULE_ENTRIES_MAX = 1000
CLOSED_RETRY_S_MAX = 3600.0
"""A gateway need not remember hours; it asks again, and hears it again."""


@dataclass(frozen=True, slots=True)
class OperatorRules:
    """What an operator takes of what the network allows; the default is all of it.

    Attributes:
        models: patterns (`tiny-*`) of the network's names of models; none: all.
        callers_allowed, callers_denied: peer IDs of gateways; none allowed means all.
        input_..._min, output_..._min: the least price, in microcredits for 10**6 tokens.
        schedule, time_zone: weekly windows (`node.agent.schedule`); none: always.
        jobs_max: jobs in this node at once, of all models, waiting ones included; None: no limit
            of its own.
        slots_share_max: the share of each model's slots that may be used.
        input_tokens_max, output_tokens_max: of one job; None: what model and network allow.

    Raises: MalformedError for values that cannot work.
    """

    models: tuple[str, ...] = ()
    callers_allowed: tuple[str, ...] = ()
    callers_denied: tuple[str, ...] = ()
    input_microcredits_per_million_tokens_min: int = 0
    output_microcredits_per_million_tokens_min: int = 0
    schedule: tuple[str, ...] = ()
    time_zone: str = "UTC"
    jobs_max: int | None = None
    slots_share_max: float = 1.0
    input_tokens_max: int | None = None
    output_tokens_max: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked."""
        for name in ("models", "callers_allowed", "callers_denied"):
            if len(getattr(self, name)) > RULE_ENTRIES_MAX:
                raise MalformedError(f"rules: {name} has at most {RULE_ENTRIES_MAX} entries")
        for name in ("callers_allowed", "callers_denied"):
            for caller in getattr(self, name):
                _check_peer_id(name, caller)
        for name in ("jobs_max", "input_tokens_max", "output_tokens_max"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MalformedError(f"rules: {name} must be at least 1, not {value}")
        if not 0 < self.slots_share_max <= 1:
            raise MalformedError("rules: slots_share_max must be above 0 and at most 1")
        for kind in ("input", "output"):
            if getattr(self, f"{kind}_microcredits_per_million_tokens_min") < 0:
                raise MalformedError(f"rules: the least {kind} price must not be negative")
        parse_schedule(self.schedule, self.time_zone)

    def hours(self) -> Schedule:
        """When this node works."""
        return parse_schedule(self.schedule, self.time_zone)


def _check_peer_id(name: str, text: str) -> None:
    """A slip in a peer ID would let in whom the operator wanted out."""
    try:
        public_key_of(PeerId(text))
    except MalformedError as error:
        raise MalformedError(f"rules: {name}: {text!r} is not a peer ID: {error}") from error


NO_RULES = OperatorRules()


def model_refused(rules: OperatorRules, model_name: str, terms: PriceTerms) -> tuple[str, str]:
    """Why a model is not offered: refusal code and reason, both empty if it is."""
    if rules.models and not any(fnmatchcase(model_name, pattern) for pattern in rules.models):
        return "model_not_served", f"the operator's rules do not allow {model_name}"
    for kind, price, least in (
        (
            "input",
            terms.input_microcredits_per_million_tokens,
            rules.input_microcredits_per_million_tokens_min,
        ),
        (
            "output",
            terms.output_microcredits_per_million_tokens,
            rules.output_microcredits_per_million_tokens_min,
        ),
    ):
        if price < least:
            return "price_too_low", (
                f"the operator asks for {least} microcredits for a million {kind} tokens, "
                f"{model_name} pays {price}"
            )
    return "", ""


def check_rules(
    rules: OperatorRules,
    hours: Schedule,
    offer: Offer,
    *,
    gateway_id: PeerId,
    jobs: int,
    now_ms: int,
    choices: int = 1,
) -> None:
    """Decide whether the operator takes an offer.

    Args:
        hours: `rules.hours()`.
        jobs: those that this node has already, of all models.
        choices: those of the offer that are to run: each is a job.
    Raises: RefusedError: `caller_not_allowed`, `outside_hours`, `model_not_served`,
        `price_too_low`, `too_large` or `busy`.
    """
    if gateway_id in rules.callers_denied:
        raise RefusedError("caller_not_allowed", "the operator takes no jobs of this gateway")
    if rules.callers_allowed and gateway_id not in rules.callers_allowed:
        raise RefusedError("caller_not_allowed", "the operator takes jobs of certain gateways only")
    if not hours.is_open(now_ms):
        opens_ms = hours.opens_ms(now_ms)
        raise RefusedError(
            "outside_hours",
            f"this node works again at {show_moment(opens_ms)}",
            min((opens_ms - now_ms) / 1000, CLOSED_RETRY_S_MAX),
        )
    code, reason = model_refused(rules, offer.terms.model_name, offer.terms)
    if code:
        raise RefusedError(code, reason)
    if rules.output_tokens_max is not None and offer.output_tokens_max > rules.output_tokens_max:
        raise RefusedError(
            "too_large",
            f"the operator takes jobs of up to {rules.output_tokens_max} output tokens, this one "
            f"may have {offer.output_tokens_max}",
        )
    if rules.jobs_max is not None and choices > rules.jobs_max:
        raise RefusedError(
            "too_many_choices", f"the operator takes {rules.jobs_max} jobs at once, not {choices}"
        )
    if rules.jobs_max is not None and jobs + choices > rules.jobs_max:
        raise RefusedError("busy", f"the operator's limit of {rules.jobs_max} jobs is reached", 1.0)


def check_input(rules: OperatorRules, input_tokens: int) -> None:
    """Decide whether the operator takes a job with this exact input. Raises: RefusedError."""
    if rules.input_tokens_max is not None and input_tokens > rules.input_tokens_max:
        raise RefusedError(
            "too_large",
            f"the operator takes jobs of up to {rules.input_tokens_max} input tokens, this one has "
            f"{input_tokens}",
        )


def jobs_of_a_model_max(rules: OperatorRules, slots: int, queue_jobs_max: int) -> int:
    """How many jobs of one model may be here: running and waiting ones.

    With a share of the slots nothing waits beyond it: what waits would take the other slots.
    """
    if rules.slots_share_max < 1:
        return max(1, int(slots * rules.slots_share_max))
    return slots + queue_jobs_max


def seconds_until_begin(
    *, jobs: int, slots: int, output_tokens_mean: float, output_tokens_per_s: float
) -> float:
    """How long a new job would wait for a slot, behind `jobs` that are here already.

    Each end frees a slot, and a node that makes so many tokens a second with jobs of so many tokens
    has so many ends a second. 0 as long as there is a free slot or nothing was measured.
    """
    ahead = jobs - slots + 1
    if ahead <= 0 or output_tokens_per_s <= 0:
        return 0.0
    return ahead * output_tokens_mean / output_tokens_per_s


def check_begin(deadline_ms: int, now_ms: int, wait_s: float, prefill_s: float = 0.0) -> None:
    """Refuse what cannot have its first token in time. Raises: RefusedError (`deadline`)."""
    begins_ms = now_ms + int((wait_s + prefill_s) * 1000)
    if begins_ms > deadline_ms:
        raise RefusedError(
            "deadline",
            f"its first token would come in {wait_s + prefill_s:.1f} s ({wait_s:.1f} s of them "
            f"waiting), {(begins_ms - deadline_ms) / 1000:.1f} s after the deadline",
            wait_s or None,
        )
