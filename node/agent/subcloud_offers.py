"""Owns the rules by which a node takes or refuses an offer under a subcloud's policy. Pure.

Theory of operation. The price terms of an offer name the pool that it is of: a subcloud and the
version of its policy, or nothing for the global pool. The gateway has checked all of this already;
the node checks again, by the policy that it verified itself, and refuses what it does not know.
Whether the caller is allowed is proved by the voucher: the ledger signs these very terms only for
callers that the policy allows, so that the node need not learn who pays. Terms of the version
before still count during its grace, but who may send and what may run is judged by the version in
force.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.agent.choices import choices_to_run
from p2p.certificates import Certificate
from p2p.errors import RefusedError
from p2p.job_messages import Offer
from p2p.network_configuration import NetworkConfiguration
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.terms import model_of_digest, subcloud_terms

POLICY_RETRY_S = 1.0
"""A policy is fetched within a call or two."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A membership of this node, as offers are judged by it.

    Attributes:
        policy, digest: the version in force (its digest in hex).
        previous, previous_digest: the version before, while its grace lasts; else None and empty.
        suspended: why the node takes no job there at the moment; empty: it does.
        models: the digests that it may serve there (policy and certificate admit them).
        slots_max: how many jobs at once its certificate admits there; 0: no limit of its own.
    """

    policy: SubcloudPolicy
    digest: str
    previous: SubcloudPolicy | None = None
    previous_digest: str = ""
    suspended: str = ""
    models: frozenset[bytes] = frozenset()
    slots_max: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where this node stands as to an offer's pool.

    Attributes:
        isolated: the subcloud for which it left the global pool; empty if it did not.
        joined: its membership of the offer's subcloud; None: none. jobs: those of it that run here.
    """

    isolated: str = ""
    joined: Joined | None = None
    jobs: int = 0


GLOBAL_ONLY = Place()


def check_global(place: Place) -> None:
    """Refuse a job of the global pool at a node that left it. Raises: RefusedError."""
    if place.isolated:
        raise RefusedError("isolated", "this node works for one subcloud only")


def check_subcloud_offer(
    offer: Offer,
    place: Place,
    *,
    gateway: Certificate,
    configuration: NetworkConfiguration,
    previous: NetworkConfiguration | None,
    now_ms: int,
) -> None:
    """Decide whether an offer may run under the policy that its terms name.

    Raises: RefusedError: `not_member`, `policy_over`, `policy_unknown`, `gateway_not_admitted`,
        `suspended`, `model_not_admitted`, `price`, `too_many_choices` or `busy`.
    """
    terms, joined = offer.terms, place.joined
    if joined is None:
        raise RefusedError("not_member", "this node is not a member of that subcloud")
    policy = joined.policy
    if policy.ended or policy.expires_ms <= now_ms:
        raise RefusedError("policy_over", "the subcloud's policy has ended")
    if terms.subcloud_id in configuration.subclouds.banned:
        raise RefusedError("policy_over", "the network has banned that subcloud")
    named = _version_named(joined, terms.policy_digest.hex())
    if not policy.admits_gateway(gateway.peer_id, gateway.account_id):
        raise RefusedError("gateway_not_admitted", "the policy does not admit this gateway")
    if joined.suspended:
        raise RefusedError("suspended", joined.suspended)
    if offer.model_digest not in joined.models:
        raise RefusedError("model_not_admitted", "the policy does not admit that model here")
    _check_terms(offer, named, terms.policy_digest.hex(), configuration, previous)
    choices = len(choices_to_run(offer))
    if joined.slots_max and place.jobs + choices > joined.slots_max:
        if choices > joined.slots_max:
            raise RefusedError("too_many_choices", f"{joined.slots_max} jobs at once are admitted")
        raise RefusedError("busy", f"{place.jobs} jobs of that subcloud are running", 1.0)


def _version_named(joined: Joined, digest: str) -> SubcloudPolicy:
    if digest == joined.digest:
        return joined.policy
    if joined.previous is not None and digest == joined.previous_digest:
        return joined.previous
    raise RefusedError(
        "policy_unknown",
        f"the offer names another version of the policy than {joined.policy.version}",
        POLICY_RETRY_S,
    )


def _check_terms(
    offer: Offer,
    policy: SubcloudPolicy,
    digest: str,
    configuration: NetworkConfiguration,
    previous: NetworkConfiguration | None,
) -> None:
    for known in (configuration, previous):
        if known is None:
            continue
        model = model_of_digest(known, policy, offer.model_digest)
        if model is not None and subcloud_terms(known, policy, digest, model) == offer.terms:
            return
    raise RefusedError("price", "the terms differ from the configuration and the policy")
