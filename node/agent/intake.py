"""Owns what happens between an offer and its acceptance: rules, a runtime, the exact input.

Theory of operation. First everything that costs nothing (signature, certificate, terms, the
operator's rules, capacity, whether it could begin in time), then a runtime, which may have to be
loaded if the deadline leaves time for it, then the prompt, and what only its length can tell.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.agent.admission_rules import (
    check_begin,
    check_input,
    check_rules,
    jobs_of_a_model_max,
    seconds_until_begin,
)
from node.agent.cache_sharing import scope_of
from node.agent.choices import PreparedChoices, choices_to_run, prepare_choices
from node.agent.offer_rules import Capacity, check_offer
from node.agent.runtime_port import ModelState, Runtime, Served
from node.agent.subcloud_offers import Place
from node.limits import MODEL_WAIT_S_MAX
from p2p.errors import RefusedError
from p2p.job_messages import Offer
from p2p.signing import Signed, open_signed
from p2p.types import PeerId

if TYPE_CHECKING:
    from node.agent.agent import Agent


@dataclass(frozen=True, slots=True)
class Taken:
    """An offer that can be accepted. Its model counts its choices already."""

    offer: Offer
    offer_hash: bytes
    served: Served
    runtime: Runtime
    prepared: PreparedChoices


async def take_offer(agent: Agent, signed: Signed, gateway_id: PeerId, gateway_key: bytes) -> Taken:
    """Check an offer and have its prompt prepared; the agent counts the job already.

    Raises: RefusedError, RuntimeRefusedError, RuntimeUnavailableError, other P2PError.
    """
    offer = open_signed(signed, Offer, agent.network, gateway_key)
    served = agent.models.get(offer.model_digest)
    now_ms = agent.clock_ms()
    check_offer(
        offer,
        node_id=agent.key_pair.peer_id,
        gateway_id=gateway_id,
        gateway=agent.membership.certificate_of(gateway_id),
        configuration=agent.configuration.current,
        model_digest=None if served is None else served.facts.digest,
        capacity=_capacity(agent, served),
        now_ms=now_ms,
        previous=agent.terms.previous(now_ms),
        place=_place(agent, offer),
    )
    assert served is not None
    if offer.task not in served.facts.tasks:
        raise RefusedError("model_not_served", f"{served.facts.name} does not do {offer.task} here")
    choices = len(choices_to_run(offer))
    check_rules(
        agent.rules,
        agent.hours,
        offer,
        gateway_id=gateway_id,
        jobs=agent.jobs - 1,  # this one is counted
        now_ms=now_ms,
        choices=choices,
    )
    if (offer.resume_tokens or offer.resume_choices) and not served.facts.resumable:
        raise RefusedError("not_resumable", "this model's server cannot continue an answer")
    check_begin(offer.deadline_ms, now_ms, _wait_s(agent, served, served.jobs))
    agent.count_work(served, offer.terms.subcloud_id, choices)
    agent.load_changed()
    try:
        runtime, prepared = await _prepare(agent, offer, served)
    except BaseException:
        agent.count_work(served, offer.terms.subcloud_id, -choices)
        raise
    return Taken(offer, hashlib.sha256(signed.body).digest(), served, runtime, prepared)


async def _prepare(agent: Agent, offer: Offer, served: Served) -> tuple[Runtime, PreparedChoices]:
    left_s = agent.deadline_left_s(offer.deadline_ms)
    runtime = await served.runtime(min(left_s, MODEL_WAIT_S_MAX))
    scope = scope_of(offer.cache_scope, agent.cache_shared)
    prepared = await prepare_choices(runtime, offer, scope)
    try:
        _check_prepared(agent, offer, served, prepared)
    except RefusedError:
        for number in prepared.numbers.values():
            runtime.cancel(number)
        raise
    return runtime, prepared


def _check_prepared(agent: Agent, offer: Offer, served: Served, prepared: PreparedChoices) -> None:
    if prepared.input_tokens > offer.input_tokens_max:
        raise RefusedError(
            "price",
            f"the prompt has {prepared.input_tokens} tokens, the offer pays for "
            f"{offer.input_tokens_max}",
        )
    check_input(agent.rules, prepared.input_tokens)
    prefill_s = agent.pace_of(served).prefill_s(prepared.input_tokens)
    wait_s = _wait_s(agent, served, served.jobs - len(prepared.numbers))
    check_begin(offer.deadline_ms, agent.clock_ms(), wait_s, prefill_s)


def _wait_s(agent: Agent, served: Served, jobs: int) -> float:
    pace = agent.pace_of(served)
    return seconds_until_begin(
        jobs=jobs,
        slots=served.slots,
        output_tokens_mean=pace.output_tokens,
        output_tokens_per_s=served.pace.output,
    )


def _place(agent: Agent, offer: Offer) -> Place:
    identity = offer.terms.subcloud_id
    if not identity:
        return Place(agent.subclouds.isolated)
    joined = agent.subclouds.joined(identity)
    digest = offer.terms.policy_digest.hex()
    if joined is not None and digest not in (joined.digest, joined.previous_digest):
        agent.subclouds.policy_wanted(identity)
    return Place(joined=joined, jobs=agent.subcloud_jobs[identity])


def _capacity(agent: Agent, served: Served | None) -> Capacity:
    if served is None:
        return Capacity(0, 1, False, agent.draining)
    jobs_max = jobs_of_a_model_max(agent.rules, served.slots, agent.queue_jobs_max)
    if served.state is ModelState.ACTIVE:
        return Capacity(served.jobs, jobs_max, True, agent.draining, slots=served.slots)
    away = served.state in (ModelState.INACTIVE, ModelState.ARCHIVED)
    reason = f"{served.facts.name} is {served.state}: {served.reason or 'the runtime is starting'}"
    code = "model_not_served" if away else "runtime"
    return Capacity(served.jobs, jobs_max, False, agent.draining, code, reason)
