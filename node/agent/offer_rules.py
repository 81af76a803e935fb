"""Owns the rules by which a node takes or refuses an offer, and believes a voucher. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from node.agent.choices import choices_to_run
from node.agent.subcloud_offers import GLOBAL_ONLY, Place, check_global, check_subcloud_offer
from node.limits import SLOTS_MAX
from p2p.certificates import Certificate
from p2p.errors import RefusedError, UntrustedError
from p2p.freshness import check_times
from p2p.job_messages import Offer
from p2p.lease_messages import Lease, LeasedHold, leased_hold_id
from p2p.ledger_messages import Voucher
from p2p.limits import CLOCK_SKEW_MS_MAX
from p2p.network_configuration import NetworkConfiguration, terms_allowed
from p2p.prices import charge
from p2p.types import PeerId, Role

TIME_TO_WORK_MS_MIN = 250
"""Less than this before the deadline is not worth starting."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the node can take at this moment."""

    jobs: int
    jobs_max: int
    runtime_ready: bool
    draining: bool
    refusal: str = "runtime"
    reason: str = "the runtime is starting"
    """What an offer hears while the runtime is not ready."""
    slots: int = SLOTS_MAX
    """Jobs that run at once: one for each choice of an offer."""


def check_offer(
    offer: Offer,
    *,
    node_id: PeerId,
    gateway_id: PeerId,
    gateway: Certificate | None,
    configuration: NetworkConfiguration,
    model_digest: bytes | None,
    capacity: Capacity,
    now_ms: int,
    previous: NetworkConfiguration | None = None,
    place: Place = GLOBAL_ONLY,
) -> None:
    """Decide whether a verified offer may be taken.

    Args:
        gateway_id: who is at the other end of the session (and signed the offer).
        gateway: its certificate, None if it has no valid one any more.
        model_digest: of the model that this node has for the offer; None: it has none.
        previous: the configuration before, while its terms still count (`p2p.allowed_terms`).
        place: where this node stands as to the subcloud that the offer is of, if any.
    Raises: RefusedError with one of `p2p.job_messages.REFUSALS`.
    """
    if gateway is None or gateway.role is not Role.GATEWAY:
        raise RefusedError("not_entitled", "only a certified gateway may offer jobs")
    if configuration.is_banned(gateway_id):
        raise RefusedError("not_entitled", "this gateway is banned")
    if offer.gateway_id != gateway_id or offer.node_id != node_id:
        raise RefusedError("not_entitled", "the offer names another gateway or node")
    if hashlib.sha256(offer.request).digest() != offer.request_hash:
        raise RefusedError("not_entitled", "the request does not match its hash")
    if offer.terms.subcloud_id:
        if offer.model_digest != model_digest:
            raise RefusedError("model_not_served", "this node does not serve that model")
        check_subcloud_offer(
            offer,
            place,
            gateway=gateway,
            configuration=configuration,
            previous=previous,
            now_ms=now_ms,
        )
    else:
        check_global(place)
        _check_terms(offer, configuration, previous, model_digest)
    _check_amounts(offer)
    if capacity.draining:
        raise RefusedError("draining", "this node is leaving")
    if not capacity.runtime_ready:
        raise RefusedError(capacity.refusal, capacity.reason, 1.0)
    if offer.choices > 1:
        _check_choices(len(choices_to_run(offer)), capacity)
    if capacity.jobs >= capacity.jobs_max:
        raise RefusedError("busy", f"{capacity.jobs} jobs are running or waiting", 1.0)
    if offer.deadline_ms - now_ms < TIME_TO_WORK_MS_MIN:
        raise RefusedError("deadline", "the deadline is too close")
    if offer.deadline_ms - now_ms > configuration.limits.job_deadline_s_max * 1000 + 60_000:
        raise RefusedError("deadline", "the deadline is later than the configuration allows")


def _check_choices(choices: int, capacity: Capacity) -> None:
    slots = min(capacity.slots, capacity.jobs_max)  # the operator may keep some for others
    if choices > slots:
        raise RefusedError(
            "too_many_choices", f"{choices} choices need more than the {slots} slots here"
        )
    if capacity.jobs + choices > capacity.jobs_max:
        raise RefusedError("busy", f"{capacity.jobs} jobs are running or waiting", 1.0)


def _check_terms(
    offer: Offer,
    configuration: NetworkConfiguration,
    previous: NetworkConfiguration | None,
    model_digest: bytes | None,
) -> None:
    model = configuration.model_with_digest(offer.model_digest)
    if offer.model_digest != model_digest or model is None:
        raise RefusedError("model_not_served", "this node does not serve that model")
    allowed = any(
        known is not None and terms_allowed(known, offer.terms)
        for known in (configuration, previous)
    )
    if offer.terms.model_name != model.name or not allowed:
        raise RefusedError("price", "the terms differ from the network's configuration")


def _check_amounts(offer: Offer) -> None:
    if offer.maximum < charge(offer.terms, offer.input_tokens_max, offer.output_tokens_max):
        raise RefusedError("price", "the hold is smaller than the job could cost")
    if len(offer.resume_tokens) > offer.output_tokens_max:
        raise RefusedError("bad_request", "more resumed tokens than the job may produce")


def check_voucher(voucher: Voucher, offer: Offer, now_ms: int) -> None:
    """Check that a verified voucher pays for this offer.

    Raises: UntrustedError (StaleError if it has expired).
    """
    check_times(voucher.issued_ms, voucher.expires_ms, now_ms)
    if (voucher.hold_id, voucher.job_id) != (offer.hold_id, offer.job_id):
        raise UntrustedError("the voucher is for another job")
    if voucher.gateway_id != offer.gateway_id:
        raise UntrustedError("the voucher is for another gateway")
    if voucher.maximum < offer.maximum or voucher.terms != offer.terms:
        raise UntrustedError("the voucher promises less than the offer")
    if voucher.expires_ms < offer.deadline_ms:
        raise UntrustedError("the voucher ends before the job may")


def check_leased_hold(lease: Lease, hold: LeasedHold, offer: Offer, now_ms: int) -> None:
    """Check that a verified lease, and the gateway's part of it, pay for this offer.

    Raises: UntrustedError (StaleError if one of them has expired).
    """
    check_times(lease.issued_ms, lease.expires_ms, now_ms)
    check_times(hold.issued_ms, hold.expires_ms, now_ms)
    if hold.lease_id != lease.lease_id:
        raise UntrustedError("the leased hold names another lease")
    if lease.gateway_id != offer.gateway_id:
        raise UntrustedError("the lease is another gateway's")
    if (hold.hold_id, hold.job_id) != (offer.hold_id, offer.job_id):
        raise UntrustedError("the leased hold is for another job")
    if hold.hold_id != leased_hold_id(hold.lease_id, hold.job_id):
        raise UntrustedError("the ID of the leased hold does not follow from its lease and job")
    if hold.maximum < offer.maximum or lease.terms != offer.terms:
        raise UntrustedError("the lease promises less than the offer")
    if hold.maximum > lease.amount:
        raise UntrustedError("the leased hold is larger than its lease")
    if min(hold.expires_ms, lease.expires_ms) < offer.deadline_ms:
        raise UntrustedError("the lease ends before the job may")
    if hold.expires_ms > lease.expires_ms:
        raise UntrustedError("the leased hold outlives its lease")
    if hold.issued_ms < lease.issued_ms - CLOCK_SKEW_MS_MAX:
        raise UntrustedError("the leased hold is older than its lease")
